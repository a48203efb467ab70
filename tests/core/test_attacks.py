"""What one member could do to everybody else's session, each by name.

`tests/interop/test_attacks.py` shows what it does to others.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.model import Slot
from rtcfoci.core.policies import DEPLOYED, TOLERANT
from rtcfoci.core.session import EventIgnored, MemberJoined, MemberLeft, Session

DAY_MS = 24 * 3_600_000
NOW_MS = 400 * DAY_MS


@pytest.fixture(params=[DEPLOYED, TOLERANT], ids=lambda policy: policy.name)
def taken(request, room):
    """Takes events into a session that two users are joined to, and gives the diffs of the last."""
    session = Session(room.slot, room.dialects, policy=request.param)

    def take(*events, at_ms=NOW_MS):
        diffs = ()
        for event in events:
            diffs = session.receive(event, room.now(at_ms))
        return diffs

    take.session = session
    take(room.presence("@ann:hs"), room.presence("@eve:hs"))
    return take


def changed(event, **content):
    return replace(event, content={**event.content, **content})


@pytest.mark.parametrize("expires", ["x", "99999999999999", None, [], {}, True, 1.5, 2**60])
def test_the_room_wide_denial_of_service_event(room, taken, expires):
    """`expires` of an invalid type: nobody is a member for ever, and no timer is set by it."""
    ann = room.write(room.d3, "join", NOW_MS, room.own("@ann:hs"))
    eve = room.write(room.d3, "join", NOW_MS, room.own("@eve:hs"))
    taken(ann)
    due_ts_ms = taken.session.next_timer_ts_ms
    (ignored,) = taken(changed(eve, created_ts=1, expires=expires))
    assert isinstance(ignored, EventIgnored)
    assert [m.member.user_id for m in taken.session.members] == ["@ann:hs"]
    assert taken.session.next_timer_ts_ms == due_ts_ms


def test_the_room_wide_denial_of_service_event_ends_who_was_in(room, taken):
    join = room.write(room.d3, "join", NOW_MS, room.own("@eve:hs"))
    taken(join)
    again = room.write(room.d3, "join", NOW_MS + 1, room.own("@eve:hs"))
    assert [type(diff) for diff in taken(changed(again, expires="x"))] == [EventIgnored, MemberLeft]
    assert taken.session.next_timer_ts_ms is None


def test_one_timer_however_far_an_end_is(room, taken):
    """The timer is a time on the clock: it cannot run over, and is asked for again at leisure."""
    eve = changed(
        room.write(room.d3, "join", NOW_MS, room.own("@eve:hs")), expires=2**52, created_ts=1
    )
    taken(eve)
    assert taken.session.next_timer_ts_ms in (1 + 2**52, NOW_MS + 30 * DAY_MS)
    for n in range(1, 4):
        assert taken.session.handle_timer(room.now(NOW_MS + n)) == ()


@pytest.mark.parametrize("dialect", ["d2", "d3", "superset"])
def test_the_slot_mix_up(room, taken, dialect):
    """The whole slot id is compared: the ROOM of another application is another slot."""
    board = Slot(room_id=room.slot.room_id, application="org.board")
    own = replace(room.own("@eve:hs"), slot=board)
    event = room.write(getattr(room, dialect), "join", NOW_MS, own)
    assert taken(event) == ()
    assert [p.code for p in taken.session.explain(event, room.now(NOW_MS))] == ["other_slot"]


@pytest.mark.parametrize("name", ["sticky_key", "msc4354_sticky_key"])
def test_the_misfiled_sticky_event(room, taken, name):
    """Either name of the sticky key is its name: a refresh supersedes, a leave ends."""

    def keyed(event):
        other = {"sticky_key", "msc4354_sticky_key"} - {name}
        return replace(event, content={k: v for k, v in event.content.items() if k not in other})

    own = room.own("@ann:hs")
    join, refresh = (keyed(room.write(room.superset, "join", NOW_MS + n, own)) for n in (0, 1))
    assert [type(diff) for diff in taken(join)] == [MemberJoined]
    taken(refresh, at_ms=NOW_MS + 1)
    assert [m.event_id for m in taken.session.members] == [refresh.event_id]
    bare = replace(room.write(room.superset, "leave", NOW_MS + 2, own), content={name: "uuid"})
    assert [type(diff) for diff in taken(bare, at_ms=NOW_MS + 2)] == [MemberLeft]
    assert taken.session.members == ()


def test_a_stranger_hides_a_member_from_deployed_clients_alone(room, taken):
    ann = room.write(room.d3, "join", NOW_MS, room.own("@ann:hs"))
    hide = room.event(
        "org.matrix.msc4143.rtc.member",
        {"msc4354_sticky_key": ann.state_key},
        NOW_MS,
        "@eve:hs",
        sticky_duration_ms=3_600_000,
    )
    taken(hide, ann)
    hidden = taken.session.policy is DEPLOYED
    assert len(taken.session) == (0 if hidden else 1)
    why = [p.code for p in taken.session.explain(ann, room.now(NOW_MS))]
    assert why == (["superseded"] if hidden else [])
    # It comes back when what hides it is gone.
    diffs = taken.session.receive(
        room.event("m.room.redaction", {}, NOW_MS, redacts=hide.event_id), room.now(NOW_MS)
    )
    assert [type(diff) for diff in diffs] == ([MemberJoined] if hidden else [])
    assert len(taken.session) == 1
