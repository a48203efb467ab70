"""A live room kept in a file, and the same session under other names."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.call.sessions import installed_dialects
from rtcfoci.core.model import RoomEvent, Slot
from rtcfoci.core.policies import DEPLOYED, STRICT, TOLERANT
from rtcfoci.errors import UsageError
from rtcfoci.lab.pseudonyms import Pseudonyms
from rtcfoci.lab.report import Fold
from rtcfoci.lab.roomfile import read_room_file
from rtcfoci.lab.saving import RoomSaver, require_new_file
from rtcfoci.plugin.manager import PluginManager

CAPTURED = sorted((Path(__file__).parents[1] / "core/dialects/captured").glob("*.json"))
DIALECTS = installed_dialects(PluginManager.load())
TYPES = {kind for dialect in DIALECTS for kind in dialect.event_types}
ROOM, NOW_MS = "!room:example.org", 1_795_600_000_000
STATE, STICKY, SLOT = (
    "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "org.matrix.msc4143.rtc.slot",
)  # fmt: skip


def event(kind, sender, content, number, *, state_key=None, **more):
    fields = {"event_id": f"$event{number}", "origin_server_ts_ms": 1000 + number, **more}
    fields.setdefault("received_ts_ms", fields["origin_server_ts_ms"])
    return RoomEvent(type=kind, sender=sender, content=content, state_key=state_key, **fields)


def saved(path, events, *, room_id=ROOM, key=None):
    saver = RoomSaver(path, room_id, TYPES, None if key is None else Pseudonyms(key))
    saver.add(events)
    saver.write(NOW_MS)
    return path.read_text()


def report(text, policy=DEPLOYED, now_ms=NOW_MS):
    file = read_room_file(text, now_ms)
    fold = Fold(file, Slot(room_id=file.room_id), DIALECTS, policy, now_ms)
    steps = [fold.step(step) for step in fold.steps()]
    return steps, fold.report()


def shape(told):
    """What must be the same under other names."""
    steps, whole = told
    return (
        [(len(s["joined"]), len(s["updated"]), len(s["left"]), s["count"]) for s in steps],
        [(m["dialect"], m["created_ts_ms"], len(m["transports"])) for m in whole["members"]],
        [(i["index"], [p["code"] for p in i["problems"]]) for i in whole["ignored"]],
        whole["slot"],
        [w["code"] for w in whole["warnings"]],
    )


def events_of(text):
    return [entry.event for entry in read_room_file(text, NOW_MS).events]


def texts(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("file", CAPTURED, ids=lambda file: file.stem)
@pytest.mark.parametrize("policy", [DEPLOYED, STRICT, TOLERANT], ids=lambda policy: policy.name)
def test_events_of_real_clients_under_other_names(tmp_path, file, policy):
    held = json.loads(file.read_text())
    events = events_of(file.read_text())
    room_id = held["room_id"]
    plain = saved(tmp_path / "plain.json", events, room_id=room_id)
    hidden = saved(tmp_path / "hidden.json", events, room_id=room_id, key=b"k")
    now_ms = events[-2].origin_server_ts_ms
    for count in (len(events), len(events) - 1):  # after the leave, and before
        some = [
            json.dumps({**json.loads(text), "events": json.loads(text)["events"][:count]})
            for text in (plain, hidden)
        ]
        told = [shape(report(text, policy, now_ms)) for text in some]
        assert told[0] == told[1]
        assert policy is not TOLERANT or bool(told[0][1]) == (count < len(events)), "who is there"
    names = {room_id, *(e.sender for e in events), *(e.event_id for e in events)}
    for name in [*names, *(name[1:].partition(":")[0] for name in names), "localhost", "127.0.0.1"]:
        assert name not in hidden
    # The forms that are made of ids are made of their pseudonyms.
    for one, other in zip(events_of(plain), events_of(hidden), strict=True):
        key, device_id = one.state_key, one.content.get("device_id")
        if device_id is not None and one.type == STATE:
            made = key.replace(one.sender, other.sender).replace(
                device_id, other.content["device_id"]
            )
            assert other.state_key == made
            if "membershipID" in one.content:
                assert (
                    other.content["membershipID"] == f"{other.sender}:{other.content['device_id']}"
                )


IDS = st.sampled_from(["@ann:hs.org", "@ann_b:hs.org", "@b.c=d:matrix.hs.org:8448", "@ann:h_s"])
DEVICES = st.sampled_from(["DEV", "a_b", "x:y", "", 7, "D" * 255, "D" * 256, "\ud800"])
KEYS = st.sampled_from(["uuid-1", "uuid_2", "k" * 256, 5])
FOCI = st.lists(
    st.sampled_from(
        [
            {
                "type": "livekit",
                "livekit_service_url": "https://sfu.hs.org/jwt",
                "livekit_alias": ROOM,
            },
            {
                "type": "rtcfoci.mesh",
                "joined_ts_ms": 5,
                "video": True,
                "about": {"ann@hs": [1.5, None]},
            },
            {"url": "https://sfu.hs.org"},
        ]
    ),
    max_size=2,
)
APPLICATIONS = st.sampled_from(["m.call", "org.board", ""])


@st.composite
def memberships(draw, number):
    sender, owner, device_id = draw(IDS), draw(IDS), draw(DEVICES)
    owner = draw(st.sampled_from([sender, sender, owner]))
    more = {"received_ts_ms": draw(st.sampled_from([0, 1000, 5000]))}
    kind = draw(
        st.sampled_from(["state", "state", "sticky", "sticky", "leave", "d1", "room", "redact"])
    )
    if kind in ("state", "leave"):
        content = {
            "application": draw(APPLICATIONS),
            "call_id": draw(st.sampled_from(["", "B"])),
            "scope": "m.room",
            "device_id": device_id,
            "membershipID": f"{sender}:{device_id}",
            "expires": draw(st.sampled_from([1, 14_400_000, "long"])),
            "focus_active": {
                "type": "livekit",
                "focus_selection": draw(st.sampled_from(["multi_sfu", "oldest_membership"])),
            },
            "foci_preferred": draw(FOCI),
        }
        prefix = draw(st.sampled_from(["_", ""]))
        key = f"{prefix}{owner}_{device_id}_m.call".encode("utf-8", "replace").decode()
        content = {} if kind == "leave" else content
        return event(STATE, sender, content, number, state_key=key, **more)
    if kind == "sticky":
        key = draw(KEYS)
        content = {
            "slot_id": draw(st.sampled_from(["m.call#ROOM", "org.board#B"])),
            "application": {"type": draw(APPLICATIONS)},
            "member": {"id": key, "user_id": owner, "device_id": device_id},
            "versions": [],
            "transports": {"published": draw(FOCI), "can_subscribe": ["livekit"]},
            "msc4354_sticky_key": key,
            "sticky_key": draw(st.sampled_from([key, "uuid-1"])),
        }
        if draw(st.booleans()):
            more |= {
                "encrypted": True,
                "encrypted_by_device_id": draw(st.sampled_from([None, "DEV"])),
            }
        return event(STICKY, sender, content, number, sticky_duration_ms=3_600_000, **more)
    if kind == "d1":
        entry = {
            "application": "m.call",
            "call_id": "",
            "device_id": device_id,
            "expires": 3_600_000,
        }
        content = {"memberships": [{**entry, "foci_active": draw(FOCI)}]}
        return event(STATE, sender, content, number, state_key=owner, **more)
    if kind == "redact":
        target = f"$event{draw(st.integers(0, 12))}"
        return event("m.room.redaction", sender, {"reason": "x"}, number, redacts=target)
    content = {"membership": draw(st.sampled_from(["join", "leave"])), "displayname": "Ann"}
    return event("m.room.member", sender, content, number, state_key=sender)


# Every event has a time of its own: what ties, ids decide.
ROOMS = st.integers(0, 10).flatmap(lambda n: st.tuples(*(memberships(i) for i in range(n))))


@given(ROOMS, st.sampled_from([DEPLOYED, STRICT, TOLERANT]), st.sampled_from([2000, 4_000_000]))
def test_any_session_is_the_same_under_other_names(tmp_path_factory, events, policy, now_ms):
    folder = tmp_path_factory.mktemp("room")
    plain = saved(folder / "plain", events)
    hidden = saved(folder / "hidden", events, key=b"some key")
    assert shape(report(plain, policy, now_ms)) == shape(report(hidden, policy, now_ms))
    for name in ("ann", "hs.org", "DEV", "uuid", "room:", "event", "Ann", "displayname", "reason"):
        for said in texts(json.loads(hidden)):
            assert name not in said or said in ("event_id", "events", "org.board"), said


def test_a_run_has_its_own_names():
    one, other = Pseudonyms(b"1"), Pseudonyms(b"2")
    assert one.text("@ann:hs") == one.text("@ann:hs") != other.text("@ann:hs")
    sender, server = one.text("@ann:hs").split(":")
    assert sender[0] == "@"
    assert one.value("https://hs/x") == f"https://{server}/{one.value('/x')}"
    assert one.text("_@ann:hs_DEV_m.call") == f"_{sender}:{server}_{one.text('DEV')}_m.call"
    assert one.value({"@ann:hs": "Ann"}) == {one.text("@ann:hs"): one.text("Ann")}
    assert one.text("") == ""


def test_nothing_but_what_is_needed_is_kept(tmp_path):
    a = "@ann:hs"
    events = [
        event("m.room.create", a, {"room_version": "11", "predecessor": {}}, 1, state_key=""),
        event("m.room.power_levels", a, {"users": {a: 100}}, 2, state_key=""),
        event("m.room.encryption", a, {"algorithm": "x"}, 3, state_key=""),
        event("m.room.member", a, {"membership": "join", "displayname": "Ann"}, 4, state_key=a),
        event("m.room.topic", a, {"topic": "x"}, 5, state_key=""),
        event("m.room.message", a, {"body": "x"}, 6),
        event("m.room.encrypted", a, {"ciphertext": "x"}, 7),
        event("m.room.encrypted", a, {"ciphertext": "x"}, 8, sticky_duration_ms=9),
        event(SLOT, a, {"status": "open"}, 9, state_key="m.call#ROOM"),
        event("m.room.redaction", a, {"reason": "x"}, 10, redacts="$event6"),
        event("m.room.redaction", a, {"reason": "x"}, 11, redacts="$event12"),
        event(STATE, a, {}, 12, state_key="_@ann:hs_DEV_m.call"),
        event("m.room.redaction", a, {}, 13, redacts="$event12"),
        event("m.room.power_levels", a, {}, 14),
    ]
    kept = events_of(saved(tmp_path / "room", events))
    numbers = [int(e.event_id.removeprefix("$event")) for e in kept]
    assert numbers == [1, 2, 3, 4, 8, 9, 12, 11, 13]
    contents = [e.content for e in kept]
    assert contents[:5] == [
        {"room_version": "11"},
        {"users": {a: 100}},
        {},
        {"membership": "join"},
        {},
    ]


def test_what_is_written_is_read_as_it_was(tmp_path):
    fields = {"received_ts_ms": 5, "sticky_duration_ms": 6, "sticky_ttl_ms": 4}
    events = [
        event(STICKY, "@a:hs", {"x": [1]}, 1, **fields, encrypted=True, encrypted_by_device_id="D"),
        event(STICKY, "@a:hs", {"x": "\ud800"}, 2, **fields, encrypted=True),
        event(STICKY, "@a:hs", {}, 3, **fields),
        event(STATE, "@a:hs", {"y": {}}, 4, state_key="", received_ts_ms=0),
        event("m.room.redaction", "@a:hs", {}, 5, redacts="$event4"),
    ]
    assert events_of(saved(tmp_path / "room", events)) == events


def test_what_is_read_late_is_kept_once_beside_that_it_came(tmp_path):
    fields = {"received_ts_ms": 5, "sticky_duration_ms": 6, "sticky_ttl_ms": 4}
    sealed = event("m.room.encrypted", "@a:hs", {}, 1, **fields)
    read = event(STICKY, "@a:hs", {"x": 1}, 1, **fields, encrypted=True, encrypted_by_device_id="D")
    given = [sealed, sealed, read, read, sealed]
    assert events_of(saved(tmp_path / "room", given)) == [sealed, read]


def test_a_number_that_json_has_not_spoils_no_file(tmp_path):
    text = saved(tmp_path / "r", [event(STATE, "@a:hs", {"x": float("inf")}, 1, state_key="k")])
    assert events_of(text)[0].content == {"x": None}


def test_a_room_that_comes_again_brings_nothing_new(tmp_path):
    first = event(STATE, "@a:hs", {"n": 1}, 1, state_key="k")
    second = event(STATE, "@a:hs", {"n": 2}, 2, state_key="k")
    sticky = event(STICKY, "@a:hs", {}, 3, sticky_duration_ms=9)
    kept = events_of(saved(tmp_path / "room", [first, second, sticky, second, sticky, first]))
    assert kept == [first, second, sticky, first]


def test_the_file_is_whole_at_every_moment(tmp_path, monkeypatch):
    path = tmp_path / "room"
    saver = RoomSaver(path, ROOM, TYPES)
    saver.write(1)
    assert json.loads(path.read_text()) == {"room_id": ROOM, "saved_ts_ms": 1, "events": []}
    assert path.stat().st_mode & 0o077 == 0
    saver.add([event(STATE, "@a:hs", {}, 1, state_key="k")])
    # Killed in the middle: the new file lies beside the old one, half written.
    path.with_name(".room.new").write_text('{"room_id')
    assert json.loads(path.read_text())["events"] == []
    saver.write(2)
    assert len(json.loads(path.read_text())["events"]) == 1
    saver.write(3)
    assert json.loads(path.read_text())["saved_ts_ms"] == 2, "written without news"
    saver.write(4, last=True)
    assert json.loads(path.read_text())["saved_ts_ms"] == 4
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(UsageError, match="cannot be written"):
        saver.write(5, last=True)
    assert len(json.loads(path.read_text())["events"]) == 1


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "there").write_text("x")
    with pytest.raises(UsageError, match="exists"):
        require_new_file(tmp_path / "there")
    with pytest.raises(UsageError, match="cannot be written"):
        require_new_file(tmp_path / "nowhere" / "file")
    require_new_file(tmp_path / "new")
    assert not (tmp_path / "new").exists()
