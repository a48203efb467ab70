"""Notifications: for whom they count, what ends them, and which of them goes on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rtcfoci.core.dialects.notification import DECLINE_TYPES
from rtcfoci.core.model import Slot
from rtcfoci.core.notifications import (
    NotificationDeclined,
    NotificationEnd,
    NotificationEnded,
    NotificationIgnored,
    NotificationStarted,
)
from tests.core.ringing import ANN, BOB, US, House, T, codes, ends, started

SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
OPEN = {"status": "open", "application": {"type": "m.call"}}
CLOSED = {"status": "closed", "application": {"type": "m.call"}}


@pytest.fixture
def house(room):
    return House(room)


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


def test_who_may_mention_the_room_is_told(house):
    assert not house.bell.power.may_mention_room(ANN)
    house.state("m.room.power_levels", {"users": {ANN: 50}})
    assert house.bell.power.may_mention_room(ANN)


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
    assert codes(house.take(house.ring(T + 10, BOB))) == ["left_since"]
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


def test_a_call_that_was_over_while_we_were_alone_in_it_does_not_ring_when_our_membership_ends(
    house,
):
    house.joins(US, sticky_ttl_ms=20_000)
    house.joins(ANN)
    assert codes(house.take(house.ring())) == ["already_joined"]
    house.leaves(ANN)
    house.joins(BOB, ts_ms=T + 1)
    assert house.wait(T + 20_000) == []


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


# What is others' or elsewhere.


@pytest.mark.parametrize("user", [ANN, BOB, "@zoe:hs"])
def test_who_declines_for_themselves_declines_for_nobody_else(house, user):
    house.take(house.room.presence(user, T))
    ring = house.ring(sender=BOB)
    found = started(house.take(ring))
    assert house.take(house.decline(ring, user)) == [NotificationDeclined(found, user)]
    assert house.bell.current == (found,)


@pytest.mark.parametrize("name", ["AAA", "ZZZ"])
def test_who_left_another_slot_is_rung(house, name):
    own = replace(house.room.own(US, "DEV", "us"), slot=Slot(room_id="!room:hs", name=name))
    house.take(house.room.write(house.room.superset, "leave", T + 10, own))
    started(house.take(house.ring(T + 9)))


def test_whose_membership_has_expired_did_not_leave(house):
    own = house.room.own(US, "DEV", "us")
    old = house.room.write(house.room.superset, "join", T - 7_200_000, own, received_ts_ms=T)
    house.take(old)
    started(house.take(house.ring(T + 1)))


@pytest.mark.parametrize("user", ["@aaa:hs", "@zoe:hs"])
def test_a_notification_hangs_on_its_senders_own_membership(house, user):
    house.take(house.room.presence(user, T))
    own = house.room.own(user, member_id="i")
    member = house.room.write(house.room.superset, "join", T, own)
    relation = {"rel_type": "m.reference", "event_id": member.event_id}
    ring = house.ring(slot_id=None, msc4354_sticky_key=None, sticky_key=None, sticky=False,
                      **{"m.relates_to": relation})  # fmt: skip
    # Whichever comes first.
    assert codes(house.take(ring)) == ["unknown_membership"]
    assert house.take(member) == []
    assert codes(house.take(replace(ring, event_id="$again"))) == ["unknown_membership"]


@pytest.mark.parametrize("event_id", ["$!", "$zzz"])
def test_a_notification_hangs_on_the_membership_that_it_names(house, event_id):
    house.joins(ANN)
    relation = {"rel_type": "m.reference", "event_id": event_id}
    ring = house.ring(slot_id=None, msc4354_sticky_key=None, sticky_key=None, sticky=False,
                      **{"m.relates_to": relation})  # fmt: skip
    assert codes(house.take(ring)) == ["unknown_membership"]


@pytest.mark.parametrize("user", [ANN, "@zoe:hs"])
def test_what_others_do_is_not_ours(house, user):
    house.take(house.room.presence(user, T))
    house.leaves(user, "A", T + 10)
    house.joins(user, "B", T + 10)
    house.leaves(user, "B", T + 11)
    assert started(house.take(house.ring(T + 9, user))).sender == user


@pytest.mark.parametrize("event_id", ["$!", "$zzz"])
def test_an_early_decline_is_of_one_notification(house, event_id):
    ring, other = house.ring(), house.ring()
    house.take(house.decline(replace(other, event_id=event_id), ANN))
    started(house.take(ring))
