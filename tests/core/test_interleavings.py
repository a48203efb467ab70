"""Every interleaving of five operations of three members, against a model of a few lines.

State: a homeserver keeps the order, so an interleaving is any sequence of operations by any of the members.
Sticky: whatever was sent arrives in any order, and twice. Members differ by name only and no two events share
a time, so sequences that differ by who is called what are the same one.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement, permutations, product

import pytest

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.diffs import MemberChanged, MemberJoined, MemberLeft, MemberRefreshed
from rtcfoci.core.model import Member, Now, RoomEvent, Slot, Transport
from rtcfoci.core.session import Session

SLOT = Slot(room_id="!room:hs")
TICK_MS = 1000
BRIEF_MS = 1500
"""Counts for the tick in which it is sent and the next."""
LONG_MS = 3_600_000


def user(who):
    return f"@{'abc'[who]}:hs"


def at(ts_ms):
    return Now(ts_ms / 1000, ts_ms)


@cache
def event(dialect, who, kind, ts_ms, created_ts_ms=None, for_ms=LONG_MS):
    """What a member sends to join, to be there with something else, or to leave; its id is its time."""
    own = OwnMembership(
        slot=SLOT,
        member=Member(user_id=user(who), device_id="DEV", member_id=f"id{who}"),
        transports=(Transport("t", {"type": "t", "at": ts_ms}),),
        lifetime_ms=for_ms,
    )
    if kind == "leave":
        written = dialect.leave(own)
    elif created_ts_ms is None:
        written = dialect.join(own)
    else:
        written = dialect.refresh(own, created_ts_ms=created_ts_ms, now_ts_ms=ts_ms)
    return RoomEvent(
        type=written.type,
        sender=user(who),
        content=written.content,
        event_id=f"${ts_ms}",
        origin_server_ts_ms=ts_ms,
        received_ts_ms=ts_ms,
        state_key=written.state_key,
        sticky_duration_ms=written.sticky_duration_ms and for_ms,
    )


@cache
def redaction(event_id):
    return RoomEvent(
        type="m.room.redaction",
        sender="@moderator:hs",
        content={},
        event_id=f"{event_id}redacted",
        origin_server_ts_ms=0,
        received_ts_ms=0,
        redacts=event_id,
    )


@cache
def presence(who, says):
    return RoomEvent(
        type="m.room.member",
        sender="@moderator:hs",
        content={"membership": says},
        event_id=f"${who}{says}",
        origin_server_ts_ms=0,
        received_ts_ms=0,
        state_key=user(who),
    )


class Told:
    """A session that is told what happened, and its members by its diffs alone."""

    def __init__(self, dialects):
        self.session = Session(SLOT, dialects)
        self.by_diffs = {}
        for who in range(3):
            self.session.receive(presence(who, "join"), at(0))

    def take(self, diffs):
        for diff in diffs:
            match diff:
                case MemberJoined(membership):
                    assert membership.member not in self.by_diffs
                    self.by_diffs[membership.member] = membership
                case MemberLeft(membership, _):
                    assert self.by_diffs.pop(membership.member) == membership
                case MemberChanged(old, new) | MemberRefreshed(old, new):
                    assert self.by_diffs[old.member] == old
                    self.by_diffs[new.member] = new

    @property
    def shown(self):
        members = self.session.members
        assert {m.member: m for m in members} == self.by_diffs
        return [m.event_id for m in members]


# State.

STATE_KINDS = ("put", "brief", "leave", "kick", "redact")
OUT = (True, None, None)
"""Of one member: whether it is in the room, (event id, created, until) of what counts, its last event."""


def do(member, who, kind, ts_ms, d3):
    """Say what an operation makes of a member, and the event that does it."""
    in_room, current, last = member
    if kind == "kick":  # or, being out, come back
        return (not in_room, current, last), presence(who, "leave" if in_room else "join")
    if kind == "redact":
        counts = current is not None and current[0] == last
        return (in_room, None if counts else current, last), redaction(last or "$none")
    if kind == "leave":
        return (in_room, None, f"${ts_ms}"), event(d3, who, kind, ts_ms)
    for_ms = BRIEF_MS if kind == "brief" else LONG_MS
    joined_ms = ts_ms if current is None else current[1]
    sent = event(d3, who, kind, ts_ms, joined_ms, for_ms)
    return (in_room, (sent.event_id, joined_ms, ts_ms + for_ms), sent.event_id), sent


def test_state_in_every_order_of_five_operations():
    d3 = D3()
    explored = 0

    def explore(told, members, known):
        """Check where this sequence leads, then every one that begins with it."""
        nonlocal explored
        explored += 1
        session, now_ms = Told((d3,)), len(told) * TICK_MS
        for number, happened in enumerate(told, 1):
            session.take(session.session.receive(happened, at(number * TICK_MS)))
        counting = [current for in_room, current, _ in members if in_room and current is not None]
        assert session.shown == [
            event_id for event_id, _, _ in sorted(counting, key=lambda current: current[1])
        ]
        if len(told) == 5:
            session.take(session.session.handle_timer(at(now_ms + 2 * LONG_MS)))
            assert session.shown == []
            return
        next_ms = now_ms + TICK_MS
        later = [
            (in_room, current if current is not None and current[2] > next_ms else None, last)
            for in_room, current, last in members
        ]
        for who, kind in product(range(min(known + 1, 3)), STATE_KINDS):
            member, happened = do(later[who], who, kind, next_ms, d3)
            explore(
                (*told, happened),
                (*later[:who], member, *later[who + 1 :]),
                max(known, who + 1),
            )

    explore((), (OUT, OUT, OUT), 0)
    # Of n operations: 5 kinds each, and as many ways to name at most three members by first appearance.
    assert explored == sum(names * 5**n for n, names in enumerate((1, 1, 2, 5, 14, 41)))
    print(f"{explored:,} sequences of up to five operations")


# Sticky.

STICKY_KINDS = ("put", "brief", "leave", "redact", "again")
HEARD_MS = 100 * TICK_MS
"""All of it was sent before; one event arrives each tick."""
BRIEF_UNTIL_MS = HEARD_MS + 5 * TICK_MS // 2


def lives(length):
    """What one member may send: the first is a membership or a leave, then anything."""
    return list(product(STICKY_KINDS[:3], *[STICKY_KINDS] * (length - 1)))


def sent(who, life, superset):
    """Write the events of one member, in the order of sending."""
    events = []
    for number, kind in enumerate(life):
        ts_ms = (1 + 3 * number + who) * TICK_MS
        own = [e for e in events if e.redacts is None]
        if kind == "again":
            events.append(own[-1])
        elif kind == "redact":
            events.append(redaction(own[-1].event_id))
        else:
            for_ms = BRIEF_UNTIL_MS - ts_ms if kind == "brief" else LONG_MS
            events.append(event(superset, who, kind, ts_ms, for_ms=for_ms))
    return events


def winners(arrived, now_ms):
    """Of each member the last to expire that has not, by MSC4354, where that is no leave."""
    redacted = {e.redacts for e in arrived}
    best = {}
    for e in arrived:
        ends_ms = e.origin_server_ts_ms + (e.sticky_duration_ms or 0)
        if e.redacts is None and e.event_id not in redacted and ends_ms > now_ms:
            best[e.sender] = max(best.get(e.sender, (0, None)), (ends_ms, e.event_id))
    joined = {e.event_id for e in arrived if "application" in e.content}
    return {event_id for _, event_id in best.values()} & joined


@pytest.mark.parametrize(
    ("lengths", "count"),
    [((3, 1, 1), 42_480), ((2, 2, 1), 35_100)],
    ids=["three of one", "two of two"],
)
def test_sticky_in_every_order_of_arrival(lengths, count):
    superset = Superset()
    explored = 0
    alone = lengths.index(1)
    if alone == 2:  # members of equal number of operations are interchangeable
        groups = product(combinations_with_replacement(lives(2), 2), lives(1))
        histories = [(*two, one) for two, one in groups]
    else:
        groups = product(lives(3), combinations_with_replacement(lives(1), 2))
        histories = [(three, *ones) for three, ones in groups]
    for history in histories:
        events = [e for who, life in enumerate(history) for e in sent(who, life, superset)]
        by_id = {e.event_id: e for e in events}
        for order in set(permutations(e.event_id for e in events)):
            explored += 1
            told, arrived = Told((superset,)), []
            for number, event_id in enumerate(order):
                now = at(HEARD_MS + number * TICK_MS)
                arrived.append(by_id[event_id])
                told.take(told.session.receive(arrived[-1], now))
                assert set(told.shown) == winners(arrived, now.ts_ms), order
    assert explored == count
    print(f"{explored:,} orders of arrival of {len(histories)} histories")
