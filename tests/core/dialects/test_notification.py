"""Three generations of notifications and declines: what is written, what is read, what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.dialects.notification import (
    NOTIFICATION_TYPES,
    NOTIFY_TYPES,
    write_decline,
    write_notification,
)
from rtcfoci.core.problems import KINDS
from tests.core.ringing import ANN, BOB, US, House, T, codes, started


@pytest.fixture
def house(room):
    return House(room)


def test_what_we_write_starts_and_says_what_it_is(house):
    event = house.ring(**{"m.call.intent": "video"})
    found = started(house.take(event))
    assert (found.sender, found.slot_id, found.kind) == (ANN, "m.call#ROOM", "ring")
    assert (found.mentions_us, found.mentions_room, found.intent) == (True, False, "video")
    assert (found.event_id, found.room_id) == (event.event_id, "!room:hs")
    assert found.expires_ts_ms == T + 90_000
    assert house.bell.current == (found,)
    assert house.bell.next_timer_ts_ms == T + 90_000


@pytest.mark.parametrize("device_id", [None, "DEV"])
def test_one_that_was_encrypted_names_the_device(house, device_id):
    event = replace(house.ring(), encrypted=True, encrypted_by_device_id=device_id)
    assert started(house.take(event)).device_id == device_id


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
        ({"msc4354_sticky_key": "another", "sticky_key": None}, "sticky_key_mismatch"),
        ({"msc4354_sticky_key": 5}, "wrong_type"),
        ({"sticky_key": "other"}, "sticky_keys_differ"),
        ({"notification_type": 5}, "wrong_type"),
        ({"m.call.intent": []}, "wrong_type"),
        ({"slot_id": None, "m.relates_to": None}, "missing_field"),
        ({"slot_id": None, "m.relates_to": 5}, "wrong_type"),
        ({"slot_id": None, "m.relates_to": {"rel_type": "m.thread"}}, "bad_value"),
        ({"slot_id": None, "m.relates_to": {"rel_type": "m.annotation"}}, "bad_value"),
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


def test_an_intent_may_be_empty(house):
    assert started(house.take(house.ring(**{"m.call.intent": ""}))).intent == ""


def test_where_the_slot_is_named_the_relation_may_be_anything(house):
    assert started(house.take(house.ring(**{"m.relates_to": {"rel_type": []}}))).slot_id
