"""The wire generations, read from hand-written vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rtcfoci.core.dialects import Leave, Memberships, Problems, parse_event
from rtcfoci.core.dialects.d0 import D0
from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d4 import D4
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.reading import MAX_PROBLEMS
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import FocusSelection, Membership, RoomEvent

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
DIALECTS = (D0(), D1(), D2(), D3(), D4(), D5(), Superset())
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


def seen(membership):
    assert isinstance(membership, Membership), membership
    assert membership.member.user_id == VECTORS["sender"]
    assert membership.room_id == ROOM
    assert membership.event_id == "$e"
    return {
        "dialect": membership.dialect,
        "slot_id": membership.slot_id,
        "member_id": membership.member.member_id,
        "device_id": membership.member.device_id,
        "types": [transport.type for transport in membership.transports],
        "can_subscribe": None
        if membership.can_subscribe is None
        else list(membership.can_subscribe),
        "focus_selection": membership.focus_selection.value,
        "application": dict(membership.application),
        "created_ts_ms": membership.created_ts_ms,
        "expires_ts_ms": membership.expires_ts_ms,
    }


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vector(case):
    event, expect = event_of(case), case["expect"]
    parsed = parse_event(DIALECTS, event, ROOM)
    if isinstance(expect, list):
        assert isinstance(parsed, Memberships)
        assert parsed.problems == ()
        assert [seen(membership) for membership in parsed.memberships] == expect
    else:
        assert seen(parsed) == expect
    name = (expect[0] if isinstance(expect, list) else expect)["dialect"]
    assert [d.name for d in DIALECTS if d.reads(event)] == [
        "D6/D7" if name in ("D6", "D7") else name
    ]


def test_which_generations_are_sticky_events():
    assert [dialect.name for dialect in DIALECTS if dialect.sticky] == ["D5", "D6/D7"]


@pytest.mark.parametrize("case", VECTORS["leaves"], ids=lambda case: case["name"])
def test_leave(case):
    leave = parse_event(DIALECTS, event_of(case), ROOM)
    assert isinstance(leave, Leave)
    assert leave.reason == case["reason"]


@pytest.mark.parametrize("dialect", [D1(), D2(), D3(), D4()], ids=lambda dialect: dialect.name)
def test_emptied_state_is_a_leave_of_every_generation(dialect):
    case = VECTORS["cases"][1]
    event = event_of({**case, "type": dialect.event_types[0]}, content={})
    assert dialect.reads(event)
    assert isinstance(dialect.parse(event, ROOM), Leave)


@pytest.mark.parametrize(
    ("selection", "read_as"),
    [
        ("multi_sfu", FocusSelection.OWN),
        ("oldest_membership", FocusSelection.OLDEST_MEMBERSHIP),
        ("another", FocusSelection.OLDEST_MEMBERSHIP),
    ],
)
def test_a_draft_of_no_end_claims_none_and_selects_as_it_says(selection, read_as):
    case = VECTORS["cases"][8]
    focus_active = {"type": "livekit", "focus_selection": selection}
    content = json.loads(json.dumps({**case["content"], "focus_active": focus_active}))
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert isinstance(parsed, Membership)
    assert (parsed.dialect, parsed.claims, parsed.focus_selection) == ("D4", None, read_as)


@pytest.mark.parametrize("foreign", ["application", "memberships", "m.calls"])
def test_a_draft_under_the_unstable_type_has_nothing_of_other_generations(foreign):
    case = VECTORS["cases"][9]
    assert D4().reads(event_of(case))
    assert not D4().reads(event_of(case, content={**case["content"], foreign: []}))


def test_the_reason_of_a_leave_is_told_up_to_80_characters():
    content = {"leave_reason": "x" * 100}
    parsed = parse_event(DIALECTS, event_of(VECTORS["cases"][8], content=content), ROOM)
    assert parsed == Leave(dialect="D4", reason="x" * 80)


def test_an_event_of_no_known_type_is_said_to_be_so():
    parsed = parse_event(DIALECTS, event_of(VECTORS["cases"][0], type="x" * 100), ROOM)
    assert isinstance(parsed, Problems)
    (problem,) = parsed.problems
    assert (problem.code, problem.message) == (
        "unknown_dialect",
        f"no dialect reads this {'x' * 80}",
    )


def test_a_sticky_member_may_name_no_device():
    case = VECTORS["cases"][3]
    member = {**case["content"]["member"], "device_id": ""}
    parsed = parse_event(
        DIALECTS, event_of(case, content={**case["content"], "member": member}), ROOM
    )
    assert isinstance(parsed, Membership)


def test_the_problems_of_both_generations_together_are_bounded():
    case = VECTORS["cases"][3]
    content = {**case["content"], "transports": {"published": [{}] * 30}}
    del content["versions"]
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert isinstance(parsed, Problems)
    assert len(parsed.problems) == MAX_PROBLEMS


def test_the_code_of_a_sticky_leave_is_told_up_to_80_characters():
    member = {"id": "i", "membership": "leave"}
    content = {"slot_id": "m.call#ROOM", "member": member, "msc4354_sticky_key": "i"}
    content["leave_reason"] = {"code": "x" * 100}
    parsed = parse_event(DIALECTS, event_of(VECTORS["cases"][3], content=content), ROOM)
    assert isinstance(parsed, Leave)
    assert parsed.reason == "x" * 80


@pytest.mark.parametrize(
    "content",
    [
        {"msc4354_sticky_key": "i"},
        {"sticky_key": "i"},
        {"sticky_key": "i", "slot_id": "m.call#ROOM"},
        {"sticky_key": "i", "slot_id": "m.call#ROOM", "msc4354_sticky_key": "i"},
        {"sticky_key": "i", "slot_id": "m.call#ROOM", "member": {"id": "i", "membership": "leave"}},
    ],
)
@pytest.mark.parametrize("dialect", [D5(), Superset()], ids=lambda dialect: dialect.name)
def test_who_reads_one_sticky_generation_reads_every_leave(dialect, content):
    event = event_of(VECTORS["cases"][3], content=content)
    assert dialect.reads(event)
    assert isinstance(dialect.parse(event, ROOM), Leave)


@pytest.mark.parametrize("membership", ["join", "leave"])
def test_what_names_an_application_is_of_one_sticky_generation(membership):
    member = {"id": "i", "membership": membership}
    content = {"sticky_key": "i", "slot_id": "m.call#ROOM", "application": {}, "member": member}
    event = event_of(VECTORS["cases"][3], content=content)
    assert [dialect.name for dialect in DIALECTS if dialect.reads(event)] == ["D6/D7"]
    del content["application"]
    assert D5().reads(event) is (membership == "leave")


@pytest.mark.parametrize(("duration_ms", "sticky"), [(None, False), (0, False), (1, True)])
def test_a_membership_of_these_generations_is_sticky_for_some_time(duration_ms, sticky):
    event = event_of(VECTORS["cases"][3], sticky_duration_ms=duration_ms)
    parsed = parse_event(DIALECTS, event, ROOM)
    assert isinstance(parsed, Membership) is sticky
    assert sticky or [problem.code for problem in parsed.problems] == ["not_sticky"]


def test_a_sticky_member_may_have_empty_names():
    case = VECTORS["cases"][4]
    content = {
        "slot_id": "#ROOM",
        "application": {"type": ""},
        "member": {"id": "", "membership": "join"},
        "sticky_key": "",
    }
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert isinstance(parsed, Membership), parsed
    assert (parsed.member.member_id, parsed.application) == ("", {"type": ""})


def test_what_members_say_alike_is_kept_once():
    case = VECTORS["cases"][3]
    first, second = (
        parse_event(DIALECTS, event_of(case, content=json.loads(json.dumps(case["content"]))), ROOM)
        for _ in range(2)
    )
    assert first.slot_id is second.slot_id
    assert first.application is second.application
    assert first.can_subscribe is second.can_subscribe


def test_a_sticky_member_is_named_by_the_very_text_it_is_filed_under():
    case = VECTORS["cases"][3]
    content = json.loads(json.dumps(case["content"]))
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert parsed.member.member_id is content["msc4354_sticky_key"]


@pytest.mark.parametrize("versions", [[], ["1"]])
def test_versions_survive_a_round_trip(versions):
    case = VECTORS["cases"][3]
    content = {**case["content"], "versions": versions}
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert isinstance(parsed, Membership)
    assert parsed.more.get("versions", []) == versions


def test_where_both_names_are_there_those_of_deployed_clients_count():
    case = VECTORS["cases"][10]
    member = {"id": "i", "user_id": VECTORS["sender"], "device_id": "DEV"}
    claimed = {"claimed_user_id": "@v:hs", "claimed_device_id": "OTHER"}
    content = {**case["content"], "member": {**member, **claimed}}
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert isinstance(parsed, Membership)
    assert parsed.member.device_id == "DEV"


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


def test_no_claim_reaches_beyond_a_month():
    base = VECTORS["cases"][0]
    month_ms = 30 * 24 * 3600 * 1000
    origin = 3 * month_ms
    content = {**base["content"], "created_ts": 1, "expires": 2**53 - 1}
    membership = D3().parse(
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
    draft = event_of(VECTORS["cases"][8], content=None)
    sticky = event_of(VECTORS["cases"][3], content="x")
    assert not any(d.reads(e) for d in DIALECTS for e in (event, draft, sticky))


def test_the_usable_memberships_of_a_user_count_and_the_others_are_told():
    case = VECTORS["cases"][6]
    good = case["content"]["memberships"]
    content = {"memberships": [good[0], {**good[1], "device_id": 5}, "x", good[1]]}
    parsed = parse_event(DIALECTS, event_of(case, content=content), ROOM)
    assert isinstance(parsed, Memberships)
    assert [m.member.device_id for m in parsed.memberships] == ["ONE", "TWO"]
    assert [(p.code, p.message) for p in parsed.problems] == [
        ("wrong_type", "memberships[1].device_id is not a string"),
        ("wrong_type", "memberships[2] is not an object"),
    ]


def test_the_memberships_of_a_user_are_bounded():
    case = VECTORS["cases"][6]
    (one, _) = case["content"]["memberships"]
    parsed = parse_event(DIALECTS, event_of(case, content={"memberships": [one] * 64}), ROOM)
    assert isinstance(parsed, Memberships)
    many = {"memberships": [one] * 65}
    parsed = parse_event(DIALECTS, event_of(case, content=many), ROOM)
    assert isinstance(parsed, Problems)
    assert [problem.code for problem in parsed.problems] == ["too_many_items"]
    bad = {"memberships": [{}] * 64}
    parsed = parse_event(DIALECTS, event_of(case, content=bad), ROOM)
    assert isinstance(parsed, Problems)
    assert len(parsed.problems) == MAX_PROBLEMS


def test_no_claim_of_a_user_or_a_draft_reaches_beyond_a_month():
    month_ms = 30 * 24 * 3600 * 1000
    far = {"created_ts": 1, "expires": 2**53 - 1}
    d1, d4 = VECTORS["cases"][6], VECTORS["cases"][9]
    entry = {**d1["content"]["memberships"][0], **far}
    late = {"origin_server_ts_ms": 3 * month_ms, "received_ts_ms": 3 * month_ms}
    found = [
        parse_event(DIALECTS, replace(event_of(case, content=content), **late), ROOM)
        for case, content in (
            (d1, {"memberships": [entry]}),
            (d4, {**d4["content"], **far}),
        )
    ]
    assert isinstance(found[0], Memberships)
    for membership in (found[0].memberships[0], found[1]):
        assert isinstance(membership, Membership)
        assert membership.created_ts_ms == 2 * month_ms
        assert membership.expires_ts_ms == 4 * month_ms
        assert membership.claims == (1, 2**53)
