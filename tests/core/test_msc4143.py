"""Sentences of MSC4143 for who reads slots and memberships, where several readers must agree on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.model import Slot
from rtcfoci.core.policies import DEPLOYED, STRICT, TOLERANT
from rtcfoci.core.session import Session

SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
OPEN = {"status": "open", "application": {"type": "m.call"}}


def members(room, policy, *events, slot=None):
    session = Session(slot or room.slot, room.dialects, policy=policy)
    for event in (room.presence("@u:hs"), *events):
        session.receive(event, room.now(event.received_ts_ms))
    return session.members


def slot_event(room, content, slot_id="m.call#ROOM"):
    return room.event(SLOT_TYPE, content, 10, state_key=slot_id)


@pytest.mark.parametrize("name", ["ROOM#2", "#", "side"])
def test_a_slot_id_is_compared_as_a_whole(room, name):
    place = Slot(room_id=room.slot.room_id, name=name)
    join = room.write(room.superset, "join", 1000, replace(room.own(), slot=place))
    opened = slot_event(room, OPEN, place.slot_id)
    assert len(members(room, STRICT, opened, join, slot=place)) == 1
    # Neither its first half nor its last makes it another slot's.
    assert members(room, TOLERANT, join) == ()
    board = Slot(room_id=room.slot.room_id, application="org.board", name=name)
    assert members(room, TOLERANT, join, slot=board) == ()


def test_a_sticky_key_that_is_not_the_member_id(room):
    join = room.write(room.superset, "join", 1000)
    keys = {"msc4354_sticky_key": "other", "sticky_key": "other"}
    differs = replace(join, content={**join.content, **keys})
    opened = slot_event(room, OPEN)
    # matrix-js-sdk 43 does not compare them.
    assert len(members(room, DEPLOYED, opened, differs)) == 1
    assert members(room, STRICT, opened, differs) == ()
    assert len(members(room, STRICT, opened, join)) == 1


@pytest.mark.parametrize("encryption", [{}, {"type": 7}, "m.per_member", None, []])
def test_an_encryption_that_cannot_be_read_closes_the_slot(room, encryption):
    opened = slot_event(room, {**OPEN, "encryption": encryption})
    join = room.write(room.superset, "join", 1000)
    assert members(room, STRICT, opened, join) == ()
    assert len(members(room, DEPLOYED, opened, join)) == 1
    encrypted = room.event("m.room.encryption", {}, 20, state_key="")
    sealed = replace(join, encrypted=True, encrypted_by_device_id="DEV")
    assert members(room, STRICT, encrypted, opened, sealed) == ()
