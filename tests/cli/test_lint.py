"""`rtcfoci lint`: what it says of events, and that its readers say what the real clients do."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcfoci.call.sessions import installed_dialects
from rtcfoci.cli.main import main
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.model import Slot
from rtcfoci.core.policies import STRICT
from rtcfoci.core.problems import KINDS, About
from rtcfoci.errors import UsageError
from rtcfoci.lab.given import Draft, read_given
from rtcfoci.lab.lint import lint
from rtcfoci.lab.readers import READERS, Opinion, Reader, Verdict
from rtcfoci.lab.report import Fold
from rtcfoci.lab.roomfile import read_room_file
from rtcfoci.plugin.manager import PluginManager
from tests.interop.shapes import (
    ALIAS,
    BOTH,
    D3,
    D6,
    MEMBER,
    MESH,
    NOW_MS,
    ROOM,
    SHAPES,
    STATE,
    STICKY,
    USER,
    less,
    published,
)  # fmt: skip

DIALECTS = installed_dialects(PluginManager.load())
SLOT = Slot(room_id=ROOM)
CALL, CALL_2, X, SDK, TEXT = (reader.name for reader in READERS)


def found_in(raw, **options):
    draft = options.pop("draft", Draft())
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return list(lint(read_given(text, draft, NOW_MS), DIALECTS, SLOT, **options))


def found(raw, **options):
    (finding,) = found_in(raw, **options)
    return finding


def verdicts(finding):
    return {reader.name: opinion.verdict for reader, opinion in finding.opinions}


def opinion(finding, name):
    return next(opinion for reader, opinion in finding.opinions if reader.name == name)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["lint", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# The table of shapes: what was seen of the real clients.


@pytest.mark.parametrize("name", SHAPES)
def test_the_readers_say_what_the_clients_did(name):
    shape = SHAPES[name]
    finding = found(shape.event())
    assert verdicts(finding)[CALL] is verdicts(finding)[CALL_2]
    if shape.element_call is not None:
        call = opinion(finding, CALL)
        seen = {
            Verdict.CRASHES: "crashes",
            Verdict.SEES: "avatar" if call.focus is None else "tile",
        }.get(call.verdict, "nothing")
        assert seen == shape.element_call, call
    codes = {problem.code for problem in finding.dangers} - {"endless_expires"}
    assert bool(codes) == (verdicts(finding)[CALL] is Verdict.CRASHES)
    assert all(KINDS[problem.code].about is About.DANGEROUS for problem in finding.dangers)
    if shape.element_x is not None:
        assert (verdicts(finding)[X] is Verdict.SEES) == (shape.element_x > 0), opinion(finding, X)
        if shape.element_x > 1:
            assert f"{shape.element_x} devices" in opinion(finding, X).why


@pytest.mark.parametrize("name", SHAPES)
def test_the_text_is_read_as_the_policy_strict_does(name):
    raw = SHAPES[name].event()
    room = [
        {
            "type": "org.matrix.msc4143.rtc.slot", "state_key": "m.call#ROOM", "sender": "@m:hs",
            "event_id": "$slot", "origin_server_ts": 1,
            "content": {"status": "open", "application": {"type": "m.call"}},
        },
        raw,
    ]  # fmt: skip
    file = read_room_file(json.dumps({"room_id": ROOM, "events": room}), NOW_MS)
    fold = Fold(file, SLOT, DIALECTS, STRICT, NOW_MS)
    for _ in fold.steps():
        pass
    assert (verdicts(found(raw))[TEXT] is Verdict.SEES) == (len(fold.session) == 1)


# What is said of one event.


@pytest.mark.parametrize(
    ("raw", "dialects", "says"),
    [
        (D3, ["D3"], "membership"),
        (SHAPES["D2"].content, ["D2"], "membership"),
        (SHAPES["D1"].content, ["D1"], "membership"),
        (SHAPES["D4"].content, ["D4"], "membership"),
        (SHAPES["D5"].content, ["D5"], "membership"),
        (D6, ["D6"], "membership"),
        (BOTH, ["D6/D7"], "membership"),
        (SHAPES["pure D7"].content, ["D7"], "membership"),
        (SHAPES["D0"].content, ["D0"], ""),
        ({}, ["D1", "D2", "D3", "D4"], "leave"),
        (SHAPES["left, D7"].content, ["D7"], "leave"),
        ({"msc4354_sticky_key": "x"}, ["D5", "D6/D7"], "leave"),
        ({**D3, "device_id": 5}, ["D3"], ""),
        ({"x": 1}, ["D3"], ""),
    ],
)
def test_a_content_alone_tells_its_dialect(raw, dialects, says):
    finding = found(raw)
    assert list(finding.dialects) == dialects
    assert finding.says == says
    assert (says == "") == bool(finding.problems)


def test_what_was_assumed_is_said():
    finding = found(D6)
    assert finding.assumed == (
        f"type {STICKY}",
        f"sender {USER}",
        "sticky for 3600000 ms",
        "sent now",
    )
    finding = found(D3, draft=Draft(sender="@v:hs", type=STATE, state_key="k"))
    assert finding.assumed == ("sent now",)
    assert opinion(finding, X).why == (
        "the state key is no user id, alone or with a device after _",
    )
    assert found(SHAPES["D3"].event()).assumed == ()


def test_a_draft_says_whose_it_is():
    (member,) = found({"type": STICKY, "sender": "@v:hs", "content": BOTH}).problems
    assert member.code == "foreign_user"
    for content in (D3, SHAPES["D1"].content, SHAPES["D4"].content):
        finding = found(content)
        assert finding.harmless, finding.problems
        assert finding.entry.event.sender in (USER, "@somebody:example.org")


def test_an_event_of_a_homeserver_is_taken_as_it_is():
    raw = SHAPES["D6"].event()
    del raw["msc4354_sticky"]
    finding = found(raw)
    assert [problem.code for problem in finding.problems] == ["not_sticky"]
    assert finding.assumed == ()
    assert set(verdicts(finding).values()) == {Verdict.IGNORES}
    assert opinion(finding, SDK).why == ("it is not sticky",)
    raw = SHAPES["D3"].event()
    del raw["state_key"]
    assert opinion(found(raw), SDK).why == ("it is not a state event",)
    assert opinion(found(raw), X).why == ("it is not a state event",)


def test_a_focus_is_named_where_the_member_is_seen():
    finding = found({**D3, "foci_preferred": [ALIAS, MESH]})
    assert opinion(finding, CALL).focus == ALIAS
    assert opinion(finding, X).focus is None
    finding = found({**BOTH, "transports": published(MESH)})
    assert opinion(finding, CALL).focus is None
    assert opinion(finding, SDK).focus == opinion(finding, TEXT).focus == MESH


def test_a_member_without_livekit_is_absent_from_the_call_indicator():
    """Design: what we write never hides a call, save this, which lint says."""
    for content in ({**D3, "foci_preferred": [MESH]}, BOTH):
        assert verdicts(found(content))[X] is Verdict.IGNORES
    (why,) = opinion(found({**D3, "foci_preferred": [MESH]}), X).why
    assert "LiveKit foci alone" in why
    assert opinion(found(BOTH), X).why == (f"it does not read {STICKY}, only {STATE}",)


def test_a_leave_that_the_sdk_cannot_file_leaves_the_member_there():
    alone, both = found(SHAPES["left, D7"].event()), found(SHAPES["left, both"].event())
    assert alone.harmless
    assert verdicts(alone)[TEXT] is verdicts(both)[TEXT] is verdicts(both)[SDK] is Verdict.GONE
    assert verdicts(alone)[SDK] is verdicts(alone)[CALL] is Verdict.IGNORES
    assert "a member that was shown stays" in opinion(alone, SDK).why[-1]


def test_time_is_that_of_the_event_unless_told():
    raw = SHAPES["D3"].event(ts_ms=1000)
    assert verdicts(found(raw))[SDK] is Verdict.SEES
    late = found(raw, now_ts_ms=1000 + 14_400_001)
    assert opinion(late, SDK).why == opinion(late, X).why == ("it has expired",)
    raw = SHAPES["D6/D7"].event(ts_ms=1000)
    late = found(raw, now_ts_ms=1000 + 3_600_000)
    assert opinion(late, SDK).why == opinion(late, TEXT).why == ("it is no longer sticky",)


def test_encrypted_sticky_events_are_overlooked_by_element_call():
    finding = found(D6, draft=Draft(encrypted=True), encrypted=True)
    assert verdicts(finding)[SDK] is Verdict.SEES
    assert verdicts(finding)[CALL] is Verdict.IGNORES
    assert verdicts(found(BOTH, draft=Draft(encrypted=True), encrypted=True))[TEXT] is Verdict.SEES
    assert verdicts(found(BOTH, encrypted=True))[TEXT] is Verdict.IGNORES  # it came in clear
    crash = {**D6, "transports": published()}
    assert verdicts(found(crash, draft=Draft(encrypted=True)))[CALL] is Verdict.CRASHES


def test_another_slot_can_be_asked_for():
    board = SHAPES["D6, slot of another application"].content
    raw = {**board, "application": {"type": "org.example"}}
    other = Slot(room_id=ROOM, application="org.example")
    (finding,) = lint(read_given(json.dumps(raw), Draft(), NOW_MS), DIALECTS, other)
    assert verdicts(finding)[SDK] is Verdict.SEES
    assert opinion(finding, SDK).why == ()
    # The SDK compares what is behind the # alone.
    finding = found(raw)
    assert verdicts(finding)[CALL] is Verdict.SEES
    assert "application is not that of the slot" in opinion(finding, CALL).why[-1]


# A room file.


def room_file(*events):
    return {"room_id": ROOM, "events": list(events)}


def of_room(kind, state_key, content, sender="@m:hs"):
    return {
        "type": kind,
        "state_key": state_key,
        "sender": sender,
        "content": content,
        "event_id": f"${kind}{state_key}",
        "origin_server_ts": 1,
    }


def joined(user_id, membership="join"):
    return of_room("m.room.member", user_id, {"membership": membership}, user_id)


SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
OPEN = {"status": "open", "application": {"type": "m.call"}}


def test_a_room_file_tells_of_its_room():
    d3, both = SHAPES["D3"].event(), SHAPES["D6/D7"].event()
    one, two = found_in(room_file(joined(USER), {"type": "m.room.message"}, d3, both))
    assert verdicts(one)[SDK] is verdicts(two)[SDK] is Verdict.SEES
    assert opinion(two, TEXT).why == ("the room has no such slot",)
    slot = of_room(SLOT_TYPE, "m.call#ROOM", OPEN)
    (two,) = found_in(room_file(both, slot))
    assert verdicts(two)[TEXT] is Verdict.SEES
    closed = of_room(SLOT_TYPE, "m.call#ROOM", {**OPEN, "status": "closed"})
    one, two = found_in(room_file(joined("@v:hs"), slot, closed, d3, both))
    left = "its sender is not joined to the room"
    assert opinion(one, SDK).why == (left,)
    assert opinion(two, SDK).why == (left, "the slot is closed")
    assert opinion(two, TEXT).why == (left, "the slot is closed")
    encryption = of_room("m.room.encryption", "", {})
    (two,) = found_in(room_file(encryption, slot, both))
    assert opinion(two, TEXT).why == ("the room is encrypted, and the slot does not ask for it",)


def test_a_room_file_may_hold_anything():
    sticky = {**SHAPES["D6"].event(), "type": "m.room.encrypted", "content": {}}
    findings = found_in(room_file(7, {}, sticky, less(sticky, "msc4354_sticky"), {"type": STATE}))
    assert [next(p.code for p in f.problems) for f in findings] == [
        "bad_event",
        "bad_event",
        "encrypted",
        "bad_event",
    ]
    assert not any(finding.harmless for finding in findings)
    assert found_in(room_file()) == []


# The command.


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (D3, 0),
        ({}, 0),
        (SHAPES["D1 of Famedly"].content, 0),  # well-formed, though nobody sees it
        ({**D3, "foci_preferred": []}, 1),
        ({**BOTH, "transports": published()}, 1),
        ({**D3, "device_id": 5}, 1),
        (SHAPES["D0"].content, 1),
        (SHAPES["D1, one of them malformed"].content | {"memberships": [{}, D6]}, 1),
        ({"content": []}, 1),
    ],
)
def test_the_exit_code_says_whether_it_is_valid_and_harmless(run, raw, code):
    assert run(json.dumps(raw))[0] == code
    assert run(json.dumps(raw), "--json")[0] == code


@pytest.mark.parametrize("text", ["[", "{", "[]", "7", "null", "{" * 600, '{"events": 1}', "{]}"])
def test_bad_input_is_a_usage_error(run, tmp_path, text):
    path = tmp_path / "event.json"
    path.write_text(text)
    code, out, err = run(str(path))
    assert (code, out) == (2, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "why", "do"]


def test_other_bad_input(run):
    assert run("no such file")[0] == 2
    assert run("{}", "--now-ms", "-1")[0] == 2
    assert run("{}", "--slot", "x")[0] == 2
    assert run("{}", "--reader", "no.such:reader")[0] == 2
    assert run("{}", "--reader", "json:dumps")[0] == 2


def test_json_is_for_programs(run, tmp_path, monkeypatch):
    content = {**D3, "foci_preferred": [{**ALIAS, "x": float("1e999")}]}
    text = json.dumps(content).replace("Infinity", "1e999")
    told = json.loads(run(text, "--json")[1])
    assert list(told) == [
        "event_id", "index", "type", "assumed", "dialects", "says", "members", "problems", "dangers",
        "readers",
    ]  # fmt: skip
    assert told["dialects"] == ["D3"]
    assert told["members"] == [
        {
            "user_id": USER,
            "device_id": "DEVICE",
            "member_id": "@u:hs:DEVICE",
            "slot_id": "m.call#ROOM",
        }
    ]
    assert [r["reader"] for r in told["readers"]] == [CALL, CALL_2, X, SDK, TEXT]
    assert told["readers"][0]["focus"] == {**ALIAS, "x": None}
    path = tmp_path / "room.json"
    path.write_text(json.dumps(room_file(SHAPES["D3"].event(), SHAPES["no foci"].event())))
    code, out, _ = run(str(path), "--json")
    told = json.loads(out)
    assert code == 1
    assert told["room_id"] == ROOM
    assert [[d["code"] for d in e["dangers"]] for e in told["events"]] == [
        [],
        ["empty_foci_preferred"],
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert json.loads(run("-", "--json")[1]) == told


def test_people_see_a_table(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run(json.dumps({**D3, "foci_preferred": [], "x": "\x1b[2J[red]"}))
    assert "D3, membership of @u:hs/DEVICE in m.call#ROOM" in out
    assert "dangerous: foci_preferred is empty" in out
    assert "(empty_foci_preferred)" in out
    assert out.count("crashes") >= 2
    _, out, _ = run(json.dumps(less(D3, "device_id")))
    assert "invalid: device_id is missing (missing_field)" in out
    _, out, _ = run(json.dumps({**D6, "member": {**MEMBER, "id": "\x1b[2J"}}))
    assert "\x1b[2J" not in out
    assert "https://sfu.hs" in out
    assert "no membership event" in run(json.dumps(room_file()))[1]


def _nobody(event, setting):
    return Opinion(verdict=Verdict.IGNORES, why=(f"{event.type} at {setting.now_ts_ms}",))


NOBODY = Reader(name="nobody", evidence="none", read=_nobody)


def test_a_reader_of_ones_own_is_asked_as_well(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_reader", sys.modules[__name__])
    code, out, _ = run("{}", "--json", "--reader", "my_reader:NOBODY", "--now-ms", "5")
    assert code == 0
    assert json.loads(out)["readers"][-1] == {
        "reader": "nobody", "verdict": "ignores", "focus": None, "why": [f"{STATE} at 5"],
        "evidence": "none",
    }  # fmt: skip


# Anything at all.

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=4)
    | st.sampled_from(["\ud800", "m.call", "#", USER, "m.call#ROOM", "livekit", 10**400, 2**63]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = sorted({key for shape in SHAPES.values() for key in (*shape.content, *shape.event())})


def changed(draw, value):
    """Replace, add or take away a few places."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        places = [value]
        for place in places:
            held = place.values() if isinstance(place, dict) else place
            places += [inner for inner in held if isinstance(inner, (dict, list)) and inner]
        place = draw(st.sampled_from(places))
        if isinstance(place, dict):
            key = draw(st.sampled_from([*place, *KEYS]))
            if draw(st.booleans()):
                place[key] = draw(json_values)
            else:
                place.pop(key, None)
        else:
            place[draw(st.integers(0, len(place) - 1))] = draw(json_values)
    return value


