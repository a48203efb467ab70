"""Slot events of both generations, read and written."""

from __future__ import annotations

import pytest

from rtcfoci.core.model import Slot, SlotStatus
from rtcfoci.core.slots import asks_encryption, close_slot, open_slot, read_slot

SLOT = Slot(room_id="!room:hs")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"status": "open", "application": {"type": "m.call"}}, SlotStatus.OPEN),
        ({"status": "closed", "application": {"type": "m.call"}}, SlotStatus.CLOSED),
        ({"status": 7, "application": {"type": "m.call"}}, SlotStatus.CLOSED),
        ({"status": "open", "application": {"type": "org.board"}}, SlotStatus.CLOSED),
        ({"status": "open", "application": {"type": 7}}, SlotStatus.CLOSED),
        ({"status": "open", "application": "m.call"}, SlotStatus.CLOSED),
        ({"status": "open"}, SlotStatus.CLOSED),
        ({"application": {"type": "m.call"}}, SlotStatus.OPEN),
        ({}, SlotStatus.CLOSED),
        ([], SlotStatus.CLOSED),
        (None, SlotStatus.CLOSED),
    ],
)
def test_read(content, status):
    assert read_slot(content, "m.call") is status


def test_without_an_application_in_mind_any_will_do():
    assert read_slot({"application": {"type": "org.board"}}) is SlotStatus.OPEN


def test_open_and_close():
    opened = open_slot(SLOT, room_encrypted=False)
    assert (opened.type, opened.state_key) == ("org.matrix.msc4143.rtc.slot", "m.call#ROOM")
    assert opened.content == {"status": "open", "application": {"type": "m.call"}}
    closed = close_slot(SLOT, current=opened.content)
    assert (closed.type, closed.state_key) == (opened.type, opened.state_key)
    assert closed.content == {"status": "closed", "application": {"type": "m.call"}}
    assert read_slot(opened.content, "m.call") is SlotStatus.OPEN
    assert read_slot(closed.content, "m.call") is SlotStatus.CLOSED
    assert close_slot(SLOT).content["application"] == {"type": "m.call"}


def test_what_we_do_not_know_stays():
    current = {"x": 1, "application": {"y": 2, "type": "old"}, "encryption": {"type": "theirs"}}
    encrypted = open_slot(SLOT, room_encrypted=True, current=current).content
    assert encrypted == {
        "x": 1,
        "status": "open",
        "application": {"y": 2, "type": "m.call"},
        "encryption": {"type": "theirs"},
    }
    assert asks_encryption(encrypted)
    clear = open_slot(SLOT, room_encrypted=False, current={**current, "application": 7}).content
    assert clear == {"x": 1, "status": "open", "application": {"type": "m.call"}}
    assert not asks_encryption(clear)


def test_an_encrypted_room_gets_per_member_keys():
    assert open_slot(SLOT, room_encrypted=True).content["encryption"] == {
        "type": "org.matrix.msc4143.per_member"
    }


@pytest.mark.parametrize(
    ("content", "asks"),
    [
        ({}, False),
        ([], False),
        ({"encryption": {"type": "m.per_member"}}, True),
        ({"encryption": {"type": "org.example.other", "more": 1}}, True),
        ({"encryption": {}}, None),
        ({"encryption": {"type": 7}}, None),
        ({"encryption": None}, None),
        ({"encryption": "m.per_member"}, None),
    ],
)
def test_what_slots_ask_of_members(content, asks):
    assert asks_encryption(content) is asks
