"""Inputs to begin with: events captured from real clients, and the vectors that are written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rtcfoci.core.dialects.notification import (
    DECLINE_TYPES,
    NOTIFICATION_TYPES,
    NOTIFY_TYPES,
    write_decline,
    write_notification,
)
from rtcfoci.core.key_messages import KEY_TYPES, WRITTEN_KEY_TYPE, Key, write_key
from rtcfoci.core.model import FocusSelection, Member, Membership, Slot

ROOT = Path(__file__).parents[2]
DIALECTS = ROOT / "tests/core/dialects"
MSC_VECTORS = ROOT / "docs/msc/vectors"
SLOT = Slot(room_id="!room:hs")
CREATED_TS_MS = 1_795_596_000_000
MEMBERS = (
    Member(user_id="@a:hs", device_id="A", member_id="ma"),
    Member(user_id="@c:hs", device_id="C", member_id="@c:hs:C"),
)


def membership(member, *transports):
    """A member of the session."""
    return Membership(
        member=member,
        slot_id=SLOT.slot_id,
        transports=transports,
        can_subscribe=None,
        focus_selection=FocusSelection.OWN,
        application={"type": "m.call"},
        created_ts_ms=CREATED_TS_MS,
        expires_ts_ms=CREATED_TS_MS + 10**9,
        dialect="D6/D7",
        event_id="$e",
        room_id=SLOT.room_id,
    )


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


def event(kind, content, sender="@a:hs", **more):
    """An event in the client format."""
    return {
        "type": kind,
        "sender": sender,
        "content": content,
        "event_id": f"${kind}{len(str(content))}",
        "origin_server_ts": CREATED_TS_MS,
        **more,
    }


def given():
    """What `rtcfoci lint` takes: a room file, an event, or its content alone."""
    yield from rooms()
    for found in events():
        yield found
        yield found["content"]


def key_messages():
    """Messages with media keys, as this package and deployed clients write them, and as the MSC did."""
    keys = [Key(bytes([number]) * 16) for number in range(3)]
    own = [write_key(SLOT, m, 0, keys[0], sent_ts_ms=CREATED_TS_MS) for m in MEMBERS]
    named = Slot(room_id=SLOT.room_id, name="other")
    msc = {
        "room_id": SLOT.room_id,
        "member_id": "ma",
        "media_key": {"index": 1, "key": "AQEBAQEBAQEBAQEBAQEBAQ"},
    }
    contents = [
        (WRITTEN_KEY_TYPE, own[0]),
        (WRITTEN_KEY_TYPE, write_key(SLOT, MEMBERS[0], 1, keys[1], sent_ts_ms=CREATED_TS_MS + 1)),
        (WRITTEN_KEY_TYPE, write_key(named, MEMBERS[0], 0, keys[2], sent_ts_ms=0)),
        (KEY_TYPES[1], msc),
        (KEY_TYPES[1], {**msc, "version": "0", "format": 0}),
        (KEY_TYPES[2], {**msc, "media_key": {**msc["media_key"], "format": "m.base64"}}),
    ]
    messages = [
        {"type": kind, "content": content, "sender": "@a:hs", "sender_device_id": "A"}
        for kind, content in contents
    ]
    other = {"content": own[1], "sender": "@c:hs", "sender_device_id": "C"}
    stranger = {"content": own[1], "sender": "@x:hs", "sender_device_id": "X"}
    yield from ([message] for message in (*messages, other, stranger))
    yield [*messages, other, stranger]


def notifications():
    """Rooms in which somebody calls us, in each generation; and what ends it."""
    users, member = ["@b:hs"], next(e for e in events() if "msc4354_sticky" in e)
    written = write_notification(
        SLOT,
        membership_id=member["event_id"],
        user_ids=users,
        room=False,
        kind="ring",
        sender_ts_ms=CREATED_TS_MS + 300_000,
        lifetime_ms=90_000,
        intent="video",
    )
    sticky = {"msc4354_sticky": {"duration_ms": written.sticky_duration_ms}}
    sent = {"origin_server_ts": CREATED_TS_MS + 300_000}
    plain = {k: v for k, v in written.content.items() if k != "slot_id" and "sticky" not in k}
    notify = {
        "application": "m.call",
        "call_id": "",
        "notify_type": "ring",
        "m.mentions": {"user_ids": users, "room": False},
    }
    ring = event(written.type, written.content, **sticky, **sent)
    old = event(NOTIFICATION_TYPES[1], plain, **sent)
    oldest = event(NOTIFY_TYPES[0], notify, **sent)
    to_all = {**written.content, "m.mentions": {"room": True}}
    bare = {k: v for k, v in written.content.items() if "sticky" in k}
    decline = write_decline(ring["event_id"])
    declined = event(DECLINE_TYPES[0], decline.content, "@b:hs", **sticky, **sent)
    redaction = event("m.room.redaction", {}, redacts=ring["event_id"], **sent)
    joins = [
        event("m.room.member", {"membership": "join"}, user, state_key=user)
        for user in ("@a:hs", "@b:hs")
    ]
    for calls in (
        [ring],
        [old],
        [oldest],
        [event(written.type, to_all, **sticky, **sent)],
        [ring, event(written.type, bare, **sticky, **{**sent, "event_id": "$bare"})],
        [ring, declined],
        [declined, ring],
        [ring, redaction],
        [ring, *slot_events()],
    ):
        yield [*joins, *powers(), member, *calls]


def slot_events():
    for content in slots():
        yield event("org.matrix.msc4143.rtc.slot", content, state_key="m.call#ROOM")


def powers():
    """The state that says who may do what."""
    yield event(
        "m.room.create",
        {"room_version": "12", "additional_creators": ["@a:hs"]},
        "@creator:hs",
        state_key="",
    )
    levels = {
        "users": {"@a:hs": 100, "@c:hs": "50"},
        "users_default": 0,
        "events": {"m.call.member": 0},
        "events_default": 0,
        "state_default": 50,
        "notifications": {"room": 50},
    }
    yield event("m.room.power_levels", levels, state_key="")


def power():
    yield list(powers())
    yield [{**found, "content": {}} for found in powers()]


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


def answers():
    """What a homeserver answers to the requests of a client; any answer may come to any request."""
    room = next(rooms())
    stream = {"next_batch": "n", "rooms": {room["room_id"]: {"events": room["events"]}}}
    yield from (
        {"versions": ["v1.1"], "unstable_features": {"org.matrix.msc4140": True}},
        {"capabilities": {"org.matrix.msc4140.delayed_events": {"max_delay_ms": 1}}},
        {"rtc_transports": [{"type": "served", "url": "https://hs"}]},
        {"access_token": "t", "expires_in": 3600, "user_id": "@b:hs", "device_id": "B"},
        room["events"],
        {"event_id": "$e"},
        {"delay_id": "d"},
        {
            "delayed_events": [
                {
                    "delay_id": "d",
                    "room_id": "!room:hs",
                    "type": "t",
                    "delay_ms": 1,
                    "state_key": "",
                    "content": {},
                }
            ],
            "next_batch": "n",
        },
        {"m.homeserver": {"base_url": "https://hs:8448/"}},
        {
            "pos": "p",
            "rooms": {"!room:hs": {"timeline": room["events"]}},
            "extensions": {
                "org.matrix.msc4354.sticky_events": {**stream, "rooms": {"!room:hs": stream}}
            },
        },
        {
            "rooms": {
                "invite": {"!other:hs": {}},
                "leave": {
                    "!room:hs": {
                        part: {
                            "events": [
                                event("m.room.member", {"membership": "ban"}, state_key="@b:hs")
                            ]
                        }
                        for part in ("state", "timeline")
                    }
                },
            }
        },
    )


def urls():
    yield from (
        b"https://sfu.example.org/livekit/jwt",
        b"wss://sfu.example.org:7880/rtc?access_token=x#y",
        b"http://127.0.0.1:8080/",
        b"https://[::ffff:10.0.0.1]/",
        b"https://[fe80::1%25eth0]/",
        b"https://user:word@1.2.3.4/",
        b"https://8.8.8.8./",
        b"https://0x7f.1/",
        "https://\uff11\uff12\uff17.0.0.1/".encode(),
    )


def traces():
    """A recorded call, whole and broken off, and each kind of line of it."""
    text = (ROOT / "tests/lab/call.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    begin = b"".join(line for line in lines[:8] if line.startswith((b'{"rtcfoci', b'{"machine')))
    seen = {}
    for line in lines[1:]:
        seen.setdefault(line.partition(b'"now"')[0][:60], line)
    yield from (text, b"".join(lines[:60]), begin)
    yield from (begin + line for line in seen.values() if line not in begin)


def drawn_calls():
    """Recordings in which a call begins."""
    yield from (trace for trace in traces() if b'"now"' in trace)


def mesh_payloads():
    file = read(MSC_VECTORS / "payloads.json")
    for case in file["cases"]:
        payload = case["payload"]
        if isinstance(payload, dict) and payload.get("sdp") == "$SDP":
            payload = {**payload, "sdp": file["sdp"]}
        yield payload


def mesh_turns():
    uris = ["turn:hs:3478?transport=udp", "turns:[2001:db8::1]:5349?transport=tcp", "stun:hs"]
    yield {"uris": uris, "ttl": 86_400, "username": "u", "password": "p"}
    yield {"uris": ["turn:hs"], "ttl": 0.5}
    yield {}


def mesh_talks():
    """The signals that one side is sent in each negotiation of the vectors."""
    sdp = read(MSC_VECTORS / "payloads.json")["sdp"]
    for case in read(MSC_VECTORS / "negotiations.json")["cases"]:
        told = [step["input"]["received"] for step in case["steps"] if "received" in step["input"]]
        if told:
            yield [{**payload, "sdp": sdp} if "sdp" in payload else payload for payload in told]


def mesh_descriptions():
    sdp = read(MSC_VECTORS / "payloads.json")["sdp"]
    name = "a=candidate:2 1 udp 2130706431 0a1b.local 50001 typ host\r\na=end-of-candidates\r\n"
    data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=max-message-size:65536\r\n"
    yield from (text.encode() for text in (sdp, sdp + name, sdp + data, sdp + name * 9))


def mesh_seats():
    for case in read(MSC_VECTORS / "seats.json")["cases"]:
        yield [member["transport"] for member in case["members"]]


def mesh_streams():
    frames = [frame for frame in mesh_frames() if len(frame) < 256]
    first, second = b"\x02" + bytes(8) + b"\x01tx", b"\x02" + bytes(7) + b"\x01\x01tx"
    begin, told = b'\x00{"stream": ["s", 0]}', b'\x00{"acknowledged": 2}'
    for talk in (frames, [begin, first, second, first, told], [first, begin, second]):
        yield b"".join(bytes((len(frame),)) + frame for frame in talk)


def mesh_packets():
    """Packets of six bytes each: number, timestamp, and what the parser takes for time or marks."""
    for numbers in (range(65530, 65560), (1, 2, 5, 3, 4, 4, 900, 901), range(0, 400, 7)):
        yield b"".join(
            (n & 0xFFFF).to_bytes(2, "big")
            + bytes((n >> 6 & 0xFF, n << 2 & 0xFF, 0, n * 37 & 0xFF))
            for n in numbers
        )


def mesh_frames():
    for case in read(MSC_VECTORS / "frames.json")["cases"]:
        yield bytes.fromhex(case["hex"])


def relay_messages():
    for member in MEMBERS:
        yield [asdict(member), "topic", True, "00ff"]


def auth_bodies():
    """Requests for a token and for a delegated leave, of both generations."""
    token = {
        "access_token": "t",
        "token_type": "Bearer",
        "matrix_server_name": "hs",
        "expires_in": 60,
    }
    delay = {"delay_id": "d", "delay_timeout": 1000, "delay_cs_api_url": "https://hs"}
    member = {"id": "m", "claimed_user_id": "@a:hs", "claimed_device_id": "A"}
    device = {"room": "!room:hs", "openid_token": token, "device_id": "A"}
    asked = {
        "room_id": "!room:hs",
        "slot_id": "m.call#ROOM",
        "openid_token": token,
        "member": member,
    }
    yield from (device, asked, {**device, **delay}, {**asked, **delay})


def auth_tokens():
    head = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    body = b"eyJpc3MiOiJrZXkiLCJleHAiOjQxMDI0NDQ4MDAsInNoYTI1NiI6IiJ9."
    none = b"eyJhbGciOiJub25lIn0."
    yield from (head + body + b"A" * 43, none + body, b"Bearer " + head + body, b"..")


def auth_names():
    yield from (b"hs", b"matrix.example.org:8448", b"[2001:db8::1]:443", b"1.2.3.4", b"a..b:0")
