"""Notifications and declines: what counts, until when and why, and that strangers cannot abuse it."""

from __future__ import annotations

import itertools

import pytest

from rtcfoci.core.dialects.notification import (
    DECLINE_TYPES,
    NOTIFICATION_TYPES,
    NOTIFY_TYPES,
    read_notification,
    write_decline,
    write_notification,
)
from rtcfoci.core.notifications import (
    NotificationDeclined,
    NotificationEnd,
    NotificationEnded,
    NotificationIgnored,
    Notifications,
    NotificationStarted,
)
from rtcfoci.core.problems import KINDS
from rtcfoci.core.session import Session

US, ANN, BOB = "@us:hs", "@ann:hs", "@bob:hs"
T = 1_750_000_000_000
SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
OPEN = {"status": "open", "application": {"type": "m.call"}}
CLOSED = {"status": "closed", "application": {"type": "m.call"}}


class House:
    """A room with everybody in it, and what one of us is told of its calls."""

    def __init__(self, room, **options):
        self.room, self.at_ms, self.told = room, T, []
        self.session = Session(room.slot, room.dialects)
        self.bell = Notifications(self.session, user_id=US, device_id="US", **options)
        for user in (US, ANN, BOB):
            self.take(room.presence(user, T))
        self.told.clear()

    def take(self, event, at_ms=None):
        self.at_ms = max(self.at_ms, at_ms or event.received_ts_ms)
        now = self.room.now(self.at_ms)
        news = self.bell.receive(event, self.session.receive(event, now), now)
        self.told += news
        return list(news)

    def wait(self, at_ms):
        self.at_ms = at_ms
        now = self.room.now(at_ms)
        news = self.bell.handle_timer(now, self.session.handle_timer(now))
        self.told += news
        return list(news)

    def state(self, kind, content, key="", sender=ANN, ts_ms=T):
        return self.take(self.room.event(kind, content, ts_ms, sender, state_key=key))

    def joins(self, user, device="DEV", ts_ms=T, **more):
        own = self.room.own(user, device, f"{user}{device}")
        event = self.room.write(self.room.superset, "join", ts_ms, own, **more)
        self.take(event)
        return event

    def leaves(self, user, device="DEV", ts_ms=T):
        own = self.room.own(user, device, f"{user}{device}")
        return self.take(self.room.write(self.room.superset, "leave", ts_ms, own))

    def event(self, content, ts_ms=T, sender=ANN, kind=NOTIFICATION_TYPES[0], **more):
        return self.room.event(kind, content, ts_ms, sender, **more)

    def ring(self, ts_ms=T, sender=ANN, *, users=(US,), sticky=True, **changes):
        """The notification as we write it ourselves; a change to None leaves a field out."""
        written = write_notification(
            self.room.slot,
            membership_id="$member",
            user_ids=users,
            room=not users,
            kind="ring",
            sender_ts_ms=ts_ms,
            lifetime_ms=90_000,
        )
        content = {**written.content, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        duration_ms = written.sticky_duration_ms if sticky else None
        return self.event(content, ts_ms, sender, sticky_duration_ms=duration_ms)

    def decline(self, notification, sender=US, ts_ms=T, **more):
        written = write_decline(notification.event_id)
        return self.room.event(
            written.type, {**written.content, **more}, ts_ms, sender,
            sticky_duration_ms=written.sticky_duration_ms,
        )  # fmt: skip


@pytest.fixture
def house(room):
    return House(room)


def codes(news):
    """The codes of what was ignored; nothing else may have been told."""
    assert all(isinstance(item, NotificationIgnored) for item in news), news
    return [problem.code for item in news for problem in item.problems]


def ends(news):
    return [item.reason for item in news if isinstance(item, NotificationEnded)]


def started(news):
    assert [type(item) for item in news] == [NotificationStarted], news
    return news[0].notification


# The three generations.


def test_what_we_write_starts_and_says_what_it_is(house):
    event = house.ring(**{"m.call.intent": "video"})
    found = started(house.take(event))
    assert (found.sender, found.slot_id, found.kind) == (ANN, "m.call#ROOM", "ring")
    assert (found.mentions_us, found.mentions_room, found.intent) == (True, False, "video")
    assert (found.event_id, found.room_id) == (event.event_id, "!room:hs")
    assert found.expires_ts_ms == T + 90_000
    assert house.bell.current == (found,)
    assert house.bell.next_timer_ts_ms == T + 90_000


def test_what_is_written_has_what_each_reader_asks_for(room):
    event = write_notification(
        room.slot, membership_id="$m", user_ids=(ANN,), room=False, kind="notification",
        sender_ts_ms=T, lifetime_ms=30_000, intent="audio",
    )  # fmt: skip
    assert event.type == "org.matrix.msc4075.rtc.notification"
    assert event.sticky_duration_ms == 50_000
    assert event.content == {
        "slot_id": "m.call#ROOM",
        "m.mentions": {"user_ids": [ANN], "room": False},
        "notification_type": "notification",
        "m.relates_to": {"rel_type": "m.reference", "event_id": "$m"},
        "sender_ts": T,
        "lifetime": 30_000,
        "msc4354_sticky_key": "m.call#ROOM",
        "sticky_key": "m.call#ROOM",
        "m.call.intent": "audio",
    }
    assert write_decline("$n").content == {
        "m.relates_to": {"rel_type": "m.reference", "event_id": "$n"},
        "msc4354_sticky_key": "$n",
        "sticky_key": "$n",
    }


@pytest.mark.parametrize("kind", NOTIFICATION_TYPES)
def test_a_plain_one_of_2025_hangs_on_its_senders_membership(house, kind):
    member = house.joins(ANN)
    content = {
        "sender_ts": T, "lifetime": 30_000, "notification_type": "notification",
        "m.mentions": {"user_ids": [US]},
        "m.relates_to": {"rel_type": "m.reference", "event_id": member.event_id},
    }  # fmt: skip
    found = started(house.take(house.event(content, kind=kind)))
    assert (found.slot_id, found.kind) == ("m.call#ROOM", "notification")
    assert found.expires_ts_ms == T + 30_000


def test_a_membership_may_come_after_the_notification(house):
    own = house.room.own(ANN, member_id="a")
    member = house.room.write(house.room.superset, "join", T, own)
    relation = {"rel_type": "m.reference", "event_id": member.event_id}
    ring = house.ring(slot_id=None, msc4354_sticky_key=None, sticky_key=None, sticky=False,
                      **{"m.relates_to": relation})  # fmt: skip
    assert codes(house.take(ring)) == ["unknown_membership"]
    found = started(house.take(member))
    assert found.slot_id == "m.call#ROOM"


def test_a_membership_of_somebody_else_or_in_another_slot_is_none(house):
    theirs = house.joins(BOB)
    own = house.room.own(ANN, member_id="a")
    event = house.room.write(house.room.superset, "join", T, own)
    board = {**event.content, "slot_id": "org.board#ROOM", "application": {"type": "org.board"}}
    elsewhere = house.room.event(event.type, board, T, ANN, sticky_duration_ms=3_600_000)
    house.take(elsewhere)
    for member in (theirs, elsewhere):
        relation = {"rel_type": "m.reference", "event_id": member.event_id}
        ring = house.ring(slot_id=None, msc4354_sticky_key=None, sticky_key=None, sticky=False,
                          **{"m.relates_to": relation})  # fmt: skip
        assert codes(house.take(ring)) == ["unknown_membership"]


@pytest.mark.parametrize("kind", NOTIFY_TYPES)
def test_the_oldest_form_rings_for_ninety_seconds(house, kind):
    content = {"application": "m.call", "call_id": "", "notify_type": "notify",
               "m.mentions": {"user_ids": [US]}}  # fmt: skip
    found = started(house.take(house.event(content, kind=kind)))
    assert (found.slot_id, found.kind) == ("m.call#ROOM", "notification")
    assert found.expires_ts_ms == T + 90_000
    other = {**content, "call_id": "other"}
    assert codes(house.take(house.event(other, kind=kind))) == ["other_slot"]


def test_another_slot_is_another_slots_affair(house):
    ring = house.ring(slot_id="m.call#OTHER", msc4354_sticky_key="m.call#OTHER", sticky_key=None)
    assert codes(house.take(ring)) == ["other_slot"]
    assert house.bell.next_timer_ts_ms is None


# Malformed.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"m.mentions": None}, "missing_field"),
        ({"m.mentions": []}, "wrong_type"),
        ({"m.mentions": {}}, "bad_value"),
        ({"m.mentions": {"user_ids": []}}, "bad_value"),
        ({"m.mentions": {"room": "yes"}}, "wrong_type"),
        ({"m.mentions": {"user_ids": US}}, "wrong_type"),
        ({"m.mentions": {"user_ids": [US, 5]}}, "wrong_type"),
        ({"sender_ts": None}, "missing_field"),
        ({"sender_ts": "now"}, "wrong_type"),
        ({"sender_ts": -1}, "out_of_range"),
        ({"lifetime": None}, "missing_field"),
        ({"lifetime": 1.5}, "wrong_type"),
        ({"lifetime": True}, "wrong_type"),
        ({"lifetime": 2**60}, "out_of_range"),
        ({"lifetime": -1}, "out_of_range"),
        ({"slot_id": 7}, "wrong_type"),
        ({"slot_id": ""}, "missing_field"),
        ({"slot_id": "x" * 300}, "too_long"),
        ({"msc4354_sticky_key": "other", "sticky_key": None}, "sticky_key_mismatch"),
        ({"msc4354_sticky_key": 5}, "wrong_type"),
        ({"sticky_key": "other"}, "sticky_keys_differ"),
        ({"notification_type": 5}, "wrong_type"),
        ({"m.call.intent": []}, "wrong_type"),
        ({"slot_id": None, "m.relates_to": None}, "missing_field"),
        ({"slot_id": None, "m.relates_to": 5}, "wrong_type"),
        ({"slot_id": None, "m.relates_to": {"rel_type": "m.thread"}}, "bad_value"),
    ],
)
def test_what_is_wrong_with_one_is_said(house, change, code):
    assert code in codes(house.take(house.ring(**change)))
    assert house.bell.current == ()


