"""Who was in which slot on which focus when: what the picture of a file shows, whatever the file holds."""

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcfoci.call.sessions import installed_dialects, reading_policies
from rtcfoci.core.policies import DEPLOYED
from rtcfoci.errors import UsageError
from rtcfoci.lab.lanes import Axis, html, moment, svg, text
from rtcfoci.lab.roomfile import read_room_file
from rtcfoci.lab.timeline import of_room, of_trace
from rtcfoci.lab.tracefile import read_trace
from rtcfoci.plugin.manager import PluginManager

PLUGINS = PluginManager.load()
DIALECTS = installed_dialects(PLUGINS)
POLICIES = {policy.name: policy for policy in reading_policies(PLUGINS)}
PICTURE = Path(__file__).parents[2] / "docs/how-to/timeline.svg"
CALL = Path(__file__).with_name("call.jsonl").read_text()
STATE, STICKY, SLOT = (
    "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "org.matrix.msc4143.rtc.slot",
)  # fmt: skip
NOON_MS = 1_795_608_000_000


def event(kind, user, at_s, content, state_key=None, **more):
    ts_ms = NOON_MS + at_s * 1000
    raw = {
        "type": kind,
        "sender": f"@{user}:hs",
        "content": content,
        "origin_server_ts": ts_ms,
        **more,
    }
    raw["event_id"] = f"${kind}{user}{at_s}"
    return raw if state_key is None else {**raw, "state_key": state_key}


def enters(user, at_s=0):
    return event("m.room.member", user, at_s, {"membership": "join"}, f"@{user}:hs")


def joins(user, at_s, sfu="a", *, follows=False, **content):
    selection = "oldest_membership" if follows else "multi_sfu"
    content = {
        "application": "m.call",
        "call_id": "",
        "scope": "m.room",
        "device_id": "DEV",
        "created_ts": NOON_MS + at_s * 1000,
        "focus_active": {"type": "livekit", "focus_selection": selection},
        "foci_preferred": [{"type": "livekit", "livekit_service_url": f"https://{sfu}.hs"}],
        **content,
    }
    return event(STATE, user, at_s, content, f"_@{user}:hs_DEV_m.call")


def leaves(user, at_s):
    return event(STATE, user, at_s, {}, f"_@{user}:hs_DEV_m.call")


def sticks(user, at_s, slot_id="m.call#ROOM"):
    content = {
        "slot_id": slot_id,
        "application": {"type": slot_id.partition("#")[0]},
        "member": {"id": "uuid", "user_id": f"@{user}:hs", "device_id": "DEV"},
        "versions": [],
        "transports": {"published": [{"type": "rtcfoci.mesh"}], "can_subscribe": []},
        "msc4354_sticky_key": slot_id,
    }
    return event(STICKY, user, at_s, content, msc4354_sticky={"duration_ms": 600_000})


def drawn(*events, **head):
    file = {"room_id": "!room:hs", "events": list(events), **head}
    return of_room(read_room_file(json.dumps(file), 0), DIALECTS, DEPLOYED)


def until(at_s):
    return {"saved_ts_ms": NOON_MS + at_s * 1000}


def shown(picture):
    """Give of every lane who and, of every span, from when to when on what."""
    names = {legend.letter: legend.words for legend in picture.legend}
    start_s = NOON_MS / 1000
    return {
        (section.title, lane.name): [
            (s.start_s - start_s, s.end_s - start_s, names[s.letter], s.label) for s in lane.spans
        ]
        for section in picture.sections
        for lane in section.lanes
    }


def all_of(picture):
    """Draw it in every form, and see that each can be read."""
    ElementTree.fromstring(svg(picture))
    ElementTree.fromstring(re.search("<svg.*</svg>", html(picture), re.DOTALL)[0])
    return svg(picture), html(picture), text(picture)


