"""Inputs to begin with: events captured from real clients, and the vectors that are written by hand."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIALECTS = ROOT / "tests/core/dialects"
MSC_VECTORS = ROOT / "docs/msc/vectors"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rooms():
    """Files of captured events, as `rtcfoci session` takes them."""
    for path in sorted((DIALECTS / "captured").glob("*.json")):
        yield read(path)


def events():
    """One membership event each, in the client format, captured or written by hand."""
    for room in rooms():
        yield from (event for event in room["events"] if event["type"] != "m.room.member")
    vectors = read(DIALECTS / "vectors.json")
    for number, case in enumerate(vectors["cases"]):
        sticky_ms = case.get("sticky_duration_ms")
        yield {
            "type": case["type"],
            "sender": vectors["sender"],
            "content": case["content"],
            "event_id": f"$vector{number}",
            "origin_server_ts": vectors["origin_server_ts_ms"],
            **({"state_key": case["state_key"]} if case.get("state_key") is not None else {}),
            **({"msc4354_sticky": {"duration_ms": sticky_ms}} if sticky_ms else {}),
        }


def slots():
    yield {"status": "open", "application": {"type": "m.call"}, "encryption": {"type": "x"}}
    yield {"application": {"type": "m.call"}}
    yield {}


def syncs():
    """Answers to `/sync`, with the sections that Synapse gives."""
    for number, room in enumerate(rooms()):
        state = [event for event in room["events"] if "state_key" in event]
        sticky = [event for event in room["events"] if "msc4354_sticky" in event]
        yield {
            "next_batch": f"s{number}",
            "rooms": {
                "join": {
                    room["room_id"]: {
                        "state": {"events": state[:1]},
                        "timeline": {"events": state[1:], "limited": True},
                        "msc4354_sticky": {"events": sticky},
                    }
                },
                "leave": {"!left:hs": {"timeline": {"events": state[:1]}}},
                "invite": {"!asked:hs": {}},
            },
            "to_device": {"events": list(to_device())},
            "device_lists": {"changed": ["@u:hs"], "left": []},
            "device_one_time_keys_count": {"signed_curve25519": 50},
        }


def to_device():
    envelopes = read(MSC_VECTORS / "envelopes.json")
    yield {"type": "rtcfoci.signal", "sender": "@peer:hs", "content": envelopes["base"]}
    yield {"type": "m.room.encrypted", "sender": "@peer:hs", "content": {"algorithm": "x"}}


def signals():
    envelopes = read(MSC_VECTORS / "envelopes.json")
    for case in envelopes["cases"]:
        content = {**envelopes["base"], **case.get("change", {})}
        yield {key: content[key] for key in content if key not in case.get("drop", ())}


def refusals():
    """What a homeserver may answer to a request."""
    for status, errcode, more in (
        (429, "M_LIMIT_EXCEEDED", {"retry_after_ms": 2000}),
        (400, "M_UNKNOWN", {"org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED"}),
        (400, "M_UNKNOWN", {"org.matrix.msc4140.max_delay": 1000}),
        (403, "M_FORBIDDEN", {"words": ["syd_secret", {"syd_secret": 1}]}),
        (502, "", {}),
    ):
        body = {"errcode": errcode, "error": "no, not syd_secret", **more}
        yield {"status": status, "retry-after": "2", "body": body}
    yield {"status": 429, "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "body": {}}


def mesh_payloads():
    file = read(MSC_VECTORS / "payloads.json")
    for case in file["cases"]:
        payload = case["payload"]
        if isinstance(payload, dict) and payload.get("sdp") == "$SDP":
            payload = {**payload, "sdp": file["sdp"]}
        yield payload


def mesh_frames():
    for case in read(MSC_VECTORS / "frames.json")["cases"]:
        yield bytes.fromhex(case["hex"])