@st.composite
def anything(draw):
    shape = draw(st.sampled_from(list(SHAPES.values())))
    base = draw(st.sampled_from([shape.content, shape.event()]))
    value = draw(json_values) if draw(st.integers(0, 9)) == 0 else changed(draw, base)
    if draw(st.integers(0, 4)) == 0:
        value = room_file(*draw(st.lists(st.just(value) | json_values, max_size=3)))
    return json.dumps(value)


@settings(max_examples=400, deadline=None)
@given(anything(), st.booleans(), st.sampled_from([None, 0, NOW_MS, 2**53 - 1]))
def test_lint_never_raises_and_every_answer_is_sound(text, encrypted, now_ts_ms):
    try:
        given_ = read_given(text, Draft(encrypted=encrypted), NOW_MS)
    except UsageError:
        return
    for finding in lint(given_, DIALECTS, SLOT, now_ts_ms=now_ts_ms, encrypted=encrypted):
        json.dumps(finding.as_json(), allow_nan=False)
        assert all(problem.code in KINDS for problem in (*finding.problems, *finding.dangers))
        if finding.entry.event is None:
            assert finding.problems
            continue
        assert len(finding.opinions) == len(READERS)
        for _, said in finding.opinions:
            assert said.verdict is Verdict.SEES or said.why
            assert said.focus is None or said.verdict is Verdict.SEES
        if verdicts(finding)[CALL] is Verdict.CRASHES:
            assert finding.dangers
        event = finding.entry.event
        sent_ts_ms = event.origin_server_ts_ms
        assert list(finding.dangers) == dangers(event.content, event.type, sent_ts_ms=sent_ts_ms)


def test_work_does_not_grow_without_bound():
    many = {"memberships": [{"x": n} for n in range(20_000)]}
    finding = found(many, draft=Draft(type=STATE))
    assert all(len(said.why) <= 17 for _, said in finding.opinions)
    assert len(json.dumps(finding.as_json())) < 20_000
