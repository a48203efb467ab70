"""Memberships of every shape that somebody may send, with what two real clients were seen to do with each.

In: the table, and placing a shape in a room. Out: asking the clients (`test_readers.py`,
`test_element_call.py`) and `rtcfoci lint`, whose readers must agree with them (`tests/cli/test_lint.py`).

`element_call` was seen in Element Call 0.26.1 in a live call of its own, the shape sent by another member:
`crashes` (its call ends), `avatar` (a tile with nothing else), `tile` (a tile waiting for media), `nothing`;
that of an unknown selection and of odd `expires` follows from what the SDK gives it. `element_x` is how many
members ruma-events 0.35.2 finds. None where it depends on who else is in the call, or where a homeserver
would not take the event.
"""

import json
from dataclasses import dataclass

USER, DEVICE, ROOM, NOW_MS = "@u:hs", "DEVICE", "!room:hs", 1_800_000_000_000
STATE, STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.hs"}
ALIAS = {**LIVEKIT, "livekit_alias": ROOM}
MESH = {"type": "rtcfoci.mesh"}
MULTI = {"type": "livekit", "focus_selection": "multi_sfu"}
D3 = {
    "application": "m.call", "call_id": "", "scope": "m.room", "device_id": DEVICE,
    "membershipID": f"{USER}:{DEVICE}", "expires": 14_400_000, "focus_active": MULTI,
    "foci_preferred": [ALIAS],
}  # fmt: skip
MEMBER = {"id": "uuid", "user_id": USER, "device_id": DEVICE}
D6 = {
    "application": {"type": "m.call"}, "slot_id": "m.call#ROOM", "member": MEMBER, "versions": [],
    "transports": {"published": [LIVEKIT], "can_subscribe": ["livekit"]},
    "msc4354_sticky_key": "uuid",
}  # fmt: skip
BOTH = {**D6, "member": {**MEMBER, "membership": "join"}, "sticky_key": "uuid"}
D1 = {
    "application": "m.call", "call_id": "", "scope": "m.room", "device_id": DEVICE,
    "membershipID": "x", "expires": 14_400_000, "foci_active": [ALIAS],
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One event, and what was seen."""

    content: dict
    element_call: str | None = None
    element_x: int | None = None
    type: str = STATE
    state_key: str = f"_{USER}_{DEVICE}_m.call"
    """Of state events only."""

    def event(self, user=USER, device=DEVICE, room=ROOM, ts_ms=NOW_MS):
        """The event as a homeserver gives it to clients."""
        raw = {
            "type": self.type,
            "sender": USER,
            "event_id": "$event",
            "content": self.content,
        }
        if self.type == STATE:
            raw["state_key"] = self.state_key
        else:
            raw["msc4354_sticky"] = {"duration_ms": 3_600_000}
        text = json.dumps(raw)
        for old, new in ((USER, user), (DEVICE, device), (ROOM, room)):
            text = text.replace(old, new)
        return {**json.loads(text), "origin_server_ts": ts_ms}


def less(content, *keys):
    return {key: value for key, value in content.items() if key not in keys}


def d3(element_call, element_x, *lacks, **changes):
    return Shape({**less(D3, *lacks), **changes}, element_call, element_x)


def sticky(element_call, content):
    return Shape(content, element_call, 0, STICKY)


def published(*transports):
    return {"published": list(transports), "can_subscribe": ["livekit"]}


SHAPES = {
    # The table of the facts: what each written shape does to others.
    "D3": d3("tile", 1),
    "no foci": d3("crashes", 1, foci_preferred=[]),
    "foci missing": d3("crashes", 0, "foci_preferred"),
    "focus_active of another type": d3(
        "tile", 0, focus_active={"type": "rtcfoci.mesh", "focus_selection": "multi_sfu"}
    ),
    "focus_active without selection": d3("crashes", 0, focus_active={"type": "livekit"}),
    "unknown selection": d3(
        "crashes", 1, focus_active={"type": "livekit", "focus_selection": "x"}
    ),
    "mesh, multi_sfu": d3("avatar", 0, foci_preferred=[MESH]),
    "mesh, oldest_membership": d3(
        None,
        0,
        foci_preferred=[MESH],
        focus_active={"type": "livekit", "focus_selection": "oldest_membership"},
    ),
    "livekit, then mesh": d3("tile", 0, foci_preferred=[ALIAS, MESH]),
    "mesh, then livekit": d3("avatar", 0, foci_preferred=[MESH, ALIAS]),
    "livekit and our extension": d3(
        "tile", 1, **{"rtcfoci.transports": {"published": [MESH], "can_subscribe": ["rtcfoci.mesh"]}}
    ),
    "livekit without alias": d3("tile", 0, foci_preferred=[LIVEKIT]),
    "livekit without URL": d3("avatar", 0, foci_preferred=[{"type": "livekit", "livekit_alias": "!"}]),
    "focus without type": d3("nothing", 0, foci_preferred=[{"livekit_alias": "!"}]),
    "more in the focus": d3("tile", 1, foci_preferred=[{**ALIAS, "x": 1}]),
    "intent": d3("tile", 1, **{"m.call.intent": "audio"}),
    "intent no text": d3("nothing", 1, **{"m.call.intent": 1}),
    "slot_id": d3("tile", 1, slot_id="m.call#ROOM"),
    "no membershipID": d3("tile", 1, "membershipID"),
    "no scope": d3("tile", 0, "scope"),
    "another scope": d3("tile", 0, scope="m.user"),
    "no call_id": d3("nothing", 0, "call_id"),
    "another call": d3("nothing", 1, call_id="other"),
    "another application": d3("nothing", 0, application="org.example.board"),
    "another application's ROOM": d3("tile", 0, application="org.example.board", call_id="ROOM"),
    "two #": d3("nothing", 1, call_id="a#b"),
    "receive-only": sticky("crashes", {**BOTH, "transports": published()}),
    "sticky, mesh": sticky("avatar", {**BOTH, "transports": published(MESH)}),
    "sticky, livekit then mesh": sticky("tile", {**BOTH, "transports": published(LIVEKIT, MESH)}),
    "sticky, mesh then livekit": sticky("avatar", {**BOTH, "transports": published(MESH, LIVEKIT)}),
    "sticky, focus without type": sticky("nothing", {**BOTH, "transports": published({"a": 1})}),
    "D7, no can_subscribe": sticky("nothing", {**BOTH, "transports": {"published": [LIVEKIT]}}),
    "pure D7": sticky(
        "nothing",
        {
            **less(D6, "versions", "msc4354_sticky_key"),
            "member": {"id": "uuid", "membership": "join"},
            "sticky_key": "uuid",
        },
    ),
    # The rest of what is written and read.
    "D6": sticky("tile", D6),
    "D6/D7": sticky("tile", BOTH),
    "D6, stable key alone": sticky("tile", {**less(D6, "msc4354_sticky_key"), "sticky_key": "uuid"}),
    "D6, keys differ": sticky("nothing", {**D6, "sticky_key": "other"}),
    "D6, no key": sticky("nothing", less(D6, "msc4354_sticky_key")),
    "D6, no versions": sticky("nothing", less(D6, "versions")),
    "D6, somebody else": sticky("nothing", {**D6, "member": {**MEMBER, "user_id": "@v:hs"}}),
    "D6, another slot": sticky("nothing", {**D6, "slot_id": "m.call#OTHER"}),
    "D6, slot of another application": sticky("nothing", {**D6, "slot_id": "org.example#ROOM"}),
    "D6, typo of the relation": sticky("tile", {**D6, "m.relation": {"rel_type": "m.reference"}}),
    "D6, relation": sticky(
        None, {**D6, "m.relates_to": {"rel_type": "m.reference", "event_id": "$e"}}
    ),
    "D6, another relation": sticky("nothing", {**D6, "m.relates_to": {"rel_type": "m.thread"}}),
    "D5": sticky("nothing", {**less(D6, "transports"), "rtc_transports": [LIVEKIT]}),
    "D2": d3("tile", 1, focus_active={"type": "livekit", "focus_selection": "oldest_membership"}),
    "D2, no foci": d3(
        None,
        1,
        foci_preferred=[],
        focus_active={"type": "livekit", "focus_selection": "oldest_membership"},
    ),
    "D1": Shape({"memberships": [D1]}, "nothing", 1, state_key=USER),
    "D1, two devices": Shape(
        {"memberships": [D1, {**D1, "device_id": "OTHER"}]}, "nothing", 2, state_key=USER
    ),
    "D1, one of them malformed": Shape(
        {"memberships": [D1, {**D1, "foci_active": [MESH]}]}, "nothing", 0, state_key=USER
    ),
    "D1 of Famedly": Shape(
        {
            "memberships": [
                {
                    **less(D1, "expires"),
                    "expires_ts": NOW_MS + 3_600_000,
                    "foci_active": [{"type": "mesh"}],
                }
            ]
        },
        "nothing",
        0,
        state_key=USER,
    ),
    "D0": Shape({"m.calls": [{"m.call_id": "1", "m.devices": []}]}, "nothing", 0, state_key=USER),
    "D4": Shape(
        {
            "session": {"application": "m.call", "call_id": ""},
            "member": MEMBER,
            "focus_active": MULTI,
            "foci_preferred": [ALIAS],
        },
        "nothing",
        0,
    ),
    # Times.
    "no expires": d3("tile", 0, "expires"),
    "expires as text": d3("tile", 0, expires="14400000"),
    "expires as words": d3("tile", 0, expires="soon"),
    "expires null": d3("tile", 0, expires=None),
    "expires in a list": d3("tile", 0, expires=[1]),
    "expires a fraction": d3("tile", 0, expires=14_400_000.5),
    "expires in 25 days": d3("tile", 1, expires=25 * 86_400_000),
    "created long ago": d3("nothing", 0, created_ts=1),
    "created null": d3("nothing", 1, created_ts=None),
    "created as text": d3("nothing", 0, created_ts="1"),
    # State keys, which the SDK does not look at.
    "user as key": Shape(D3, "tile", 1, state_key=USER),
    "device without application": Shape(D3, "tile", 1, state_key=f"_{USER}_{DEVICE}"),
    "no underscore": Shape(D3, None, 1, state_key=f"{USER}_{DEVICE}_m.call"),
    "no key": Shape(D3, "tile", 0, state_key=""),
    "key of words": Shape(D3, "tile", 0, state_key="call"),
    "key without device": Shape(D3, "tile", 0, state_key=f"_{USER}"),
    # Leaves.
    "left": Shape({}, "nothing", 0),
    "left, a reason": Shape({"leave_reason": "lost_connection"}, "nothing", 0),
    "left, D1": Shape({"memberships": []}, "nothing", 0, state_key=USER),
    "left, Element Call": sticky("nothing", {"msc4354_sticky_key": "uuid"}),
    "left, js-sdk": sticky("nothing", {"slot_id": "m.call#ROOM", "msc4354_sticky_key": "uuid"}),
    "left, D7": sticky(
        "nothing",
        {
            "slot_id": "m.call#ROOM",
            "member": {"id": "uuid", "membership": "leave"},
            "sticky_key": "uuid",
        },
    ),
    "left, both": sticky(
        "nothing",
        {
            "slot_id": "m.call#ROOM",
            "member": {**MEMBER, "membership": "leave"},
            "sticky_key": "uuid",
            "msc4354_sticky_key": "uuid",
        },
    ),
}  # fmt: skip