def test_who_left_who_expired_and_who_is_there():
    picture = drawn(
        enters("ann", -1000),
        enters("bob"),
        joins("ann", 0, expires=90_000),
        joins("bob", 10, "b"),
        joins("ann", 60, created_ts=NOON_MS, expires=120_000),
        leaves("bob", 50),
        joins("bob", 100, "b", expires=7_200_000),
        **until(200),
    )
    assert shown(picture) == {
        ("m.call#ROOM", "@ann:hs/DEV"): [(0, 120, "livekit https://a.hs", "expired")],
        # The order of the file is that of the events: a leave that is older came later.
        ("m.call#ROOM", "@bob:hs/DEV"): [
            (10, 60, "livekit https://b.hs", "left"),
            (100, 200, "livekit https://b.hs", "expires 14:01"),
        ],
    }
    assert picture.sections[0].lanes[0].spans[0].notches_s == [NOON_MS / 1000 + 60]
    assert picture.subtitle == "25 Nov 2026, 12:00:00 to 12:03:20 UTC; policy deployed"


def test_the_time_of_receipt_goes_before_that_of_the_origin():
    late = {**joins("ann", 0), "received_ts_ms": NOON_MS + 30_000}
    assert shown(drawn(enters("ann"), late, **until(60)))["m.call#ROOM", "@ann:hs/DEV"][0][:2] == (
        30,
        60,
    )


def test_those_who_follow_the_oldest_move_with_it():
    told = shown(
        drawn(
            *map(enters, ("ann", "bob", "cem")),
            joins("ann", 0, "a", follows=True),
            joins("bob", 10, "b", follows=True),
            joins("cem", 20, "c"),
            leaves("ann", 30),
            **until(60),
        )
    )
    assert [span[:3] for span in told["m.call#ROOM", "@bob:hs/DEV"]] == [
        (10, 30, "livekit https://a.hs"),
        (30, 60, "livekit https://b.hs"),
    ]
    assert [span[:3] for span in told["m.call#ROOM", "@cem:hs/DEV"]] == [
        (20, 60, "livekit https://c.hs")
    ]


def test_each_slot_has_its_session_and_says_whether_it_is_open():
    open_ = {"status": "open", "application": {"type": "m.call"}}
    told = shown(
        drawn(
            enters("ann"),
            sticks("ann", 0),
            event(SLOT, "ann", 10, open_, "m.call#ROOM"),
            sticks("ann", 20, "org.example.game#7"),
            event(SLOT, "ann", 30, {"status": "closed"}, "m.call#ROOM"),
            **until(60),
        )
    )
    assert told == {
        ("m.call#ROOM", "slot"): [(10, 30, "slot open", ""), (30, 60, "slot closed", "")],
        ("m.call#ROOM", "@ann:hs/DEV"): [(0, 30, "rtcfoci.mesh", "no longer counts")],
        ("org.example.game#7", "@ann:hs/DEV"): [(20, 60, "rtcfoci.mesh", "expires 12:10")],
    }


def test_what_is_not_drawn_is_said():
    slots = drawn(enters("ann"), *(sticks("ann", n, f"m.call#{n}") for n in range(20)), **until(60))
    assert len(slots.sections) == 16
    assert "4 more slots" in slots.subtitle
    crowd = drawn(*(joins(f"u{n}", n) for n in range(250)), **until(300))
    assert crowd.sections[0].title == "m.call#ROOM: the first 200 of 250"
    assert "every sender counts as joined" in crowd.subtitle
    foci = drawn(*(joins(f"u{n}", n, f"sfu{n}") for n in range(30)), **until(60))
    assert [legend.words for legend in foci.legend][-2:] == [
        "livekit https://sfu7.hs",
        "other foci",
    ]
    nobody = drawn()
    assert nobody.sections[0].title == "m.call#ROOM: nobody"
    for picture in (slots, crowd, foci, nobody):
        all_of(picture)


