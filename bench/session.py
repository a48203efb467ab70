"""What a session costs for one event: at 1,000 members, and at 100,000 over 10.

    python bench/session.py

Every timed event is a member's membership with other transports, so each gives a diff. Events are read
and made before the clock starts, and the garbage collector is off: a full collection at 100,000 members is
the interpreter's cost. The figure is the median over single events, timed with both ways of writing.

Budgets (design.md): 20 us as state, 40 us as a sticky event, and at 100,000 members 3x that at 10.
Exits with 1 when one is exceeded.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time

from startup import machine

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.state import state_member_id
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Now, RoomEvent, Slot, Transport
from rtcfoci.core.session import Session

SLOT = Slot(room_id="!room:example.org", application="m.call", name="ROOM")
START_TS_MS = 1_750_000_000_000
BUDGETS_US = {"state": 20.0, "sticky": 40.0}
SCALING = 3.0
WRITERS = {"state": D3(), "sticky": Superset()}


def membership(way: str, number: int, version: int) -> RoomEvent:
    """The membership of one member, with transports that tell its versions apart."""
    user_id, device_id = f"@user{number}:example.org", f"DEVICE{number}"
    member_id = f"{number:032x}" if way == "sticky" else state_member_id(user_id, device_id)
    transport = {"type": "livekit", "livekit_service_url": f"https://sfu{version}.example.org"}
    own = OwnMembership(
        slot=SLOT,
        member=Member(user_id=user_id, device_id=device_id, member_id=member_id),
        transports=(Transport("livekit", transport),),
        can_subscribe=("livekit",),
    )
    event = WRITERS[way].join(own)
    at_ts_ms = START_TS_MS + number + 1000 * version
    return RoomEvent(
        type=event.type,
        sender=user_id,
        content=event.content,
        event_id=f"$v{version}of{number:030}",
        origin_server_ts_ms=at_ts_ms,
        received_ts_ms=at_ts_ms,
        state_key=event.state_key,
        sticky_duration_ms=event.sticky_duration_ms,
    )


def room_member(number: int) -> RoomEvent:
    """That a user is in the room; before, no membership counts."""
    user_id = f"@user{number}:example.org"
    return RoomEvent(
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content={"membership": "join"},
        event_id=f"$room{number:030}",
        origin_server_ts_ms=START_TS_MS,
        received_ts_ms=START_TS_MS,
    )


def event_us(way: str, members: int, events: int) -> float:
    """The median time of one event in a session of that size, microseconds."""
    session = Session(SLOT, (D2(), D3(), Superset()))
    for number in range(members):
        now = Now(s=0.0, ts_ms=START_TS_MS + number)
        session.receive(room_member(number), now)
        session.receive(membership(way, number, 0), now)
    assert len(session) == members
    coming = [membership(way, i % members, 1 + i // members) for i in range(events)]
    taken = []
    gc.collect()
    gc.disable()
    try:
        for event in coming:
            now = Now(s=1.0, ts_ms=event.origin_server_ts_ms)
            start = time.perf_counter_ns()
            diffs = session.receive(event, now)
            taken.append(time.perf_counter_ns() - start)
            assert diffs
    finally:
        gc.enable()
    return statistics.median(taken) / 1000


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2000)
    arguments = parser.parse_args()
    print(machine())
    exceeded = False
    for way, budget_us in BUDGETS_US.items():
        few, usual, many = (event_us(way, n, arguments.events) for n in (10, 1000, 100_000))
        over = usual > budget_us or many > SCALING * few
        exceeded = exceeded or over
        print(
            f"{way:<7} 10 members {few:5.1f} us, 1,000 {usual:5.1f} us (budget {budget_us:.0f}), "
            f"100,000 {many:5.1f} us, {many / few:.2f}x (budget {SCALING:.0f}x): "
            f"{'EXCEEDED' if over else 'ok'}"
        )
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
