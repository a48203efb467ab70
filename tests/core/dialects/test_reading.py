"""Careful reading: what is taken out of an object, which problem is told of what place, what is left."""

import pytest

from rtcfoci.core.dialects.reading import Known, Reading, is_shallow, same_object
from rtcfoci.core.model import Transport
from rtcfoci.errors import Problem

HALF = "\ud800"
LARGEST = 2**53 - 1


@pytest.mark.parametrize("text", ["x", "x" * 255, "é", "é" * 255])
def test_an_identifier_has_up_to_255_characters(text):
    reading = Reading()
    assert reading.string({"id": text}, "id") == text
    assert reading.transports({"foci": [{"type": text}]}, "foci") == (
        Transport(text, {"type": text}),
    )
    assert reading.problems == []


@pytest.mark.parametrize(
    ("take", "value", "code", "complaint"),
    [
        ("string", 7, "wrong_type", "is not a string"),
        ("string", None, "wrong_type", "is not a string"),
        ("string", "x" * 256, "too_long", "is longer than 255 characters"),
        ("string", "é" * 256, "too_long", "is longer than 255 characters"),
        ("string", HALF, "bad_unicode", "is not valid Unicode"),
        ("string", HALF + "x" * 254, "bad_unicode", "is not valid Unicode"),
        ("string", "", "missing_field", "is missing"),
        ("text", 7, "wrong_type", "is not a string"),
        ("mapping", [], "wrong_type", "is not an object"),
        ("transports", [{}], "bad_transport", "has an item without a type"),
        ("transports", [{"type": "x" * 256}], "bad_transport", "has an item without a type"),
        ("strings", [7], "wrong_type", "has an item that is not a string"),
        ("items", {}, "wrong_type", "is not an array"),
        ("items", [0] * 33, "too_many_items", "has more than 32 items"),
    ],
)
@pytest.mark.parametrize(("name", "place"), [("", "id"), ("member.id", "member.id")])
def test_a_wrong_value_is_told_with_its_place(take, value, code, complaint, name, place):
    reading = Reading("memberships[0].")
    assert not getattr(reading, take)({"id": value}, "id", name)
    assert reading.problems == [Problem(code, f"memberships[0].{place} {complaint}")]


@pytest.mark.parametrize("take", ["string", "text", "mapping"])
@pytest.mark.parametrize(("name", "place"), [("", "id"), ("member.id", "member.id")])
def test_what_is_missing_is_told_only_where_it_is_required(take, name, place):
    for required in (False, True):
        reading = Reading("memberships[0].")
        assert getattr(reading, take)({}, "id", name, required=required) is None
        told = [Problem("missing_field", f"memberships[0].{place} is missing")]
        assert reading.problems == (told if required else [])


@pytest.mark.parametrize(
    ("value", "signed", "read", "least"),
    [
        (0, False, 0, None),
        (7.0, False, 7, None),
        (LARGEST, False, LARGEST, None),
        (-1, True, -1, None),
        (-LARGEST, True, -LARGEST, None),
        (-1, False, None, "0"),
        (LARGEST + 1, False, None, "0"),
        (-LARGEST - 1, True, None, "-2^53 + 1"),
    ],
)
def test_an_integer_is_one_of_canonical_json(value, signed, read, least):
    reading = Reading("memberships[0].")
    assert reading.integer({"expires": value}, "expires", signed=signed) == read
    complaint = f"memberships[0].expires is not within {least} and 2^53 - 1"
    assert reading.problems == ([Problem("out_of_range", complaint)] if least else [])


@pytest.mark.parametrize("value", [True, 1.5, "7", None, []])
def test_what_is_no_integer_is_told(value):
    reading = Reading("memberships[0].")
    assert reading.integer({"expires": value}, "expires") is None
    complaint = "memberships[0].expires is not an integer"
    assert reading.problems == [Problem("wrong_type", complaint)]


def test_an_array_has_up_to_32_items():
    reading = Reading()
    assert reading.items({"foci": [0] * 32}, "foci") == [0] * 32
    assert reading.problems == []


def test_of_many_problems_the_first_16_are_kept():
    reading = Reading()
    for n in range(20):
        reading.missing(f"x{n}")
    assert [problem.message for problem in reading.problems] == [
        f"x{n} is missing" for n in range(16)
    ]


@pytest.mark.parametrize(("levels", "fits"), [(1, True), (32, True), (33, False), (5000, False)])
def test_an_event_is_nested_up_to_32_levels(levels, fits):
    deep: list[object] = []
    for _ in range(levels - 2):
        deep = [deep]
    assert is_shallow({"x": deep} if levels > 1 else {}) is fits


@pytest.mark.parametrize(
    ("event", "unknown"),
    [
        ({}, {}),
        ({"slot_id": 1}, {}),
        ({"slot_id": 1, "member": {"id": 1}}, {}),
        ({"member": {}}, {}),
        ({"member": {"id": 1, "device_id": 1}}, {}),
        ({"member": "of another type"}, {}),
        ({"x": 1}, {"x": 1}),
        ({"slot_id": 1, "member": {}, "x": 1}, {"x": 1}),
        ({"member": {"y": 1}}, {"member": {"y": 1}}),
        ({"member": {"id": 1, "y": 1}, "x": 1}, {"member": {"y": 1}, "x": 1}),
        ({"member": {"id": 1, "device_id": 1, "y": 1}}, {"member": {"y": 1}}),
    ],
)
def test_what_a_dialect_does_not_know_is_kept(event, unknown):
    more = Known("slot_id", member=("id", "device_id")).more(event)
    assert more == unknown
    if not unknown:
        assert more is same_object()  # a thousand members keep it once
