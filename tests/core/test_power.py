"""Power levels: who may do what, whatever the room's state holds."""

import pytest

from rtcfoci.core.power import RoomPower, required_power, user_power

LEVELS = "m.room.power_levels"


@pytest.mark.parametrize(
    ("levels", "needed"),
    [({}, 0), ({"state_default": 30}, 30), ({"users": {}}, 50), ({"events": {"x": 7}}, 7)],
)
def test_what_sending_state_needs(levels, needed):
    assert required_power(levels, "x", state=True) == needed


@pytest.mark.parametrize(
    ("levels", "needed"),
    [({}, 0), ({"events_default": 10, "state_default": 30}, 10), ({"events": {"x": "7"}}, 7)],
)
def test_what_sending_a_message_needs(levels, needed):
    assert required_power(levels, "x", state=False) == needed


@pytest.mark.parametrize("level", ["much", True, None, 1.5, [], "9" * 5000])
def test_what_is_no_level_is_not_there(level):
    assert user_power({"users": {"@a:hs": level}, "users_default": 3}, "@a:hs") == 3
    assert user_power({"users": [], "users_default": level}, "@a:hs") == 0


def test_a_level_beyond_json_is_the_highest():
    assert user_power({"users": {"@a:hs": 10**30}}, "@a:hs") == 2**53 - 1
    assert user_power({"users": {"@a:hs": -(10**30)}}, "@a:hs") == 1 - 2**53


def test_what_is_no_state_of_the_room_changes_nothing(room):
    power = RoomPower()
    for key in ({}, {"state_key": "other"}):
        assert power.after(room.event(LEVELS, {"users_default": 9}, 0, **key)) is power
    for kind in ("m.room.avatar", "m.room.topic"):
        assert power.after(room.event(kind, {"room_version": "12"}, 0, state_key="")) is power
    assert power.after(room.event(LEVELS, {"users_default": 9}, 0, state_key="")).of("@a:hs") == 9


def test_without_its_creation_nobody_stands_above_the_levels(room):
    assert RoomPower(creators=frozenset({"@a:hs"})).of("@a:hs") == 100


@pytest.mark.parametrize(
    ("version", "power"),
    [
        ("11", 100),
        ("12", float("inf")),
        ("13", float("inf")),
        ("9" * 9, float("inf")),
        ("9" * 10, 100),  # no version that we could count
        ("next", 100),
        (12, 100),
    ],
)
def test_a_creator(room, version, power):
    content = {"room_version": version, "additional_creators": ["@b:hs", 7]}
    event = room.event("m.room.create", content, 0, "@a:hs", state_key="")
    made = RoomPower().after(event)
    assert made.of("@a:hs") == made.of("@b:hs") == power
    assert made.of("@c:hs") == 0
    levels = made.after(room.event(LEVELS, {"users": {"@a:hs": 5}}, 0, state_key=""))
    assert levels.of("@a:hs") == (power if power > 100 else 5)
