"""`rtcfoci session`: the report of a file, as a program and as a person reads it."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.cli.main import main
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Slot
from rtcfoci.core.policies import DEPLOYED
from rtcfoci.errors import UsageError
from rtcfoci.lab.report import Fold
from rtcfoci.lab.roomfile import MAX_DEPTH, decode_json, read_room_file

ROOM = "!room:hs"
STATE, STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
NOW_MS = 1_000_000
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.hs", "livekit_alias": ROOM}
MEMBER_KEYS = {
    "user_id", "device_id", "member_id", "created_ts_ms", "backend_identity", "transports", "dialect",
    "event_id",
}  # fmt: skip


def event(kind, sender, event_id, content, ts_ms=1000, **more):
    return {
        "type": kind,
        "sender": sender,
        "event_id": event_id,
        "origin_server_ts": ts_ms,
        "content": content,
        **more,
    }


def state(user, event_id, device="DEV", ts_ms=1000, **content):
    content = {
        "application": "m.call",
        "call_id": "",
        "scope": "m.room",
        "device_id": device,
        "expires": 14_400_000,
        "focus_active": {"type": "livekit", "focus_selection": "multi_sfu"},
        "foci_preferred": [LIVEKIT],
        **content,
    }
    return event(STATE, user, event_id, content, ts_ms, state_key=f"_{user}_{device}_m.call")


def sticky(user, event_id, device="DEV", ts_ms=1000, *, kind=STICKY, **content):
    content = {
        "slot_id": "m.call#ROOM",
        "application": {"type": "m.call"},
        "member": {"id": "uuid", "user_id": user, "device_id": device},
        "versions": [],
        "transports": {"published": [LIVEKIT], "can_subscribe": ["livekit"]},
        "msc4354_sticky_key": "uuid",
        **content,
    }
    return event(kind, user, event_id, content, ts_ms, msc4354_sticky={"duration_ms": 3_600_000})


def joined(user, membership="join"):
    content = {"membership": membership}
    return event("m.room.member", user, f"$room-{user}", content, 1, state_key=user)


@pytest.fixture
def session(tmp_path, capsys):
    def run(*events, now_ms=NOW_MS, options=()):
        path = tmp_path / "room.json"
        path.write_text(json.dumps({"room_id": ROOM, "events": list(events)}))
        arguments = ["session", str(path), "--json", "--now-ms", str(now_ms), *options]
        assert main(arguments) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return lines if "--each" in options else lines[0]

    return run


def reasons(report):
    return {
        i.get("event_id", i["index"]): [p["code"] for p in i["problems"]] for i in report["ignored"]
    }


def test_the_report(session):
    slot = event(
        "org.matrix.msc4143.rtc.slot",
        "@a:hs",
        "$slot",
        {"status": "open", "application": {"type": "m.call"}},
        state_key="m.call#ROOM",
    )
    report = session(
        joined("@alice:example.com"),
        joined("@bob:hs"),
        slot,
        state(
            "@bob:hs", "$bob", ts_ms=2000, **{"rtcfoci.transports": {"published": [{"type": "x"}]}}
        ),
        sticky(
            "@alice:example.com",
            "$alice",
            "DEVICE123",
            member={"id": "memberABC", "user_id": "@alice:example.com", "device_id": "DEVICE123"},
        ),
    )
    assert list(report) == ["policy", "slot", "now_ms", "warnings", "members", "ignored"]
    assert (report["policy"], report["now_ms"]) == ("deployed", NOW_MS)
    assert report["slot"] == {"id": "m.call#ROOM", "status": "open"}
    assert report["warnings"] == report["ignored"] == []
    alice, bob = report["members"]
    assert set(alice) == set(bob) == MEMBER_KEYS
    # The published vector (MSC4195).
    assert alice["backend_identity"] == "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"
    assert alice["member_id"] == "memberABC"
    assert (bob["backend_identity"], bob["member_id"]) == ("@bob:hs:DEV", "@bob:hs:DEV")
    # What travels in our own extension is not what the wire publishes.
    assert bob["transports"] == [LIVEKIT]
    assert (bob["dialect"], bob["event_id"], bob["created_ts_ms"]) == ("D3", "$bob", 2000)


def test_every_event_that_counts_for_nobody_says_why(session):
    encrypted = event("m.room.encrypted", "@a:hs", "$sealed", {}, msc4354_sticky={"duration_ms": 9})
    report = session(
        joined("@a:hs"),
        joined("@gone:hs", "leave"),
        state("@a:hs", "$first"),
        state("@a:hs", "$second"),
        state("@gone:hs", "$gone"),
        state("@a:hs", "$old", "OLD", 1000, expires=10),
        state("@a:hs", "$board", "B", application="org.board"),
        {**state("@a:hs", "$left", "L"), "content": {}},
        state("@a:hs", "$wrong", "W", focus_active=7),
        encrypted,
        event("m.room.message", "@a:hs", "$talk", {"body": "hi"}),
        17,
        {"type": STATE},
        {"type": "m.room.message"},
    )
    found = reasons(report)
    assert [m["event_id"] for m in report["members"]] == ["$second"]
    assert found.pop("$first") == ["superseded"]
    assert found.pop("$gone") == ["sender_not_joined"]
    assert found.pop("$old") == ["expired"]
    assert found.pop("$board") == ["other_slot"]
    assert found.pop("$left") == ["left"]
    assert found.pop("$wrong") == ["wrong_type"]
    assert found.pop("$sealed") == ["encrypted"]
    assert found == {11: ["bad_event"], 12: ["bad_event"] * 4}
    assert all(p["message"] for i in report["ignored"] for p in i["problems"])


def test_without_room_members_everybody_counts_as_joined(session):
    report = session(state("@a:hs", "$a"))
    assert [w["code"] for w in report["warnings"]] == ["membership_assumed"]
    assert len(report["members"]) == 1
    assert reasons(session(state("@a:hs", "$a"), joined("@b:hs"))) == {"$a": ["sender_not_joined"]}


def test_policies(session):
    events = [state("@a:hs", "$a"), sticky("@a:hs", "$b", ts_ms=1001)]
    assert len(session(*events)["members"]) == 2  # as deployed clients list them
    tolerant = session(*events, options=("--policy", "tolerant"))
    assert reasons(tolerant) == {"$a": ["superseded"]}
    strict = session(*events, options=("--policy", "strict"))
    assert reasons(strict) == {"$a": ["dialect_not_counted"], "$b": ["dialect_not_counted"]}


def test_what_was_decrypted_names_its_device(session):
    sealed = {**sticky("@a:hs", "$a"), "encryption": {"sender_device_id": "EVIL", "bound": True}}
    assert reasons(session(sealed)) == {"$a": ["device_mismatch"]}
    # An unbound device proves nothing.
    sealed["encryption"]["bound"] = False
    assert session(sealed)["members"][0]["device_id"] == "DEV"


def test_the_time_of_receipt_bounds_a_clock_that_runs_ahead(session):
    ahead = sticky("@a:hs", "$a", ts_ms=10 * NOW_MS)
    received = {**ahead, "received_ts_ms": 0}
    assert session(ahead, now_ms=NOW_MS)["members"]
    assert reasons(session(received, now_ms=3_600_000)) == {"$a": ["expired"]}


def test_each_event_tells_what_it_changed(session):
    gone = {**state("@a:hs", "$gone"), "content": {}}
    *lines, last = session(
        state("@a:hs", "$a"), state("@a:hs", "$b", ts_ms=1500), gone, "?", options=("--each",)
    )
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert [line["count"] for line in lines] == [1, 1, 0, 0]
    assert [m["event_id"] for m in lines[0]["joined"]] == ["$a"]
    assert [m["event_id"] for m in lines[1]["updated"]] == ["$b"]
    assert lines[2]["left"] == [["@a:hs", "DEV", "@a:hs:DEV"]]
    assert lines[3]["event_id"] is None
    assert last["members"] == []


def test_another_slot(session):
    own = state("@a:hs", "$a", application="org.board", call_id="B")
    report = session(own, options=("--slot", "org.board#B"))
    assert (report["slot"]["id"], len(report["members"])) == ("org.board#B", 1)


def test_numbers_beyond_json_are_survived(tmp_path, capsys):
    text = json.dumps({"room_id": ROOM, "events": [state("@a:hs", "$a"), state("@b:hs", "$b")]})
    text = text.replace(
        '"livekit_alias"', '"far": 1e999, "long": ' + "9" * 5000 + ', "livekit_alias"', 1
    )
    text = text.replace('"origin_server_ts": 1000', '"origin_server_ts": 1' + "0" * 5000, 2)
    path = tmp_path / "far.json"
    path.write_text(text)
    assert main(["session", str(path), "--json"]) == 0
    assert reasons(json.loads(capsys.readouterr().out)) == {
        "$a": ["bad_event"],
        "$b": ["bad_event"],
    }
    path.write_text(text.replace("0" * 5000, "000"))
    assert main(["session", str(path), "--json", "--now-ms", "2000"]) == 0
    first = json.loads(capsys.readouterr().out)["members"][0]
    assert (first["transports"][0]["far"], first["transports"][0]["long"]) == (None, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[1,", "not JSON"),
        ("NaN", "not JSON"),
        ("[]", "not an object"),
        ('{"room_id": "!r:hs"}', "events"),
        ('{"room_id": 1, "events": []}', "room_id"),
        ('{"room_id": "!r:hs", "events": {}}', "events"),
        ('{"a":' * 513 + "1" + "}" * 513, "deeper than 512"),
        ("[" * 100_000, "deeper than 512"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, capsys, text, why):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    assert main(["session", str(path), "--json"]) == 2
    assert why in json.loads(capsys.readouterr().err)["error"]["why"]


def test_files_that_cannot_be_read(tmp_path, capsys):
    assert main(["session", str(tmp_path / "none.json")]) == 2
    (tmp_path / "latin").write_bytes(b"\xff\xfe{}")
    assert main(["session", str(tmp_path / "latin")]) == 2
    assert main(["session", str(tmp_path / "none.json"), "--slot", "nothing"]) == 2
    assert main(["session", "-", "--now-ms", "-5"]) == 2
    assert capsys.readouterr().out == ""


def test_a_string_without_an_end_costs_no_more_than_its_length():
    with pytest.raises(UsageError, match="cannot be used"):
        decode_json('{"a": "' + '\\"' * 300_000)  # tried from every quote on, it would take minutes


def test_the_deepest_file_is_read():
    # The object, the array, the event and its content are four.
    deep = '{"a":' * (MAX_DEPTH - 4) + "{}" + "}" * (MAX_DEPTH - 4)
    text = '{"room_id": "!r:hs", "events": [{"type": "x", "content": ' + deep + "}]}"
    assert len(read_room_file(text.replace('{"a":', '{"[{":', 1), 0).events) == 1
    with pytest.raises(UsageError):
        read_room_file(text.replace("{}", '{"b":{}}'), 0)


def test_standard_input_and_a_table(tmp_path, capsys, monkeypatch):
    text = json.dumps({"room_id": ROOM, "events": [state("@a\u202e:hs", "$a"), 5]})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["session", "-", "--now-ms", "2000"]) == 0
    shown = capsys.readouterr().out
    assert "@a" in shown
    assert "\u202e" not in shown  # what strangers write does not command the terminal
    assert "bad_event" in shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)
KEYS = ("type", "sender", "event_id", "origin_server_ts", "content", "state_key", "encryption",
        "received_ts_ms", "unsigned", "msc4354_sticky", "redacts")  # fmt: skip


@given(
    st.lists(
        st.sampled_from([state("@a:hs", "$a"), sticky("@b:hs", "$b"), joined("@a:hs")]).flatmap(
            lambda base: st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3).map(
                lambda changes: {**base, **changes}
            )
        )
        | JSON,
        max_size=6,
    )
)
def test_no_event_is_beyond_a_report(events):
    text = json.dumps({"room_id": ROOM, "events": events}, allow_nan=True)
    try:
        file = read_room_file(text, NOW_MS)
    except UsageError:
        assert "NaN" in text or "Infinity" in text
        return
    fold = Fold(file, Slot(room_id=ROOM), (D3(), Superset()), DEPLOYED, NOW_MS)
    lines = [fold.step(step) for step in fold.steps()]
    report = fold.report()
    json.dumps([lines, report], allow_nan=False)
    assert len(lines) == len(events)
    assert lines == [] or lines[-1]["count"] == len(report["members"])
    behind = {member["event_id"] for member in report["members"]}
    read = [i for i in report["ignored"] if file.events[i["index"]].event is not None]
    assert behind.isdisjoint(ignored["event_id"] for ignored in read)


def slot(event_id, content, ts_ms=1):
    return event(
        "org.matrix.msc4143.rtc.slot", "@a:hs", event_id, content, ts_ms, state_key="m.call#ROOM"
    )


OPEN = {"status": "open", "application": {"type": "m.call"}}


def written(user, event_id, **content):
    """The superset."""
    content = {
        "member": {"id": "uuid", "user_id": user, "device_id": "DEV", "membership": "join"},
        "sticky_key": "uuid",
        **content,
    }
    return sticky(user, event_id, **content)


def test_the_slot_is_a_reason(session):
    strict = ("--policy", "strict")
    member = written("@a:hs", "$a")
    assert reasons(session(member, options=strict)) == {"$a": ["slot_absent"]}
    assert session(slot("$s", OPEN), member, options=strict)["members"]
    closed = slot("$s", {**OPEN, "status": "closed"})
    assert reasons(session(closed, member, options=strict)) == {"$a": ["slot_closed"]}
    report = session(closed, member, state("@a:hs", "$b"))
    assert reasons(report) == {"$a": ["slot_closed"]}  # deployed clients still list state members
    assert [m["event_id"] for m in report["members"]] == ["$b"]
    assert report["slot"]["status"] == "closed"
    # Written before there was a status: closed to the text and to deployed clients, open to us.
    old = slot("$s", {"application": {"type": "m.call"}})
    statuses = {
        policy: session(old, options=("--policy", policy))["slot"]["status"]
        for policy in ("deployed", "strict", "tolerant")
    }
    assert statuses == {"deployed": "closed", "strict": "closed", "tolerant": "open"}


def test_the_dialect_is_a_reason(session):
    pure = sticky("@b:hs", "$d7", member={"id": "uuid", "membership": "join"}, versions=7)
    native = event(STATE, "@a:hs", "$d0", {"m.calls": []}, state_key="@a:hs")
    assert reasons(session(pure, native)) == {
        "$d7": ["dialect_not_counted"],
        "$d0": ["dialect_unsupported"],
    }


def test_the_text_asks_that_the_sticky_key_is_the_member_id(session):
    events = [
        slot("$s", OPEN),
        written("@a:hs", "$a", sticky_key="other", msc4354_sticky_key="other"),
    ]
    assert reasons(session(*events, options=("--policy", "strict"))) == {
        "$a": ["sticky_key_mismatch"]
    }
    assert len(session(*events)["members"]) == 1


def test_the_text_asks_for_encryption_where_the_room_is_encrypted(session):
    encryption = event("m.room.encryption", "@a:hs", "$e", {}, 1, state_key="")
    asks = slot("$s", {**OPEN, "encryption": {"type": "m.per_member"}})
    clear, sealed = written("@a:hs", "$a"), written("@b:hs", "$b")
    sealed["encryption"] = {"sender_device_id": "DEV", "bound": True}
    strict = ("--policy", "strict")
    report = session(encryption, asks, clear, sealed, options=strict)
    assert reasons(report) == {"$a": ["not_encrypted"]}
    assert [m["event_id"] for m in report["members"]] == ["$b"]
    report = session(encryption, slot("$s", OPEN), sealed, options=strict)
    assert reasons(report) == {"$b": ["slot_closed"]}


def test_a_late_key_files_an_event_when_it_came(session):
    """An event comes encrypted; its text is told later, with the time at which the event came."""
    sealed = event("m.room.encrypted", "@a:hs", "$a", {}, msc4354_sticky={"duration_ms": 3_600_000})
    sealed["received_ts_ms"] = 1000
    opened = {
        **written("@a:hs", "$a"),
        "encryption": {"sender_device_id": "DEV", "bound": True},
        "received_ts_ms": 1000,
        "unsigned": {"msc4354_sticky_duration_ttl_ms": 60_000},
    }
    assert reasons(session(sealed, now_ms=2000)) == {"$a": ["encrypted"]}
    *lines, report = session(sealed, opened, now_ms=60_999, options=("--each",))
    assert [line["count"] for line in lines] == [0, 1]
    assert (len(report["members"]), report["ignored"]) == (1, [])
    assert reasons(session(sealed, opened, now_ms=61_000)) == {"$a": ["expired"]}