def test_every_problem_is_told_and_is_published(house):
    ring = house.ring(**{"m.mentions": None, "sender_ts": None, "lifetime": "x"})
    found = codes(house.take(ring))
    assert sorted(found) == ["missing_field", "missing_field", "wrong_type"]
    assert set(found) <= set(KINDS)


def test_what_nobody_knows_of_a_kind_is_left_to_the_receiver(house):
    assert started(house.take(house.ring(notification_type=None))).kind is None
    other = house.ring(T + 1, BOB, notification_type="org.example.whisper")
    assert started(house.take(other)).kind is None


def test_where_the_slot_is_named_the_relation_may_be_anything(house):
    assert started(house.take(house.ring(**{"m.relates_to": {"rel_type": []}}))).slot_id


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


def test_one_that_is_no_longer_sticky_is_over(house):
    content = house.ring().content
    ring = house.event(content, sticky_duration_ms=10_000)
    assert started(house.take(ring)).expires_ts_ms == T + 10_000


def test_one_whose_time_is_over_never_starts(house):
    ring = house.event(house.ring(T - 90_000).content, T - 90_000, received_ts_ms=T)
    assert codes(house.take(ring)) == ["expired"]


# For whom.


def test_for_others_is_not_for_us(house):
    assert codes(house.take(house.ring(users=(BOB,)))) == ["not_mentioned"]


