"""The session against a model that starts from scratch every time, and against anything at all."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rtcfoci.core.dialects import Leave, OwnMembership, parse_event
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Membership, Now, RoomEvent, Slot, Transport
from rtcfoci.core.session import (
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    Session,
)
from rtcfoci.core.sticky import read_sticky_key

SLOT = Slot(room_id="!room:hs")
DIALECTS = (D2(), D3(), Superset())
USERS = ("@u:hs", "@v:hs")
NOW_MS = 1000
"""When every event is received; origin's times lie around it."""


def at(ts_ms):
    return Now(ts_ms / 1000, ts_ms)


def presence(user, membership="join"):
    return RoomEvent(
        type="m.room.member",
        sender=user,
        content={"membership": membership},
        event_id=f"$in{user}{membership}",
        origin_server_ts_ms=0,
        received_ts_ms=0,
        state_key=user,
    )


@st.composite
def membership_events(draw):
    """One event that a client might send; event ids are given by its place in the list."""
    dialect = draw(st.sampled_from(DIALECTS))
    lifetime_ms = draw(st.sampled_from([5, 20, 4000]))
    own = OwnMembership(
        slot=draw(st.sampled_from([SLOT, SLOT, SLOT, replace(SLOT, application="org.board")])),
        member=Member(
            user_id=draw(st.sampled_from(USERS)),
            device_id=draw(st.sampled_from("AB")),
            member_id=draw(st.sampled_from(["x", "y"])),
        ),
        transports=(Transport("t", {"type": draw(st.sampled_from(["t", "s"]))}),),
        lifetime_ms=lifetime_ms,
    )
    ts_ms = NOW_MS + draw(st.integers(-6, 6))
    kind = draw(st.sampled_from(["join", "join", "refresh", "leave", "broken"]))
    if kind == "refresh":
        written = dialect.refresh(own, created_ts_ms=ts_ms - 3, now_ts_ms=ts_ms)
    else:
        written = dialect.leave(own) if kind == "leave" else dialect.join(own)
    content = written.content
    if kind == "broken":
        content = {**content, "application": 7}
    return RoomEvent(
        type=written.type,
        sender=own.member.user_id,
        content=content,
        event_id="",
        origin_server_ts_ms=ts_ms,
        received_ts_ms=NOW_MS,
        state_key=written.state_key,
        sticky_duration_ms=written.sticky_duration_ms and lifetime_ms,
    )


histories = st.lists(membership_events(), max_size=10).map(
    lambda events: [replace(event, event_id=f"${n:02}") for n, event in enumerate(events)]
)


def model(events, now_ms, redacted=()):
    """Who is in the session, by the rules in the session's docstring, all at once.

    :param events: in order of arrival, which only state depends on.
    """
    by_key = {}
    for event in events:
        key = event.state_key if event.state_key is not None else read_sticky_key(event.content)
        by_key.setdefault((event.sender, event.type, key), []).append(event)
    devices = {}
    for group in by_key.values():
        sticky = group[0].state_key is None
        if sticky:
            group = [
                e
                for e in group
                if e.event_id not in redacted
                and min(e.origin_server_ts_ms, NOW_MS) + e.sticky_duration_ms > now_ms
            ]
            rank = lambda e: (e.origin_server_ts_ms + e.sticky_duration_ms, e.event_id)  # noqa: E731
        else:
            rank = events.index
        group = sorted(group, key=rank, reverse=True)
        parsed = [parse_event(DIALECTS, event, SLOT.room_id) for event in group]
        if not parsed or not isinstance(parsed[0], Membership) or group[0].event_id in redacted:
            continue
        winner = parsed[0]
        if sticky:
            created = []
            for event, one in zip(group, parsed, strict=True):
                if isinstance(one, Leave):
                    break
                if isinstance(one, Membership):
                    if one.member != winner.member:
                        break
                    created.append(event.origin_server_ts_ms)
            winner = replace(winner, created_ts_ms=min(created))
        if winner.expires_ts_ms <= now_ms or winner.slot_id != SLOT.slot_id:
            continue
        device = (winner.member.user_id, winner.member.device_id)
        newness = (winner.created_ts_ms, winner.event_id)
        devices[device] = max(
            devices.get(device, ((-1, ""), None)), (newness, winner), key=lambda d: d[0]
        )
    members = [winner for _, winner in devices.values()]
    return tuple(sorted(members, key=lambda m: (m.created_ts_ms, m.member.order)))


def fresh():
    session = Session(SLOT, DIALECTS)
    for user in USERS:
        session.receive(presence(user), at(0))
    return session


