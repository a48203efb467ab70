"""The session and time: when members are let go, and that nobody can fill the list of whom to let go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.session import (
    LeftReason,
    Session,
)
from tests.core.driving import Driven

HOUR_MS = 3_600_000


@pytest.fixture
def driven(room):
    return Driven(room).in_room("@u:hs", "@v:hs")


def test_expiry_by_timer(room, driven):
    driven.take(room.write(room.d3, "join", 1000, room.own(lifetime_ms=5000)))
    driven.take(room.write(room.superset, "join", 1000, room.own("@v:hs")))
    assert driven.session.next_timer_ts_ms == 6000
    assert driven.timer(5999) == ()
    (left,) = driven.timer(6000)
    assert (left.membership.member.user_id, left.reason) == ("@u:hs", LeftReason.EXPIRED)
    assert driven.session.next_timer_ts_ms == 1000 + HOUR_MS
    (left,) = driven.timer(1000 + HOUR_MS)
    assert (left.membership.member.user_id, left.reason) == ("@v:hs", LeftReason.EXPIRED)
    assert driven.session.next_timer_ts_ms is None


def test_any_event_lets_go_of_what_has_expired(room, driven):
    driven.take(room.write(room.d3, "join", 1000, room.own(lifetime_ms=5000)))
    (left,) = driven.take(room.event("m.room.message", {}, 9000))
    assert left.reason is LeftReason.EXPIRED


def test_a_membership_that_has_expired_on_arrival(room, driven):
    driven.take(room.write(room.d3, "join", 1000))
    # To the millisecond: a membership no longer counts at the time that it names.
    (left,) = driven.take(room.write(room.d3, "join", 2000, room.own(lifetime_ms=5000)), 7000)
    assert left.reason is LeftReason.EXPIRED
    assert driven.session.next_timer_ts_ms is None


def test_a_refresh_moves_the_timer_and_old_expiries_are_cleared_away(room, driven):
    for n in range(300):
        driven.take(room.write(room.d3, "refresh", 1000 + n, created_ts_ms=1000))
    assert driven.session.next_timer_ts_ms == 1299 + 4 * HOUR_MS
    assert len(driven.session._expiries) <= 2 + 65


def test_of_one_event_only_the_next_expiry_is_awaited(room, driven):
    """Else every event of a user with many devices would cost a look at all the expiries there are."""
    devices = [
        {
            "device_id": f"D{n}",
            "call_id": "",
            "expires": HOUR_MS + n,
            "foci_active": [room.livekit.raw],
        }
        for n in range(64)
    ]
    session = driven.session = Session(room.slot, [D1()])
    driven.in_room("@u:hs")
    driven.take(room.event(D1.event_types[0], {"memberships": devices}, 1000, state_key="@u:hs"))
    assert len(session) == 64
    for n in range(64):
        assert len(session._expiries) == 1
        (left,) = driven.timer(session.next_timer_ts_ms)
        assert left.reason is LeftReason.EXPIRED
        assert left.membership.member.device_id == f"D{n}"
    assert session.next_timer_ts_ms is None


@pytest.mark.parametrize("expires", [2**53 - 1, 10**15])
def test_hostile_expiry_keeps_the_timer_within_a_month(room, driven, expires):
    event = room.write(room.d3, "join", 1000)
    driven.take(replace(event, content={**event.content, "expires": expires, "created_ts": 1}))
    assert driven.session.next_timer_ts_ms == 1000 + 30 * 24 * HOUR_MS


def test_where_nobody_is_superseded_there_is_nothing_to_clear_away(room, driven):
    """Which is linear in who is there, so that each event of a large room would cost as much."""
    awaited = driven.session._expiries
    for n in range(200):
        driven.take(room.write(room.d3, "join", 1000, room.own(device=f"D{n}")))
    assert driven.session._expiries is awaited
    assert len(awaited) == 200


def test_who_comes_back_after_everything_expired_joins_anew(room, driven):
    driven.take(room.write(room.superset, "join", 1000))
    driven.timer(1000 + HOUR_MS)
    (joined,) = driven.take(room.write(room.superset, "join", 3 * HOUR_MS))
    assert joined.membership.created_ts_ms == 3 * HOUR_MS


def test_who_left_joins_anew_though_the_leave_has_expired(room, driven):
    driven.take(room.write(room.superset, "join", 1000))
    driven.take(room.write(room.superset, "leave", 2000))
    driven.timer(2000 + HOUR_MS)
    (joined,) = driven.take(room.write(room.superset, "join", 3 * HOUR_MS))
    assert joined.membership.created_ts_ms == 3 * HOUR_MS


def test_a_join_is_remembered_beyond_its_first_event_though_one_in_between_cannot_be_read(
    room, driven
):
    join = room.write(room.superset, "join", 1000)
    driven.take(join)
    odd = room.write(room.superset, "join", HOUR_MS // 2)
    driven.take(replace(odd, content={**odd.content, "transports": 5}))
    driven.timer(1000 + HOUR_MS)
    (joined,) = driven.take(room.write(room.superset, "join", HOUR_MS + 2000))
    assert joined.membership.created_ts_ms == 1000


def test_who_ends_first_is_let_go_first(room, driven):
    for device, lifetime_ms in (("A", 6000), ("B", 9000), ("C", 3000)):
        driven.take(
            room.write(room.d3, "join", 1000, room.own(device=device, lifetime_ms=lifetime_ms))
        )
    gone = []
    for ends_ms in (4000, 7000, 10_000):
        assert driven.session.next_timer_ts_ms == ends_ms
        gone += [diff.membership.member.device_id for diff in driven.timer(ends_ms)]
    assert gone == ["C", "A", "B"]
