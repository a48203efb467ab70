"""The wire generations, read from hand-written vectors and from anything at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.dialects import (
    MAX_DEPTH,
    MAX_PROBLEMS,
    Leave,
    Problems,
    is_shallow,
    parse_event,
)
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Membership, RoomEvent

VECTORS = json.loads((Path(__file__).parent / "vectors" / "dialects.json").read_text())
DIALECTS = (D2(), D3(), Superset())
ROOM = VECTORS["room_id"]


def event_of(case, **changes):
    case = {**case, **changes}
    encrypted_by = case.get("encrypted_by")
    return RoomEvent(
        type=case["type"],
        sender=VECTORS["sender"],
        content=case["content"],
        event_id="$e",
        origin_server_ts_ms=VECTORS["origin_server_ts_ms"],
        received_ts_ms=VECTORS["origin_server_ts_ms"] + 5,
        state_key=case.get("state_key"),
        sticky_duration_ms=case.get("sticky_duration_ms"),
        encrypted=encrypted_by is not None,
        encrypted_by_device_id=encrypted_by,
    )


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vector(case):
    event, expect = event_of(case), case["expect"]
    membership = parse_event(DIALECTS, event, ROOM)
    assert isinstance(membership, Membership), membership
    assert {
        "dialect": membership.dialect,
        "slot_id": membership.slot_id,
        "member_id": membership.member.member_id,
        "device_id": membership.member.device_id,
        "types": [transport.type for transport in membership.transports],
        "can_subscribe": membership.can_subscribe and list(membership.can_subscribe),
        "focus_selection": membership.focus_selection.value,
        "application": dict(membership.application),
        "created_ts_ms": membership.created_ts_ms,
        "expires_ts_ms": membership.expires_ts_ms,
    } == expect
    assert membership.member.user_id == VECTORS["sender"]
    assert membership.room_id == ROOM
    assert membership.event_id == "$e"
    assert [d.name for d in DIALECTS if d.reads(event)] == [
        expect["dialect"] if expect["dialect"] in ("D2", "D3") else "D6/D7"
    ]


@pytest.mark.parametrize("case", VECTORS["leaves"], ids=lambda case: case["name"])
def test_leave(case):
    leave = parse_event(DIALECTS, event_of(case), ROOM)
    assert isinstance(leave, Leave)
    assert leave.reason == case["reason"]


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_every_problem_is_found(case):
    base = VECTORS["cases"][case["base"]]
    content = {k: v for k, v in base["content"].items() if k not in case.get("drop", ())}
    content = case.get("content", {**content, **case.get("set", {})})
    known = ("state_key", "sticky_duration_ms", "encrypted_by")
    changes = {key: case[key] for key in known if key in case}
    parsed = parse_event(DIALECTS, event_of(base, content=content, **changes), ROOM)
    assert isinstance(parsed, Problems)
    assert [problem.code for problem in parsed.problems] == case["codes"]
    assert all(problem.message for problem in parsed.problems)


def test_problems_and_items_are_bounded():
    base = VECTORS["cases"][0]
    foci = {**base["content"], "foci_preferred": [{}] * 30}
    parsed = parse_event(DIALECTS, event_of(base, content=foci), ROOM)
    assert isinstance(parsed, Problems)
    assert len(parsed.problems) == MAX_PROBLEMS
    many = {**base["content"], "foci_preferred": [{"type": "livekit"}] * 100_000}
    parsed = parse_event(DIALECTS, event_of(base, content=many), ROOM)
    assert isinstance(parsed, Problems)
    assert [problem.code for problem in parsed.problems] == ["too_many_items"]
    long = {**base["content"], "device_id": "D" * 256}
    parsed = parse_event(DIALECTS, event_of(base, content=long), ROOM)
    assert isinstance(parsed, Problems)
    assert [problem.code for problem in parsed.problems] == ["too_long"]
    long = {"msc4354_sticky_key": "k" * 256}
    parsed = parse_event(DIALECTS, event_of(VECTORS["cases"][3], content=long), ROOM)
    assert isinstance(parsed, Problems)
    assert [problem.code for problem in parsed.problems] == ["too_long"]


@pytest.mark.parametrize(
    ("case", "path"),
    [
        (0, ["device_id"]),
        (0, ["call_id"]),
        (0, ["foci_preferred", 0, "type"]),
        (3, ["member", "id"]),
        (3, ["application", "type"]),
        (3, ["transports", "can_subscribe", 0]),
    ],
)
def test_half_a_surrogate_pair_is_no_identifier(case, path):
    """JSON can hold one, inside an encrypted event at least; whoever printed it would fail."""
    base = VECTORS["cases"][case]
    content = json.loads(json.dumps(base["content"]))
    *parents, last = path
    inner = content
    for step in parents:
        inner = inner[step]
    if isinstance(last, int):
        inner[last:] = ["\ud800"]
    else:
        inner[last] = "\ud800"
    parsed = parse_event(DIALECTS, event_of(base, content=content), ROOM)
    assert isinstance(parsed, Problems)


def test_deep_nesting_is_refused_without_recursion():
    base = VECTORS["cases"][0]
    deep: object = "bottom"
    for _ in range(100_000):
        deep = [deep]
    parsed = parse_event(DIALECTS, event_of(base, content={**base["content"], "x": deep}), ROOM)
    assert isinstance(parsed, Problems)
    assert [problem.code for problem in parsed.problems] == ["too_deep"]
    while isinstance(deep, list) and deep:
        deep = deep.pop()  # freed from the outside in, so that freeing does not recurse either


def test_nesting_up_to_the_limit_is_fine():
    deep: object = {}
    for _ in range(MAX_DEPTH - 2):
        deep = {"x": deep}
    assert is_shallow({"x": deep})
    assert not is_shallow({"x": {"x": deep}})


def test_no_claim_reaches_beyond_a_month():
    base = VECTORS["cases"][0]
    month_ms = 30 * 24 * 3600 * 1000
    origin = 3 * month_ms
    content = {**base["content"], "created_ts": 1, "expires": 2**53 - 1}
    membership = DIALECTS[1].parse(
        RoomEvent(
            type=base["type"],
            sender="@u:hs",
            content=content,
            event_id="$e",
            origin_server_ts_ms=origin,
            received_ts_ms=origin + 7,
            state_key=base["state_key"],
        ),
        ROOM,
    )
    assert isinstance(membership, Membership)
    assert membership.created_ts_ms == origin - month_ms
    assert membership.expires_ts_ms == origin + month_ms


def test_joining_after_the_event_is_not_believed():
    base = VECTORS["cases"][0]
    content = {**base["content"], "created_ts": VECTORS["origin_server_ts_ms"] + 1}
    membership = parse_event(DIALECTS, event_of(base, content=content), ROOM)
    assert isinstance(membership, Membership)
    assert membership.created_ts_ms == VECTORS["origin_server_ts_ms"]


@pytest.mark.parametrize(
    "extension",
    [7, {"published": [{}], "can_subscribe": ["a"]}, {"published": [], "can_subscribe": [1]}],
)
def test_a_malformed_extension_is_as_if_absent(extension):
    base = VECTORS["cases"][0]
    content = {**base["content"], "rtcfoci.transports": extension}
    membership = parse_event(DIALECTS, event_of(base, content=content), ROOM)
    assert isinstance(membership, Membership)
    assert [transport.type for transport in membership.transports] == ["livekit"]
    assert membership.can_subscribe is None


def test_content_that_is_no_object_is_nobodys():
    event = event_of(VECTORS["cases"][0], content=[])
    sticky = event_of(VECTORS["cases"][3], content="x")
    assert not any(d.reads(e) for d in DIALECTS for e in (event, sticky))


any_text = st.text(st.characters(exclude_categories=()), max_size=8)
"""Half a surrogate pair, too."""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
field_names = sorted(
    {key for case in VECTORS["cases"] for key in case["content"]}
    | {"created_ts", "rtcfoci.transports", "sticky_key", "leave_reason", "memberships", "expires"}
)
plausible = [
    "@u:hs", "DEV", "m.call", "join", "leave", "m.call#ROOM", {"type": "livekit"}, [{"type": "x"}],
    {"id": "i", "user_id": "@u:hs", "device_id": "DEV"}, {"id": "i", "membership": "join"},
    {"type": "livekit", "focus_selection": "multi_sfu"}, {"type": "m.call"}, 1, -1, 2**60,
    {"published": [{"type": "x"}], "can_subscribe": []}, "",
]  # fmt: skip
contents = st.dictionaries(
    st.sampled_from(field_names) | st.text(max_size=4),
    st.sampled_from(plausible) | json_values,
    max_size=8,
)


@given(
    case=st.sampled_from(VECTORS["cases"]),
    changes=contents,
    drop=st.sets(st.sampled_from(field_names), max_size=3),
    state_key=st.none() | st.text(max_size=8),
    from_scratch=st.booleans(),
)
def test_nothing_raises(case, changes, drop, state_key, from_scratch):
    base = {} if from_scratch else case["content"]
    content = {k: v for k, v in {**base, **changes}.items() if k not in drop}
    event = event_of(case, content=content, state_key=state_key)
    parsed = parse_event(DIALECTS, event, ROOM)
    assert isinstance(parsed, Membership | Leave | Problems)
    if isinstance(parsed, Problems):
        assert 1 <= len(parsed.problems) <= MAX_PROBLEMS
    if isinstance(parsed, Membership):
        assert parsed.member.user_id == event.sender
        assert parsed.created_ts_ms <= event.origin_server_ts_ms
        shown = [str(parsed.member), parsed.member.member_id, parsed.slot_id]
        "".join(
            [*shown, *(t.type for t in parsed.transports), *(parsed.can_subscribe or ())]
        ).encode()