def test_what_strangers_write_is_neither_markup_nor_commands():
    evil = "</text><script>alert(1)</script>\x1b[2J\u202e&\"'"
    user = f"ann{evil}"
    url = {"type": evil, "livekit_service_url": f"https://{evil}\ud800"}
    picture = drawn(
        enters(user),
        sticks("bob", 0, f"m.call#{evil}"),
        joins(user, 0, foci_preferred=[url]),
        room_id=f"!{evil}",
    )
    for form in all_of(picture):
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", form)
    for form in all_of(picture)[:2]:
        assert "<script" not in form
        assert "&lt;script&gt;" in form


@pytest.mark.parametrize("count", [3, 30])
def test_labels_do_not_meet(count):
    """Neither ticks, nor what is written behind a span and the span after it, nor names and bars."""
    events = [enters(f"somebody{n}") for n in range(count)]
    for n in range(count):
        events += [
            joins(f"somebody{n}", n, f"sfu{n}"),
            leaves(f"somebody{n}", 100 + n),
            joins(f"somebody{n}", 104 + 9 * n),
        ]
    picture = drawn(*sorted(events, key=lambda e: e["origin_server_ts"]), **until(1000))
    root = ElementTree.fromstring(svg(picture))
    rows = {}
    for each in root.iter():
        kind = each.tag.rpartition("}")[2]
        place = {
            name: float(each.attrib[name])
            for name in ("x", "y", "width", "font-size")
            if name in each.attrib and each.attrib[name] != "100%"
        }
        if kind == "text":
            wide = 0.6 * place["font-size"] * len(each.text)
            rows.setdefault(round(place["y"]) // 8, []).append((place["x"], place["x"] + wide))
        elif kind == "rect" and each.get("height") == "14":
            row = round(place["y"] + 11) // 8
            rows.setdefault(row, []).append((place["x"], place["x"] + place["width"]))
    assert len(rows) > count
    for spans in rows.values():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    lines = text(picture).splitlines()
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("long_s", "labels"),
    [
        (0.03, ["12:00:00.30", "12:00:00.31", "12:00:00.32"]),
        (3, ["12:00:00.50", "12:00:01.00", "12:00:01.50"]),
        (61, ["12:00:10", "12:00:20", "12:00:30"]),
        (3600, ["12:05", "12:10", "12:15"]),
        (86_400, ["14:00", "16:00", "18:00"]),
        (86_400 * 3, ["18:00", "26 Nov", "06:00"]),
        (86_400 * 40, ["27 Nov", "01 Dec", "05 Dec"]),
    ],
)
def test_ticks_are_round_and_few(long_s, labels):
    start_s = NOON_MS / 1000 + 0.3
    found = [label for _, label in Axis(start_s=start_s, end_s=start_s + long_s).ticks()]
    assert found[:3] == labels
    assert len(found) <= 13


def test_a_device_that_counts_twice_has_two_lanes():
    (section,) = drawn(joins("ann", 5), sticks("ann", 6), leaves("ann", 9)).sections
    assert [(lane.name, [s.label for s in lane.spans]) for lane in section.lanes] == [
        ("@ann:hs/DEV", ["left"]), ("@ann:hs/DEV (2)", ["expires 12:10"]),
    ]  # fmt: skip


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
VALID = st.sampled_from(
    [
        enters("ann"), joins("ann", 5, follows=True), joins("bob", 3, expires=10_000), leaves("ann", 9),
        sticks("ann", 2), event(SLOT, "ann", 4, {"status": "closed"}, "m.call#ROOM"),
        event("m.room.redaction", "ann", 6, {"redacts": f"${STATE}bob3"}),
    ]
)  # fmt: skip
CHANGED = st.builds(
    lambda valid, key, value: {**valid, key: value},
    VALID,
    st.sampled_from(
        ["received_ts_ms", "origin_server_ts", "content", "sender", "state_key", "msc4354_sticky"]
    ),
    VALUES | st.sampled_from([2**53 - 1, -(2**70), 10**900, {"duration_ms": 2**60}]),
)


