"""What `rtcfoci lint` says that clients see is what they see: matrix-js-sdk in Node, and ruma-events.

Every shape of `shapes.py`, every captured event, whatever we write, and what comes of changing a few places
of those is put to both. Element Call is asked in `test_element_call.py`.
"""

import asyncio
import copy
import json
import random
import time

import pytest

from rtcfoci.call.sessions import installed_dialects, writable_dialects
from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.model import Member, Slot, Transport
from rtcfoci.lab.given import Draft, read_given
from rtcfoci.lab.lint import lint
from rtcfoci.lab.readers import READERS, Verdict
from rtcfoci.plugin.manager import PluginManager
from tests.interop.capture import FOLDER
from tests.interop.shapes import DEVICE, MESH, NOW_MS, ROOM, SHAPES, STATE, STICKY, USER
from tests.interop.tools import JS_SDK, Driver, npm_folder, ruma_reader

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

CALL, _, X, SDK, _ = READERS
PLUGINS = PluginManager.load()
DIALECTS = installed_dialects(PLUGINS)
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.hs"}


def captured():
    for file in sorted(FOLDER.glob("*.json")):
        for number, raw in enumerate(json.loads(file.read_text(encoding="utf-8"))["events"]):
            if raw["type"] in (STATE, STICKY):
                yield f"{file.stem}-{number}", raw


def written():
    """What we write in each dialect: LiveKit, the mesh, both, joining, refreshing and leaving."""
    member = Member(user_id=USER, device_id=DEVICE, member_id="uuid")
    livekit, mesh = Transport("livekit", LIVEKIT), Transport(MESH["type"], MESH)
    for dialect in writable_dialects(PLUGINS):
        for name, transports in (
            ("livekit", [livekit]),
            ("mesh", [mesh]),
            ("both", [mesh, livekit]),
        ):
            own = OwnMembership(
                slot=Slot(room_id=ROOM),
                member=member,
                transports=tuple(transports),
                can_subscribe=(MESH["type"],),
            )
            for kind, event in (
                ("join", dialect.join(own)),
                (
                    "refresh",
                    dialect.refresh(own, created_ts_ms=NOW_MS - 9_000_000, now_ts_ms=NOW_MS),
                ),
                ("leave", dialect.leave(own)),
            ):
                raw = {
                    "type": event.type,
                    "sender": USER,
                    "event_id": "$event",
                    "origin_server_ts": NOW_MS,
                    "content": dict(event.content),
                }
                if event.state_key is None:
                    raw["msc4354_sticky"] = {"duration_ms": event.sticky_duration_ms}
                else:
                    raw["state_key"] = event.state_key
                yield f"{dialect.name}, {name}, {kind}", raw


def changed(count):
    """Broken relatives of the shapes, the same in every run."""
    chance = random.Random(43)
    shapes = [shape.event() for shape in SHAPES.values()]
    keys = sorted({key for raw in shapes for key in raw["content"]})
    values = [
        None, True, False, 0, -1, 1, 1.5, 2**31, 2**53, 1e300, "", "x", "1", "1e3", " 5", "0x10", "#",
        "m.call", "m.call#ROOM", "m.call#A#B", USER, DEVICE, "m.room", "livekit", [], [1], ["x"], [[]],
        [None], {}, {"type": "livekit"}, {"type": 1}, [{"type": "x"}], [LIVEKIT],
        {"published": [], "can_subscribe": []}, {"id": "uuid", "user_id": USER, "device_id": DEVICE},
    ]  # fmt: skip
    for number in range(count):
        raw = copy.deepcopy(chance.choice(shapes))
        for _ in range(chance.randint(1, 3)):
            places = [raw["content"]]
            for place in places:
                held = place.values() if isinstance(place, dict) else place
                places += [inner for inner in held if isinstance(inner, (dict, list)) and inner]
            place = chance.choice(places)
            if isinstance(place, dict):
                key = chance.choice([*place, *keys])
                if chance.random() < 0.3:
                    place.pop(key, None)
                else:
                    place[key] = copy.deepcopy(chance.choice(values))
            else:
                place[chance.randrange(len(place))] = copy.deepcopy(chance.choice(values))
        yield f"changed {number}", raw


