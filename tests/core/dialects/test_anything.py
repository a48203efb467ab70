"""Every dialect against anything at all: nothing raises, one generation reads each event, work is linear."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.dialects import Leave, Memberships, Problems, parse_event
from rtcfoci.core.dialects.d0 import D0
from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d4 import D4
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.reading import MAX_PROBLEMS
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Membership, RoomEvent
from rtcfoci.core.problems import KINDS, About

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
DIALECTS = (D0(), D1(), D2(), D3(), D4(), D5(), Superset())
TYPES = sorted({event_type for dialect in DIALECTS for event_type in dialect.event_types})
USER = VECTORS["sender"]

any_text = st.text(st.characters(exclude_categories=()), max_size=8)
"""Half a surrogate pair, too."""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
plausible = [
    USER, "DEV", "m.call", "join", "leave", "m.call#ROOM", {"type": "livekit"}, [{"type": "x"}],
    {"id": "i", "user_id": USER, "device_id": "DEV"}, {"id": "i", "membership": "join"},
    {"type": "livekit", "focus_selection": "multi_sfu"}, {"type": "m.call"}, 1, -1, 2**60, None,
    {"published": [{"type": "x"}], "can_subscribe": []}, "", [], {"application": "m.call", "id": ""},
    [{"device_id": "DEV", "call_id": "", "expires": 1}, {}], ["livekit"],
]  # fmt: skip


def objects(value):
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


NAMES = sorted(
    {key for case in VECTORS["cases"] for found in objects(case["content"]) for key in found}
    | {"m.calls", "memberships", "leave_reason", "m.relates_to", "rtcfoci.transports"}
)
contents = st.recursive(
    st.sampled_from(plausible) | json_values,
    lambda inner: st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=8),
    max_leaves=12,
).filter(lambda value: isinstance(value, dict))


def changed(draw, value):
    """A JSON value with a few places in it replaced, added or taken away."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        found = draw(st.sampled_from(list(objects(value))))
        name = draw(st.sampled_from([*found, *NAMES]))
        if draw(st.booleans()):
            found[name] = deepcopy(draw(st.sampled_from(plausible) | json_values))
        else:
            found.pop(name, None)
    return value


@st.composite
def events(draw):
    case = draw(st.sampled_from(VECTORS["cases"]))
    return RoomEvent(
        type=draw(st.just(case["type"]) | st.sampled_from(TYPES)),
        sender=draw(st.sampled_from([USER, "@v:hs", "@u:hs.org"])),
        content=draw(contents) if draw(st.booleans()) else changed(draw, case["content"]),
        event_id="$e",
        origin_server_ts_ms=draw(st.integers(0, 2**53 - 1)),
        received_ts_ms=draw(st.integers(0, 2**53 - 1)),
        state_key=draw(st.sampled_from([case.get("state_key"), None, "", "_@u:hs_DEV", USER])),
        sticky_duration_ms=draw(st.sampled_from([case.get("sticky_duration_ms"), None, 1])),
        encrypted_by_device_id=draw(st.sampled_from([None, "DEV", "OTHER"])),
    )


def memberships_of(parsed):
    return parsed.memberships if isinstance(parsed, Memberships) else (parsed,)


@given(events())
def test_nothing_raises_and_every_answer_is_sound(event):
    parsed = parse_event(DIALECTS, event, "!room:hs")
    assert isinstance(parsed, Membership | Memberships | Leave | Problems)
    if isinstance(parsed, Leave):
        assert len(parsed.reason) <= 80
        return
    if isinstance(parsed, Problems):
        assert 1 <= len(parsed.problems) <= MAX_PROBLEMS
        assert all(KINDS[problem.code].about is About.MALFORMED for problem in parsed.problems)
        assert all(problem.message for problem in parsed.problems)
        return
    for membership in memberships_of(parsed):
        assert membership.member.user_id == event.sender
        assert membership.created_ts_ms <= event.origin_server_ts_ms
        assert membership.event_id == "$e"
        shown = [str(membership.member), membership.member.member_id, membership.slot_id]
        kinds = [transport.type for transport in membership.transports]
        "".join([*shown, *kinds, *(membership.can_subscribe or ())]).encode()


@given(events())
def test_at_most_one_generation_reads_an_event(event):
    reading = [dialect for dialect in DIALECTS if dialect.reads(event)]
    answers = [dialect.parse(event, "!room:hs") for dialect in reading]
    if len(reading) > 1:
        # What an emptied event says, or a sticky one with nothing but its key, is the same for all.
        assert not any(isinstance(answer, Membership | Memberships) for answer in answers)
        assert len({isinstance(answer, Leave) for answer in answers}) == 1


def lines_run(event):
    """How many lines of this project run when the event is read."""
    count = 0

    def trace(frame, what, _):
        nonlocal count
        if "rtcfoci" not in frame.f_code.co_filename:
            return None
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse_event(DIALECTS, event, "!room:hs")
    finally:
        sys.settrace(before)
    return count


def grown(case, way, size):
    content = json.loads(json.dumps(case["content"]))
    for found in list(objects(content)):
        if way == "fields":
            found.update({f"x{number}": number for number in range(size)})
        elif way == "text":
            found["x"] = "x" * size
        elif way == "items":
            found.update(
                {name: value * size for name, value in found.items() if type(value) is list}
            )
        elif way == "problems":
            found.update({name: {str(n): [n] for n in range(size)} for name in found})
    return RoomEvent(
        type=case["type"],
        sender=USER,
        content=content,
        event_id="$e",
        origin_server_ts_ms=1,
        received_ts_ms=1,
        state_key=case.get("state_key"),
        sticky_duration_ms=case.get("sticky_duration_ms"),
    )


@pytest.mark.parametrize("way", ["fields", "text", "items", "problems"])
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_work_grows_no_faster_than_the_event(case, way):
    small, large = (grown(case, way, size) for size in (20, 160))
    bytes_more = len(json.dumps(large.content)) / len(json.dumps(small.content))
    assert lines_run(large) <= bytes_more * lines_run(small) * 1.1
