"""The test vectors of the specification (docs/msc), read as another implementation would read them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rtcfoci_mesh import steps
from rtcfoci_mesh.data import Acknowledged, AppData, Mute, Ping, Pong, Stream, pack, unpack
from rtcfoci_mesh.delivery import Receiving, Sending
from rtcfoci_mesh.roster import read_seat, seated
from rtcfoci_mesh.signalling import Negotiation
from rtcfoci_mesh.wire import Lines, TrackInfo, read_signal, write_signal

from rtcfoci.core.model import FocusSelection, Member, Membership, Now, Slot, Transport
from rtcfoci.core.signals import Held, Refused, Signal, SignalInbox
from rtcfoci.errors import RemoteProtocolError
from rtcfoci.media.frames import Kind

MSC = Path(__file__).parents[3] / "docs/msc"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(MSC.glob("vectors/*.json"))}


def cases(name: str) -> pytest.MarkDecorator:
    found = FILES[name]["cases"]
    return pytest.mark.parametrize("case", found, ids=[case["name"] for case in found])


def test_every_vector_has_a_name_of_its_own_and_is_named_in_the_text() -> None:
    text = (MSC / "mesh.md").read_text()
    names = Counter(case["name"] for file in FILES.values() for case in file["cases"])
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []
    assert [name for name in names if f"`{name}`" not in text] == []
    assert [name for name in FILES if f"vectors/{name}.json" not in text] == []


# Who fits, who offers


@cases("seats")
def test_who_fits(case: dict[str, Any]) -> None:
    seats = {
        entry["member_id"]: read_seat(membership(entry), ("rtcfoci.mesh", "mesh"))
        for entry in case["members"]
    }
    ordered = sorted(seats.values(), key=lambda seat: seat.order)
    assert [seat.member.member_id for seat in ordered] == case["order"]
    caps = {name: FILES["seats"][name] for name in ("max_video", "max_audio")}
    fits = seated(seats.values(), **caps)
    assert {member.member_id for member in fits} == set(case["fits"])


def membership(entry: dict[str, Any]) -> Membership:
    return Membership(
        member=member(entry),
        slot_id="m.call#ROOM",
        transports=(Transport(entry["transport"]["type"], entry["transport"]),),
        can_subscribe=None,
        focus_selection=FocusSelection.OWN,
        application={"type": "m.call"},
        created_ts_ms=entry["created_ts_ms"],
        expires_ts_ms=2**52,
        dialect="D3",
        event_id="$event",
        room_id="!room:hs",
    )


def member(entry: dict[str, Any]) -> Member:
    return Member(**{key: entry[key] for key in ("user_id", "device_id", "member_id")})


@cases("offerers")
def test_who_offers(case: dict[str, Any]) -> None:
    a, b = member(case["a"]), member(case["b"])
    assert (a.order < b.order) == (case["offerer"] == "a")
    assert a.order != b.order


# What is believed


@cases("envelopes")
def test_an_envelope(case: dict[str, Any]) -> None:
    file = FILES["envelopes"]
    told = file["defaults"] | {key: case[key] for key in file["defaults"] if key in case}
    content = {**file["base"], **case.get("change", {})}
    for key in case.get("drop", ()):
        del content[key]
    now = Now(0.0, file["now_ts_ms"])
    present = told.pop("member")
    joined = [present]
    inbox = SignalInbox(Slot(**file["slot"]), member(file["own"]), lambda _: joined[0])
    verdicts = [inbox.receive(content, now, **told) for _ in range(case.get("times", 1))]
    assert [named(verdict) for verdict in verdicts] == case["verdicts"]
    if "after_join" in case:
        joined[0] = True
        given = inbox.member_joined(member(file["base"]["from"]), now)
        assert [named(verdict) for verdict in given] == [case["after_join"]]


def named(verdict: object) -> str:
    match verdict:
        case Signal():
            return "delivered"
        case Held():
            return "held"
        case Refused(reason):
            return reason.value
    raise AssertionError(verdict)


@cases("payloads")
def test_a_payload(case: dict[str, Any]) -> None:
    payload = case["payload"]
    if isinstance(payload, dict) and "sdp" in payload:
        payload = {**payload, "sdp": description(payload["sdp"])}
    if case["fault"] is None:
        signal = read_signal(payload)
        known = write_signal(signal)
        assert {key: payload[key] for key in known} == json.loads(json.dumps(known))
        return
    with pytest.raises(RemoteProtocolError) as error:
        read_signal(payload)
    assert {problem.code for problem in error.value.problems} >= {case["fault"]}


def description(text: str | list[str]) -> str:
    sdp = str(FILES["payloads"]["sdp"])
    if isinstance(text, list):
        _, old, new = text
        assert old in sdp
        return sdp.replace(old, new)
    token, _, more = text.partition("+")
    if token != "$SDP":
        return text
    candidates = "".join(
        f"a=candidate:{n} 1 udp 1 192.0.2.1 {n} typ host\r\n" for n in range(2, 66)
    )
    grown = {
        "": "",
        "41000": "a=x:" + "x" * 41_000,
        "candidates65": candidates,
        "sections16": "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n" * 16,
    }
    return sdp + grown[more]


# What is said on data channels


@cases("frames")
def test_a_frame(case: dict[str, Any]) -> None:
    assert meant(unpack(bytes.fromhex(case["hex"]))) == case["message"]


def meant(message: object) -> object:
    match message:
        case AppData(topic, payload, number):
            return {"data": {"topic": topic, "payload_hex": payload.hex(), "number": number}}
        case Mute(source, name, muted):
            return {"mute": [source, name, muted]}
        case Ping(number):
            return {"ping": number}
        case Pong(number):
            return {"pong": number}
        case Stream(name, first):
            return {"stream": [name, first]}
        case Acknowledged(below):
            return {"acknowledged": below}
    return None


@cases("streams")
def test_a_stream(case: dict[str, Any]) -> None:
    sending, receiving = Sending(case.get("stream", "")), Receiving()
    for number, step in enumerate(case["steps"]):
        ((what, value),) = step["do"].items()
        assert streamed(sending, receiving, what, value) == step["gives"], f"step {number}"


def streamed(sending: Sending, receiving: Receiving, what: str, value: Any) -> object:
    match what:
        case "begin":
            return receiving.begin(Stream(*value))
        case "message":
            return receiving.take(value)
        case "acknowledge":
            return receiving.acknowledgement.below
        case "send":
            frame = sending.take(pack(AppData("", bytes.fromhex(value))))
            return None if frame is None else number_of(frame)
        case "acknowledged":
            return sending.acknowledged(value)
        case "again":
            stream, frames = sending.again()
            return {"first": stream.first, "numbers": [number_of(frame) for frame in frames]}
    raise AssertionError(what)


def number_of(frame: bytes) -> int | None:
    message = unpack(frame)
    assert isinstance(message, AppData)
    return message.number


# How a pair negotiates


@cases("negotiations")
def test_a_negotiation(case: dict[str, Any]) -> None:
    machine = Negotiation(
        case["instance"], offerer=case["role"] == "offerer", need=Lines(**case["need"])
    )
    for number, step in enumerate(case["steps"]):
        dropped = Counter(machine.dropped)
        effects = machine.handle(told_to(step["input"]), step["at_s"])
        assert [written(effect) for effect in effects] == step["effects"], f"step {number}"
        assert machine.dropped - dropped == Counter(step.get("dropped", {})), f"step {number}"
        assert machine.timer == step["timer_s"], f"step {number}"


def told_to(given: dict[str, Any]) -> steps.Input:
    ((what, value),) = given.items()
    match what:
        case "begin":
            return steps.Begin()
        case "member_restarted":
            return steps.Restarted()
        case "tick":
            return steps.Tick()
        case "received":
            return steps.Received(filled(value))
        case "described":
            tracks = tuple(TrackInfo(**{**t, "kind": Kind(t["kind"])}) for t in value["tracks"])
            lines = Lines(**value["lines"])
            return steps.Described(value["attempt"], description("$SDP"), tracks, lines)
        case "applied":
            return steps.Applied(value)
        case "connected":
            return steps.Connected(value)
        case "failed":
            return steps.Failed(value["attempt"], value["cause"], value.get("patience_s", 0.0))
        case "tracks_changed":
            return steps.TracksChanged(Lines(**value))
    raise AssertionError(what)


def filled(payload: object) -> object:
    if isinstance(payload, dict) and payload.get("sdp") == "$SDP":
        return {**payload, "sdp": description("$SDP")}
    return payload


def written(effect: steps.Effect) -> dict[str, Any]:
    match effect:
        case steps.Open(attempt):
            return {"open": attempt}
        case steps.Close(attempt):
            return {"close": attempt}
        case steps.MakeOffer(attempt, lines):
            return {"make_offer": {"attempt": attempt, "lines": asdict(lines)}}
        case steps.MakeAnswer(attempt):
            return {"make_answer": attempt}
        case steps.Apply(attempt):
            return {"apply": attempt}
        case steps.Unreachable(cause):
            return {"unreachable": cause}
        case steps.Send(signal):
            payload = dict(json.loads(json.dumps(write_signal(signal))))
            if "sdp" in payload:
                payload["sdp"] = "$SDP"
            return {"send": payload}
    raise AssertionError(effect)
