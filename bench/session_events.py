"""The generated events of a session, as a homeserver gives them: one JSON line each.

In: which members, how they announce themselves (`WAYS`), and the events that change them. Out: what is
measured with them (`session_ours`, `session_js_sdk.mjs`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.state import state_member_id
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Slot, Transport

__all__ = ["ROOM_ID", "SLOT", "WAYS", "write_events"]

ROOM_ID = "!room:example.org"
SLOT = Slot(room_id=ROOM_ID)
WAYS = ("state", "sticky", "mixed")
"""All by state, all sticky, or by turns."""
_WRITERS = {"state": D3(), "sticky": Superset()}


def write_events(file: Path, way: str, members: int, changes: int) -> None:
    """Write the joins of so many members, then so many changes of their transports, each by another."""
    # Of the last minutes: both sides compare with the wall clock, and nothing may expire meanwhile.
    start_ts_ms = int(time.time() * 1000) - 600_000
    with file.open("w") as out:
        for event in _events(way, members, changes, start_ts_ms):
            out.write(json.dumps(event, separators=(",", ":")) + "\n")


def _events(way: str, members: int, changes: int, start_ts_ms: int) -> Iterator[dict[str, object]]:
    for number in range(members):
        yield _membership(way, number, 0, start_ts_ms + number)
    for count in range(changes):
        # Spread over the session: no member's place in it is special.
        number = count * 7919 % members
        yield _membership(way, number, 1 + count, start_ts_ms + members + count)


def _membership(way: str, number: int, version: int, at_ts_ms: int) -> dict[str, object]:
    if way == "mixed":
        way = ("state", "sticky")[number % 2]
    user_id, device_id = f"@user{number}:example.org", f"DEVICE{number}"
    member_id = f"{number:032x}" if way == "sticky" else state_member_id(user_id, device_id)
    transport = {"type": "livekit", "livekit_service_url": f"https://sfu{version}.example.org"}
    own = _WRITERS[way].join(
        OwnMembership(
            slot=SLOT,
            member=Member(user_id=user_id, device_id=device_id, member_id=member_id),
            transports=(Transport("livekit", transport),),
            can_subscribe=("livekit",),
        )
    )
    event: dict[str, object] = {
        "type": own.type,
        "sender": user_id,
        "room_id": ROOM_ID,
        "event_id": f"$v{version}of{number:030}",
        "origin_server_ts": at_ts_ms,
        "content": own.content,
    }
    if own.state_key is not None:
        event["state_key"] = own.state_key
    else:
        event["msc4354_sticky"] = {"duration_ms": own.sticky_duration_ms}
    return event