def everything():
    return {
        **{name: shape.event() for name, shape in SHAPES.items()},
        **dict(captured()),
        **dict(written()),
        **dict(changed(3000)),
    }


def opinions(raw, now_ts_ms=None):
    given = read_given(json.dumps(raw), Draft(), NOW_MS)
    slot = Slot(room_id=ROOM)
    (finding,) = lint(given, DIALECTS, slot, now_ts_ms=now_ts_ms)
    return dict(finding.opinions)


@pytest.fixture
async def sdk(tmp_path):
    folder = npm_folder(JS_SDK)
    async with Driver.started(tmp_path / "read.txt", "read.mjs", folder) as driver:
        yield driver


async def test_matrix_js_sdk_sees_what_its_reader_says(sdk):
    """And Element Call's step on top of it breaks where the reader says that it crashes."""
    events = everything()
    # Each at the time at which it was sent: the captured ones are old.
    by_time = {}
    for name, raw in events.items():
        by_time.setdefault(raw["origin_server_ts"], []).append(name)
    seen = {}
    for now_ms, names in by_time.items():
        while names:
            some, names = names[:100], names[100:]  # an answer is one line, which has its limit
            asked = [events[name] for name in some]
            answer = await sdk.ask("read", events=asked, nowMs=now_ms)
            seen.update(zip(some, answer["seen"], strict=True))
    wrong = {}
    for name, raw in events.items():
        said = opinions(raw)
        members = seen[name]
        sees = said[SDK].verdict is Verdict.SEES
        if sees != bool(members):
            wrong[name] = (said[SDK].why, members, raw["content"])
            continue
        if not members:
            assert said[CALL].verdict is not Verdict.CRASHES
            continue
        (member,) = members
        assert member["userId"] == raw["sender"]
        if ("throws" in member) != (said[CALL].verdict is Verdict.CRASHES):
            wrong[name] = (said[CALL], member, raw["content"])
        elif "throws" not in member:
            assert member["used"] == said[SDK].focus, name
            assert member["livekit"] == (said[CALL].focus is not None), name
    assert wrong == {}
    assert sum(map(bool, seen.values())) > 300, "nearly nothing was a member"


@pytest.mark.parametrize("name", ["D3", "expires as words", "expires in 25 days"])
async def test_how_often_the_sdk_counts_when_nothing_happens(sdk, name):
    raw = SHAPES[name].event(ts_ms=int(time.time() * 1000))
    counts = (await sdk.ask("recounts", event=raw, forMs=1000))["counts"]
    assert (counts > 20) == (name != "D3"), counts


async def test_ruma_finds_whom_its_reader_says():
    """The times in the events are moved to a moment from now, which is when ruma judges."""
    shift_to_ms = int(time.time() * 1000) + 60_000
    events = {}
    for name, raw in everything().items():
        text = json.loads(json.dumps(raw))
        move(text, shift_to_ms - raw["origin_server_ts"])
        events[name] = text
    lines = "".join(json.dumps(raw) + "\n" for raw in events.values())
    process = await asyncio.create_subprocess_exec(
        ruma_reader(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(lines.encode())
    answers = [json.loads(line) for line in out.splitlines()]
    wrong = {}
    for (name, raw), answer in zip(events.items(), answers, strict=True):
        said = opinions(raw)[X]
        members = answer["members"]
        if (said.verdict is Verdict.SEES) != bool(members):
            wrong[name] = (said, answer, raw)
            continue
        if members:
            assert len(members) == (2 if "2 devices" in said.why else 1), name
            if members[0]["foci"]:
                assert members[0]["foci"][0]["livekit_alias"] == said.focus["livekit_alias"]
            shown = [why for why in said.why if why.startswith("shown as ")]
            assert bool(shown) == (members[0]["user_id"] != raw["sender"]), name
        if name in SHAPES:
            assert len(members) == SHAPES[name].element_x, name
    assert wrong == {}
    assert sum(bool(answer["members"]) for answer in answers) > 100


def move(value, by_ms):
    """Move every time of an event."""
    if isinstance(value, dict):
        for key, held in value.items():
            if (
                key in ("origin_server_ts", "created_ts", "expires_ts")
                and held
                and type(held) is int
            ):
                value[key] = held + by_ms
            move(held, by_ms)
    elif isinstance(value, list):
        for item in value:
            move(item, by_ms)