def test_our_own_is_not_for_us(house):
    assert codes(house.take(house.ring(sender=US))) == ["own_event"]


@pytest.mark.parametrize(
    ("levels", "heard"),
    [
        ({}, False),
        ({"users": {ANN: 50}}, True),
        ({"users": {ANN: 49}}, False),
        ({"users_default": 50}, True),
        ({"users": {ANN: 10}, "notifications": {"room": 10}}, True),
        ({"users": {ANN: "50"}}, True),
        ({"users": {ANN: True}}, False),
        ({"users": [], "notifications": []}, False),
        ({"users": {ANN: 10**400}}, True),
    ],
)
def test_the_whole_room_is_mentioned_with_power_alone(house, levels, heard):
    house.state("m.room.power_levels", {"events": {}, **levels})
    news = house.take(house.ring(users=()))
    if heard:
        assert started(news).mentions_room
    else:
        assert codes(news) == ["not_mentioned"]


@pytest.mark.parametrize(
    ("create", "levels", "heard"),
    [
        ({"room_version": "11"}, None, True),
        ({"room_version": "11"}, {"users": {BOB: 100}}, False),
        ({"room_version": "12"}, {"users": {BOB: 100}}, True),
        ({"room_version": "9" * 5000}, {"users": {BOB: 100}}, False),
        ({"room_version": 12, "additional_creators": 5}, {"users": {BOB: 100}}, False),
    ],
)
def test_a_creator_has_power_by_its_room_version(house, create, levels, heard):
    house.state("m.room.create", create)
    if levels is not None:
        house.state("m.room.power_levels", levels)
    news = house.take(house.ring(users=()))
    assert isinstance(news[0], NotificationStarted if heard else NotificationIgnored)


