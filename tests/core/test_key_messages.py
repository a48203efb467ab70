"""Messages of media keys: what each field may be, and what is left open."""

from __future__ import annotations

import pytest

from rtcfoci.core.key_messages import KEY_TYPES, WRITTEN_KEY_TYPE, KeyMessage, KeyRefusal, read_key
from rtcfoci.core.model import Slot
from tests.core.keying import ANN, content
from tests.core.wire import off_the_wire

MSC = {"room_id": "!room:hs", "member_id": "i", "media_key": {"index": 3, "key": "k" * 43}}
MSC_TYPES = [kind for kind in KEY_TYPES if kind != WRITTEN_KEY_TYPE]


def read(message, kind=WRITTEN_KEY_TYPE):
    return read_key(off_the_wire(kind), off_the_wire(message))


@pytest.mark.parametrize("kind", MSC_TYPES)
@pytest.mark.parametrize("lacks", [None, "room_id", "member_id", "media_key"])
def test_what_the_msc_asks_for_is_needed(kind, lacks):
    found = read({key: value for key, value in MSC.items() if key != lacks}, kind)
    if lacks is None:
        assert isinstance(found, KeyMessage)
        assert (found.room_id, found.member_id, found.index) == ("!room:hs", "i", 3)
    else:
        assert found is KeyRefusal.MALFORMED


@pytest.mark.parametrize("lacks", ["room_id", "member", "keys"])
def test_what_deployed_clients_write_is_needed(lacks):
    found = read({key: value for key, value in content(ANN).items() if key != lacks})
    assert found in (KeyRefusal.MALFORMED, KeyRefusal.BAD_INDEX)


def test_a_member_id_may_be_left_out():
    found = read({**content(ANN), "member": {"claimed_device_id": "ANN"}})
    assert (found.member_id, found.device_id) == (None, "ANN")
    assert read({**content(ANN), "member": {"id": "i"}}) is KeyRefusal.MALFORMED


@pytest.mark.parametrize("name", ["AAA", "zoo"])
def test_another_slot_of_the_room_is_named(name):
    written = content(ANN, slot=Slot(room_id="!room:hs", name=name))
    assert written["session"]["call_id"] == name
    assert read(written).slot_id == f"m.call#{name}"


def test_another_application_is_named():
    session = {"application": "org.board", "call_id": ""}
    assert read({**content(ANN), "session": session}).slot_id == "org.board#"


def test_what_is_far_too_long_is_not_even_decoded():
    for length, refusal in ((128, KeyRefusal.BAD_KEY), (129, KeyRefusal.WRONG_LENGTH)):
        assert read({**content(ANN), "keys": {"index": 0, "key": "*" * length}}) is refusal


@pytest.mark.parametrize(("index", "taken"), [(0, True), (255, True), (256, False), (-1, False)])
def test_an_index_is_a_byte(index, taken):
    written = content(ANN)
    found = read({**written, "keys": {**written["keys"], "index": index}})
    assert (found.index == index) if taken else (found is KeyRefusal.BAD_INDEX)