@given(st.lists(VALID | CHANGED | VALUES, max_size=12), VALUES)
@example([sticks("ann", 0) | {"received_ts_ms": 10**900}], 10**900)
@example([sticks("ann", 0) | {"received_ts_ms": -(10**900)}], -1)
def test_any_room_file_is_drawn(events, saved):
    file = {"room_id": "!room:hs", "saved_ts_ms": saved, "events": events}
    picture = of_room(read_room_file(json.dumps(file), 0), DIALECTS, DEPLOYED)
    all_of(picture)
    for section in picture.sections:
        for lane in section.lanes:
            ends = [NOON_MS * -1e6, *(s.end_s for s in lane.spans)]
            assert all(
                s.end_s >= s.start_s >= end for s, end in zip(lane.spans, ends, strict=False)
            )


# A call that was recorded.


def of_call(lines):
    return of_trace(read_trace("call.jsonl", lines, PLUGINS), POLICIES)


def test_a_recorded_call_is_drawn_with_its_delayed_leave_and_its_health():
    picture = of_call(CALL)
    lanes = {lane.name: lane.spans for section in picture.sections for lane in section.lanes}
    names = [name.partition(":")[0] for name in lanes]
    assert names[:4] == ["@ann", "@bob", "@cem", "our delayed leave"]
    assert names[-2:] == ["homeserver_unreachable", "membership_lost"]
    foci = {who: {span.colour for span in spans} for who, spans in lanes.items() if who[0] == "@"}
    assert [len(colours) for colours in foci.values()] == [2, 2, 1]
    (offline,) = picture.shades
    fired, sent = lanes["our delayed leave"]
    assert (fired.label, sent.label) == ("fired", "sent")
    # It was restarted until the homeserver was out of reach, and fired 10 s after the last time.
    assert offline.start_s < fired.end_s < offline.end_s
    assert sent.start_s == pytest.approx(offline.end_s, abs=1)
    assert fired.end_s - offline.start_s == pytest.approx(9, abs=1.5)
    assert lanes["membership_lost"][0].start_s == pytest.approx(offline.end_s, abs=1)
    assert svg(picture) == PICTURE.read_text(), (
        "draw docs/how-to/timeline.svg again from tests/lab/call.jsonl"
    )


def test_a_recording_that_breaks_off_is_drawn_as_far_as_it_goes():
    lines = CALL.splitlines(keepends=True)
    for count in range(8, len(lines), 10):
        picture = of_call("".join(lines[:count]) + lines[count][:10])
        assert "breaks off" in picture.subtitle
        all_of(picture)
    with pytest.raises(UsageError, match="cannot be drawn"):
        of_call("".join(lines[:4]))


@pytest.mark.parametrize(
    "line",
    [
        '{"machine":"session","slot":{"is":"Member","user_id":"a","device_id":"b","member_id":"c"}}',
        '{"machine":"session","slot":7,"policy":"tolerant"}',
        '{"input":"session.receive","now":7}',
        '{"input":"session.receive","now":["a","b"]}',
        '{"input":"session.receive","now":[0,-1]}',
    ],
)
def test_a_recording_that_is_damaged_is_refused(line):
    head = CALL.splitlines()[0]
    with pytest.raises(UsageError, match="line 2 of the recording is damaged"):
        of_call(f"{head}\n{line}\n")


@given(st.data())
def test_any_recording_is_drawn_or_refused(data):
    lines = CALL.splitlines()
    for _ in range(3):
        place = data.draw(st.integers(1, len(lines) - 1))
        record = json.loads(lines[place])
        key = data.draw(st.sampled_from(sorted(record)))
        record[key] = data.draw(VALUES)
        lines[place] = json.dumps(record)
    try:
        picture = of_call("\n".join(lines) + "\n")
    except UsageError:
        return
    all_of(picture)


def test_a_moment_beyond_every_calendar_is_no_error():
    assert moment(2**60) == "?"
