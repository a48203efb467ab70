"""One measurement of our session in a process of its own, printed as JSON.

    python bench/session_ours.py each|load|memory FILE MEMBERS

FILE is what `session_events` writes: that many joins, then changes. All senders are in the room before
the clock starts, and the events are decoded.

* `each`: microseconds of every change, one at a time, in a session of that size.
* `load`: milliseconds from the first join to the sorted members.
* `memory`: bytes that stay allocated for a member, without the raw content that is kept, counted as JSON;
  what members share counts once.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

from session_events import SLOT

from rtcfoci.call.sessions import installed_dialects
from rtcfoci.core.model import Now, RoomEvent
from rtcfoci.core.session import Session
from rtcfoci.matrix.sync import read_event
from rtcfoci.plugin.manager import PluginManager


def decoded(lines: Iterable[str], now: Now) -> Iterator[RoomEvent]:
    for line in lines:
        event = read_event(json.loads(line), now.ts_ms)
        assert event is not None, line
        yield event


def session_of(events: Iterable[RoomEvent], now: Now) -> Session:
    """An empty session that knows who is in the room."""
    session = Session(SLOT, installed_dialects(PluginManager.load()))
    for event in events:
        session.receive(room_member(event.sender), now)
    return session


def room_member(user_id: str) -> RoomEvent:
    return RoomEvent(
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content={"membership": "join"},
        event_id=f"$room{user_id}",
        origin_server_ts_ms=0,
        received_ts_ms=0,
    )


def each(lines: list[str], members: int, now: Now) -> dict[str, object]:
    events = list(decoded(lines, now))
    session = session_of(events[:members], now)
    for event in events[:members]:
        session.receive(event, now)
    assert len(session) == members
    taken_us = []
    for event in events[members:]:
        start_ns = time.perf_counter_ns()
        diffs = session.receive(event, now)
        taken_us.append((time.perf_counter_ns() - start_ns) / 1000)
        assert len(diffs) == 1, diffs
    return {"us": taken_us}


def load(lines: list[str], members: int, now: Now) -> dict[str, object]:
    events = list(decoded(lines[:members], now))
    session = session_of(events, now)
    start_ns = time.perf_counter_ns()
    for event in events:
        session.receive(event, now)
    found = session.members
    taken_ms = (time.perf_counter_ns() - start_ns) / 1e6
    assert len(found) == members
    return {"ms": taken_ms}


def memory(lines: list[str], members: int, now: Now) -> dict[str, object]:
    session = session_of((), now)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    # Each event is decoded by itself, as it comes by itself: nothing is shared because of the file.
    for event in decoded(lines[:members], now):
        session.receive(room_member(event.sender), now)
        session.receive(event, now)
    assert len(session.members) == members
    del event
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = {
        id(content): content
        for member in session.members
        for content in (*(t.raw for t in member.transports), member.application, member.more)
    }
    raw = sum(len(json.dumps(content, separators=(",", ":"))) for content in kept.values())
    return {"bytes": (after - before - raw) / members, "raw_bytes": raw / members}


def main() -> None:
    what, file, members = sys.argv[1:]
    lines = Path(file).read_text().splitlines()
    now = Now(s=0.0, ts_ms=int(time.time() * 1000))
    result = {"each": each, "load": load, "memory": memory}[what](lines, int(members), now)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
