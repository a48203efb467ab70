"""What the core takes and gives are values: nobody changes one that somebody else holds too."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import rtcfoci.core
from rtcfoci.core.model import Member, Membership, Transport

MODULES = [found.name for found in pkgutil.walk_packages(rtcfoci.core.__path__, "rtcfoci.core.")]
CLASSES = {
    f"{module}.{name}".removeprefix("rtcfoci.core."): found
    for module in MODULES
    for name, found in vars(importlib.import_module(module)).items()
    if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module
}
# Their fields have an order of their own: before and after, who and what, which and when.
ORDERED = {
    "dialects.sticky.Said",
    "diffs.EventIgnored",
    "diffs.MemberChanged",
    "diffs.MemberRefreshed",
    "notifications.NotificationIgnored",
    "problems.ProblemKind",
    "sticky.StickyEntry",
}


def is_private(name):
    return name.rpartition(".")[2].startswith("_")


def test_who_holds_a_value_need_not_fear_that_it_changes():
    for name, found in CLASSES.items():
        flags = found.__dataclass_params__
        # What a machine keeps for itself may change; then it equals nothing but itself.
        assert flags.frozen is flags.eq, name
        assert flags.frozen or is_private(name), name
        # Nothing can be added to one, and thousands are held.
        assert "__dict__" not in dir(found), name


def test_fields_that_could_be_swapped_are_named():
    for name in CLASSES.keys() - ORDERED:
        by_position = [part.type for part in dataclasses.fields(CLASSES[name]) if not part.kw_only]
        if not is_private(name):
            assert len(set(by_position)) == len(by_position) < 3, name
        # What is asked of a driver, and what it answers, is long-lived: fields are added.
        if name.startswith(("effects.", "key_effects.")):
            assert by_position == [], name


def test_transports_can_be_told_apart_and_be_keys():
    here, there = [Transport("x", {"type": "x", "place": place}) for place in ("here", "there")]
    assert {here: 1, there: 2}[Transport("x", {"type": "x", "place": "here"})] == 1


def test_what_travels_in_an_extension_is_not_where_everybody_looks(room):
    kinds = [Transport(name, {"type": name}) for name in ("a", "b", "c", "d")]
    for extended in range(5):
        membership = room.membership(transports=tuple(kinds), extended=extended)
        assert list(membership.published) == kinds[: 4 - extended]


def test_members_have_an_order_of_user_device_and_member_id(room):
    members = [
        Member(user_id=user, device_id=device, member_id=member_id)
        for user in ("@a:hs", "@b:hs")
        for device in (None, "A", "B")
        for member_id in ("1", "2")
    ]
    assert sorted(set(members), key=lambda member: member.order) == members


def test_a_membership_is_in_clear_and_whole_unless_it_is_said_otherwise(room):
    made = {part.name: part.default for part in dataclasses.fields(Membership)}
    assert (made["encrypted"], made["extended"], made["claims"]) == (False, 0, None)