def follow(shown, diffs):
    for diff in diffs:
        match diff:
            case MemberJoined(membership):
                assert membership.member not in shown
                shown[membership.member] = membership
            case MemberLeft(membership, _):
                assert shown.pop(membership.member) == membership
            case MemberChanged(old, new) | MemberRefreshed(old, new):
                assert shown[old.member] == old
                shown[new.member] = new


def devices_of(members):
    return {(m.member.user_id, m.member.device_id) for m in members}


@settings(max_examples=400)
@given(data=st.data(), history=histories)
def test_the_fold_is_the_model_in_every_order(data, history):
    order = data.draw(st.permutations(history))
    redacted = (
        data.draw(st.sets(st.sampled_from([e.event_id for e in history]), max_size=2))
        if history
        else set()
    )
    session, shown = fresh(), {}
    for event in order:
        follow(shown, session.receive(event, at(NOW_MS)))
    assert session.members == model(order, NOW_MS)
    for event_id in redacted:
        redaction = replace(presence("@u:hs"), type="m.room.redaction", redacts=event_id)
        follow(shown, session.receive(redaction, at(NOW_MS)))
    # How old a member is does not change when an earlier event of it is redacted: who, may.
    assert devices_of(session.members) == devices_of(model(order, NOW_MS, redacted))
    assert {m.member: m for m in session.members} == shown
    assert len(devices_of(session.members)) == len(session)


@settings(max_examples=200)
@given(history=histories, again=st.booleans())
def test_time_passes_by_timers_alone(history, again):
    session, shown = fresh(), {}
    for event in history * (2 if again else 1):
        follow(shown, session.receive(event, at(NOW_MS)))
    last_ms = NOW_MS
    while (timer_ms := session.next_timer_ts_ms) is not None:
        assert timer_ms > last_ms
        last_ms = timer_ms
        follow(shown, session.handle_timer(at(timer_ms)))
        assert {m.member: m for m in session.members} == shown
        assert [m.member for m in session.members if m.expires_ts_ms <= timer_ms] == []
        # The model has forgotten expired events, and with them how old a member is.
        assert devices_of(session.members) == devices_of(model(history, timer_ms))
    assert session.members == ()


any_text = st.text(st.characters(exclude_categories=()), max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
event_types = st.sampled_from(
    [
        "org.matrix.msc3401.call.member", "m.call.member", "org.matrix.msc4143.rtc.member",
        "m.rtc.member", "org.matrix.msc4143.rtc.slot", "m.rtc.slot", "m.room.member",
        "m.room.encryption", "m.room.redaction", "m.room.message",
    ]
)  # fmt: skip
hostile_events = st.builds(
    RoomEvent,
    type=event_types,
    sender=st.sampled_from(USERS) | st.text(max_size=5),
    content=json_values | st.dictionaries(st.text(max_size=4), json_values, max_size=4),
    event_id=st.sampled_from([f"${n}" for n in range(6)]),
    origin_server_ts_ms=st.integers(),
    received_ts_ms=st.integers(0, 2000),
    state_key=st.none() | st.sampled_from([*USERS, "", "m.call#ROOM", "_@u:hs_A_m.call"]),
    sticky_duration_ms=st.none() | st.integers(),
    sticky_ttl_ms=st.none() | st.integers(),
    encrypted=st.booleans(),
    encrypted_by_device_id=st.none() | st.sampled_from("AB"),
    redacts=st.none() | st.none() | st.sampled_from([f"${n}" for n in range(6)]),
)


@settings(max_examples=300)
@given(
    events=st.lists(
        hostile_events
        | st.builds(
            # Something that was a good event until one field was replaced.
            lambda event, key, value, event_id: replace(
                event, content={**event.content, key: value}, event_id=event_id
            ),
            membership_events(),
            st.sampled_from(
                ["application", "slot_id", "member", "transports", "expires", "created_ts",
                 "foci_preferred", "focus_active", "device_id", "call_id", "sticky_key",
                 "msc4354_sticky_key", "rtcfoci.transports"]
            ),
            json_values,
            st.sampled_from([f"${n}" for n in range(6)]),
        ),
        max_size=12,
    ),
    times=st.lists(st.integers(0, 5000), min_size=12, max_size=12),
)  # fmt: skip
def test_nothing_a_member_sends_raises(events, times):
    session, shown = fresh(), {}
    for event, ts_ms in zip(events, times, strict=False):
        follow(shown, session.receive(event, at(ts_ms)))
        assert {m.member: m for m in session.members} == shown
        timer_ms = session.next_timer_ts_ms
        assert timer_ms is None or timer_ms <= 2000 + 30 * 24 * 3_600_000
    follow(shown, session.handle_timer(at(2000 + 31 * 24 * 3_600_000)))
    assert session.members == ()
    assert session.next_timer_ts_ms is None
