"""Notifications: until when one counts, and what takes its place; that strangers cannot abuse it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rtcfoci.core import notifications
from rtcfoci.core.dialects.notification import (
    DECLINE_TYPES,
    NOTIFICATION_TYPES,
    NOTIFY_TYPES,
    read_notification,
)
from rtcfoci.core.notifications import (
    NotificationEnd,
    NotificationEnded,
    NotificationIgnored,
    NotificationStarted,
)
from rtcfoci.core.problems import KINDS
from tests.core.ringing import ANN, BOB, US, House, T, codes, ends, started


@pytest.fixture
def house(room):
    return House(room)


# Until when.


@pytest.mark.parametrize(
    ("sender_ts_ms", "lifetime_ms", "expires_ts_ms"),
    [
        (T, 30_000, T + 30_000),
        (T, 500_000, T + 120_000),
        (T - 60_000, 90_000, T + 30_000),
        (T + 20_000, 50_000, T + 70_000),
        (T + 20_001, 50_000, T + 50_000),
        (T + 20_000, 120_000, T + 120_000),
        (T + 10**12, 120_000, T + 120_000),
    ],
)
def test_the_lifetime_begins_where_the_rules_say(house, sender_ts_ms, lifetime_ms, expires_ts_ms):
    ring = house.ring(sender_ts=sender_ts_ms, lifetime=lifetime_ms, sticky=False)
    assert started(house.take(ring)).expires_ts_ms == expires_ts_ms
    assert house.wait(expires_ts_ms - 1) == []
    assert ends(house.wait(expires_ts_ms)) == [NotificationEnd.EXPIRED]
    assert house.bell.next_timer_ts_ms is None


def test_a_server_in_the_future_gains_nothing(house):
    content = {**house.ring().content, "sender_ts": T + 10**9}
    ring = house.event(content, T + 10**9, received_ts_ms=T)
    assert started(house.take(ring)).expires_ts_ms == T + 120_000


def test_one_does_not_come_back_from_the_dead(house):
    """A device that starts anew is given sticky events by its server, with the time they have left."""
    content = {**house.ring().content, "sender_ts": T + 10**9}
    ring = house.event(
        content, T + 10**9, received_ts_ms=T + 600_000,
        sticky_duration_ms=3_600_000, sticky_ttl_ms=3_000_000,
    )  # fmt: skip
    assert codes(house.take(ring)) == ["expired"]


def test_one_that_was_kept_for_us_counts_from_when_our_server_had_it(house):
    content = {**house.ring().content, "sender_ts": T + 10**9}
    ring = house.event(
        content, T + 10**9, received_ts_ms=T + 60_000,
        sticky_duration_ms=3_600_000, sticky_ttl_ms=3_540_000,
    )  # fmt: skip
    assert started(house.take(ring)).expires_ts_ms == T + 120_000


def test_one_that_is_no_longer_sticky_is_over(house):
    ring = house.event(house.ring().content, sticky_duration_ms=10_000)
    assert started(house.take(ring)).expires_ts_ms == T + 10_000


def test_a_remaining_time_alone_makes_none_sticky(house):
    ring = house.event(house.ring().content, sticky_ttl_ms=10_000)
    assert started(house.take(ring)).expires_ts_ms == T + 90_000


def test_one_whose_time_is_over_never_starts(house):
    ring = house.event(house.ring(T - 90_000).content, T - 90_000, received_ts_ms=T)
    assert codes(house.take(ring)) == ["expired"]


def test_one_ends_while_another_goes_on(house):
    first, later = house.ring(), house.ring(T + 30_000, BOB)
    started(house.take(first))
    still = started(house.take(later))
    assert ends(house.wait(T + 90_000)) == [NotificationEnd.EXPIRED]
    assert house.bell.current == (still,)


# Later ones.


def test_a_later_sticky_one_takes_the_place_of_the_former(house):
    started(house.take(house.ring()))
    news = house.take(house.ring(T + 10))
    assert ends(news) == [NotificationEnd.REPLACED]
    assert [type(item) for item in news] == [NotificationEnded, NotificationStarted]
    assert len(house.bell.current) == 1
    late = house.event(house.ring(T + 5).content, T + 5, sticky_duration_ms=110_000)
    assert codes(house.take(late)) == ["superseded"]


def test_a_later_one_for_others_takes_its_place_as_well(house):
    started(house.take(house.ring()))
    news = house.take(house.ring(T + 10, users=(BOB,)))
    assert ends(news) == [NotificationEnd.REPLACED]
    assert house.bell.current == ()


def test_a_later_one_that_cannot_be_read_takes_its_place_as_well(house):
    started(house.take(house.ring()))
    news = house.take(house.ring(T + 10, **{"m.mentions": 5}))
    assert ends(news) == [NotificationEnd.REPLACED]


@pytest.mark.parametrize("keys", [("msc4354_sticky_key",), ("msc4354_sticky_key", "sticky_key")])
def test_a_withdrawn_one_is_over(house, keys):
    started(house.take(house.ring()))
    content = dict.fromkeys(keys, "m.call#ROOM")
    news = house.take(house.event(content, T + 5, sticky_duration_ms=110_000))
    assert [item.reason for item in news] == [NotificationEnd.WITHDRAWN]
    again = house.event(house.ring(T + 1).content, T + 1, sticky_duration_ms=110_000)
    assert codes(house.take(again)) == ["withdrawn"]


@pytest.mark.parametrize("slot_id", ["m.call#AAA", "m.call#ZZZ"])
def test_one_of_another_slot_takes_nobodys_place(house, slot_id):
    found = started(house.take(house.ring()))
    other = house.ring(T + 10, slot_id=slot_id, msc4354_sticky_key=slot_id, sticky_key=slot_id)
    assert codes(house.take(other)) == ["other_slot"]
    assert house.bell.current == (found,)


def test_plain_ones_stand_for_themselves(house):
    first = started(house.take(house.ring(sticky=False)))
    second = started(house.take(house.ring(T + 1, sticky=False)))
    assert house.bell.current == (first, second)


def test_a_redacted_one_is_over_and_may_be_redacted_before_it_comes(house):
    ring = house.ring()
    started(house.take(ring))
    redaction = house.event({}, T, kind="m.room.redaction", redacts=ring.event_id)
    assert ends(house.take(redaction)) == [NotificationEnd.WITHDRAWN]
    early = house.ring(T + 1)
    house.take(house.event({}, T, kind="m.room.redaction", redacts=early.event_id))
    assert house.take(early) == []


def test_the_same_event_twice_rings_once(house):
    ring = house.ring()
    started(house.take(ring))
    assert house.take(ring) == []
    house.take(house.decline(ring))
    assert house.take(ring) == []


def test_a_key_that_is_not_the_slots_is_refused(house):
    member = house.joins(ANN)
    relation = {"rel_type": "m.reference", "event_id": member.event_id}
    ring = house.ring(slot_id=None, msc4354_sticky_key="other", sticky_key="other",
                      **{"m.relates_to": relation})  # fmt: skip
    assert codes(house.take(ring)) == ["sticky_key_mismatch"]


# Strangers.

JUNK = (None, True, -1, 2**60, 1.5, "", "x" * 100_000, "\ud800", [], [None], {}, {"a": {}})


def test_nothing_that_a_stranger_writes_raises(house):
    shapes = [house.ring().content, house.decline(house.ring()).content]
    kinds = (*NOTIFICATION_TYPES, *NOTIFY_TYPES, *DECLINE_TYPES)
    notify = {"application": "m.call", "call_id": "", "notify_type": "ring", "m.mentions": {}}
    count = 0
    for kind, shape in itertools.product(kinds, [*shapes, notify]):
        for key, junk in itertools.product([*shape, "m.call.intent"], JUNK):
            for sticky in (None, 0, 10**18):
                event = house.event({**shape, key: junk}, kind=kind, sticky_duration_ms=sticky)
                for item in house.take(event):
                    for problem in getattr(item, "problems", ()):
                        assert problem.code in KINDS
                count += 1
    for junk in JUNK:
        for kind in kinds:
            house.take(house.event(junk, kind=kind))
    assert count > 1000
    assert len(house.bell._held) <= 64


def test_a_flood_is_bounded_and_forgotten(house):
    bell = house.bell
    for number in range(300):
        user = f"@m{number}:hs"
        house.take(house.room.presence(user, T))
        for _ in range(10):
            house.take(house.ring(sender=user, sticky=False))
        house.take(house.decline(house.ring(), sender=user))
        house.take(house.decline(house.ring()))
        house.take(house.event({}, kind="m.room.redaction", redacts=f"$x{number}"))
    assert len(bell.current) <= 64
    assert len(bell._held) <= 64
    for held in (bell._declined, bell._early_declines, bell._early_redactions):
        assert len(held) <= 256
    assert max(bell._of_sender.values()) <= 4
    assert any("too_many" in [p.code for p in getattr(n, "problems", ())] for n in house.told)
    house.wait(T + 120_000)
    assert bell.current == ()
    assert len(bell._held) == len(bell._of_sender) == 0
    started(house.take(house.ring(T + 120_000)))


@pytest.mark.parametrize(("later", "remembered"), [(255, True), (256, False)])
def test_as_many_early_declines_are_remembered_as_there_is_room_for(house, later, remembered):
    ring = house.ring()
    house.take(house.decline(ring))
    for number in range(later):
        house.take(house.decline(replace(ring, event_id=f"$later{number}")))
    assert isinstance(house.take(ring)[0], NotificationIgnored) == remembered


def test_so_many_who_decline_are_told(house, monkeypatch):
    monkeypatch.setattr(notifications, "_MAX_DECLINERS", 300)
    ring = house.ring(sender=US, users=())
    house.take(ring)
    told = [item for n in range(302) for item in house.take(house.decline(ring, f"@u{n}:hs"))]
    assert len(told) == 300


def test_notifications_for_others_make_room(house):
    for number in range(100):
        house.take(house.room.presence(f"@m{number}:hs", T))
        house.take(house.ring(sender=f"@m{number}:hs", users=(BOB,)))
    started(house.take(house.ring()))


def test_a_sender_who_rings_on_replaces_its_own(house):
    rings = [house.ring(T + n, sticky=False) for n in range(6)]
    news = [item for ring in rings for item in house.take(ring)]
    assert ends(news) == [NotificationEnd.REPLACED] * 2
    assert len(house.bell.current) == 4


def test_reading_is_linear_in_the_number_of_users(room):
    many = [f"@u{n}:hs" for n in range(9000)] + [US]
    event = House(room).ring(users=many)
    assert read_notification(event, "!room:hs", US).mentions_us
    more = House(room).ring(users=[*many, *many])
    assert read_notification(more, "!room:hs", US).problems[0].code == "too_many_items"