def test_power_that_comes_later_is_heard_and_power_that_goes_ends_it(house):
    assert codes(house.take(house.ring(users=()))) == ["not_mentioned"]
    started(house.state("m.room.power_levels", {"users": {ANN: 50}}))
    news = house.state("m.room.power_levels", {"users": {ANN: 0}})
    assert ends(news) == [NotificationEnd.REFUSED]


def test_of_somebody_who_is_not_in_the_room_none_counts(house):
    assert codes(house.take(house.ring(sender="@mallory:hs"))) == ["sender_not_joined"]
    started(house.take(house.ring()))
    gone = house.take(house.room.presence(ANN, T, "leave"))
    assert ends(gone) == [NotificationEnd.REFUSED]


# The slot.


def test_a_closed_slot_is_silent_and_closing_it_ends_a_call(house):
    house.state(SLOT_TYPE, CLOSED, "m.call#ROOM")
    assert codes(house.take(house.ring())) == ["slot_closed"]
    started(house.state(SLOT_TYPE, OPEN, "m.call#ROOM"))
    assert ends(house.state(SLOT_TYPE, CLOSED, "m.call#ROOM")) == [NotificationEnd.SLOT]
    assert house.state(SLOT_TYPE, OPEN, "m.call#ROOM") == []  # once is enough


def test_a_room_without_a_slot_rings_unless_one_is_required(room):
    started(House(room).take(House(room).ring()))
    strict = House(room, requires_slot=True)
    assert codes(strict.take(strict.ring())) == ["slot_absent"]
    started(strict.state(SLOT_TYPE, OPEN, "m.call#ROOM"))


# Ourselves.


def test_who_is_in_the_call_is_not_rung(house):
    house.joins(US)
    assert codes(house.take(house.ring())) == ["already_joined"]


@pytest.mark.parametrize(
    ("device", "reason"),
    [("US", NotificationEnd.ANSWERED), ("OTHER", NotificationEnd.ANSWERED_ELSEWHERE)],
)
def test_joining_answers_it(house, device, reason):
    started(house.take(house.ring()))
    house.told.clear()
    house.joins(US, device, T + 1)
    assert ends(house.told) == [reason]
    house.leaves(US, device, T + 2)
    assert house.bell.current == ()  # it does not start again


def test_who_left_since_is_not_rung(house):
    house.joins(US, ts_ms=T)
    assert codes(house.take(house.ring(T + 5))) == ["already_joined"]
    assert house.leaves(US, ts_ms=T + 10) == []
    assert codes(house.take(house.ring(T + 9, BOB))) == ["left_since"]
    started(house.take(house.ring(T + 11, BOB)))


def test_a_leave_that_we_did_not_see_happen_counts_as_well(house):
    """Only its tombstone is left for a device that starts anew."""
    house.leaves(US, ts_ms=T + 10)
    assert codes(house.take(house.ring(T + 9))) == ["left_since"]
    started(house.take(house.ring(T + 11)))


def test_declining_ends_it_wherever_it_was_done(house):
    ring = house.ring()
    found = started(house.take(ring))
    news = house.take(house.decline(ring))
    assert news == [
        NotificationDeclined(found, US),
        NotificationEnded(found, NotificationEnd.DECLINED),
    ]


def test_a_decline_may_overtake_what_it_declines(house):
    ring = house.ring()
    assert house.take(house.decline(ring)) == []
    news = house.take(ring)
    assert [type(item) for item in news] == [NotificationIgnored, NotificationDeclined]
    assert codes(news[:1]) == ["declined"]


@pytest.mark.parametrize("kind", DECLINE_TYPES)
def test_declines_of_ours_are_told_once_a_user(house, kind):
    ring = house.ring(sender=US, users=(ANN, BOB))
    house.take(ring)
    told = []
    for user in (ANN, BOB, ANN):
        event = house.decline(ring, user)
        told += house.take(house.event(event.content, T, user, kind=kind))
    assert [item.user_id for item in told] == [ANN, BOB]
    assert {item.notification.event_id for item in told} == {ring.event_id}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({}, "missing_field"),
        ({"m.relates_to": []}, "wrong_type"),
        ({"m.relates_to": {"rel_type": "m.thread", "event_id": "$x"}}, "bad_value"),
        ({"m.relates_to": {"rel_type": "m.reference"}}, "missing_field"),
        (
            {"m.relates_to": {"rel_type": "m.reference", "event_id": "$x"}, "sticky_key": "$y"},
            "sticky_key_mismatch",
        ),
        ([], "wrong_type"),
    ],
)
def test_what_is_wrong_with_a_decline_is_said(house, content, code):
    assert codes(house.take(house.event(content, kind=DECLINE_TYPES[0]))) == [code]


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


# The end of a call.


def test_a_call_that_is_over_rings_no_more(house):
    house.joins(ANN)
    house.joins(BOB)
    started(house.take(house.ring()))
    assert house.leaves(ANN) == []  # Bob is still in it
    assert ends(house.leaves(BOB)) == [NotificationEnd.CALL_OVER]


def test_a_call_that_expires_is_over(house):
    house.joins(ANN, sticky_ttl_ms=20_000)
    started(house.take(house.ring()))
    assert ends(house.wait(T + 20_000)) == [NotificationEnd.CALL_OVER]


def test_who_rings_before_being_seen_in_the_call_rings(house):
    started(house.take(house.ring()))
    house.told.clear()
    house.joins(ANN)
    assert house.told == []


# Whatever order.


def test_the_order_in_which_events_come_does_not_matter(room):
    def play(order):
        house = House(room)
        own = room.own(ANN, member_id="a")
        member = room.write(room.superset, "join", T, own, event_id="$member")
        relation = {"rel_type": "m.reference", "event_id": "$member"}
        events = [
            member,
            room.event("m.room.power_levels", {"users": {ANN: 50}}, T, ANN, state_key=""),
            room.event(SLOT_TYPE, OPEN, T, ANN, state_key="m.call#ROOM"),
            house.event(house.ring(users=(), slot_id=None, msc4354_sticky_key=None, sticky_key=None,
                                   **{"m.relates_to": relation}).content, event_id="$ring"),
        ]  # fmt: skip
        strict = House(room, requires_slot=True)
        for index in order:
            strict.take(events[index])
        return [n.event_id for n in strict.bell.current]

    assert {tuple(play(order)) for order in itertools.permutations(range(4))} == {("$ring",)}


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


def test_one_ends_while_another_goes_on(house):
    first, later = house.ring(), house.ring(T + 30_000, BOB)
    started(house.take(first))
    still = started(house.take(later))
    assert ends(house.wait(T + 90_000)) == [NotificationEnd.EXPIRED]
    assert house.bell.current == (still,)


def test_who_may_mention_the_room_is_told(house):
    assert not house.bell.power.may_mention_room(ANN)
    house.state("m.room.power_levels", {"users": {ANN: 50}})
    assert house.bell.power.may_mention_room(ANN)
