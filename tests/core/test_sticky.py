"""The sticky map by MSC4354: winners, clamps, tombstones, redaction, order of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.model import Now, RoomEvent
from rtcfoci.core.sticky import (
    MAX_DURATION_MS,
    MAX_HISTORY,
    StickyMap,
    filing_key,
    read_sticky_key,
    sticky_expires_ts_ms,
)
from rtcfoci.errors import Problem

HOUR_MS = 3_600_000


def event(event_id, ts_ms=1000, duration_ms=HOUR_MS, ttl_ms=None, received_ts_ms=None, sender="@u"):
    return RoomEvent(
        type="t",
        sender=sender,
        content={},
        event_id=event_id,
        origin_server_ts_ms=ts_ms,
        received_ts_ms=ts_ms if received_ts_ms is None else received_ts_ms,
        sticky_duration_ms=duration_ms,
        sticky_ttl_ms=ttl_ms,
    )


def at(ts_ms):
    return Now(ts_ms / 1000, ts_ms)


KEY = ("@u", "t", "k")


@pytest.mark.parametrize(
    ("fields", "expires_ts_ms"),
    [
        ({"ts_ms": 1000}, 1000 + HOUR_MS),
        ({"ts_ms": 1000, "duration_ms": 2 * HOUR_MS}, 1000 + HOUR_MS),
        ({"ts_ms": 1000, "duration_ms": -5}, 1000),
        ({"ts_ms": 1000, "duration_ms": None}, 1000),
        ({"ts_ms": 9000, "received_ts_ms": 1000}, 1000 + HOUR_MS),
        ({"ts_ms": 1000, "received_ts_ms": 9000}, 1000 + HOUR_MS),
        ({"ts_ms": 1000, "received_ts_ms": 9000, "ttl_ms": 50}, 9050),
        ({"ts_ms": 1000, "received_ts_ms": 9000, "ttl_ms": 0}, 9000),
        ({"ts_ms": 1000, "received_ts_ms": 9000, "ttl_ms": -7}, 9000),
        ({"ts_ms": 1000, "received_ts_ms": 9000, "ttl_ms": 2 * HOUR_MS}, 9000 + HOUR_MS),
        ({"ts_ms": 2**80, "received_ts_ms": 9000, "duration_ms": 2**80}, 9000 + HOUR_MS),
    ],
)
def test_expiry(fields, expires_ts_ms):
    assert sticky_expires_ts_ms(event("$a", **fields)) == expires_ts_ms


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"msc4354_sticky_key": "a"}, "a"),
        ({"sticky_key": "a"}, "a"),
        ({"sticky_key": "a", "msc4354_sticky_key": "a"}, "a"),
        ({"sticky_key": ""}, ""),
        ({}, "missing_sticky_key"),
        ({"sticky_key": None}, "wrong_type"),
        ({"sticky_key": "a", "msc4354_sticky_key": "b"}, "sticky_keys_differ"),
        ({"sticky_key": "a" * 255}, "a" * 255),
        ({"sticky_key": "a" * 256}, "too_long"),
    ],
)
def test_key(content, key):
    read = read_sticky_key(content)
    assert (read.code if isinstance(read, Problem) else read) == key


def test_the_last_to_expire_wins_not_the_last_sent():
    sticky = StickyMap()
    assert sticky.add(event("$long", 1000), "k", "long", at(1000)) == KEY
    assert sticky.add(event("$short", 2000, 60_000), "k", "short", at(2000)) == KEY
    assert sticky.current(KEY).value == "long"
    assert [entry.value for entry in sticky.history(KEY)] == ["long", "short"]


def test_when_it_ends_counts_and_not_how_long_it_lasts():
    sticky = StickyMap()
    sticky.add(event("$long", 1000, HOUR_MS), "k", "long", at(1000))
    sticky.add(event("$late", 1000 + HOUR_MS - 10, 11), "k", "late", at(1000))
    assert sticky.current(KEY).value == "late"


def test_equal_expiry_goes_to_the_higher_event_id():
    sticky = StickyMap()
    sticky.add(event("$b"), "k", "b", at(1000))
    sticky.add(event("$a"), "k", "a", at(1000))
    assert sticky.current(KEY).value == "b"


def test_keys_are_apart_by_sender_type_and_key():
    sticky = StickyMap()
    sticky.add(event("$a"), "k", 1, at(1000))
    sticky.add(event("$b", sender="@v"), "k", 2, at(1000))
    sticky.add(event("$c"), "l", 3, at(1000))
    assert len(sticky) == 3
    assert set(sticky) == {KEY, ("@v", "t", "k"), ("@u", "t", "l")}
    assert sticky.current(("@u", "other", "k")) is None


def test_known_and_expired_events_change_nothing():
    sticky = StickyMap()
    assert sticky.add(event("$a"), "k", 1, at(1000)) == KEY
    assert sticky.add(event("$a"), "k", 2, at(1000)) is None
    assert sticky.add(event("$b"), "k", 3, at(1000 + HOUR_MS)) is None
    assert sticky.current(KEY).value == 1


def test_redaction_falls_back_to_the_predecessor():
    sticky = StickyMap()
    for n in (1, 2, 3):
        sticky.add(event(f"${n}", n * 1000), "k", n, at(3000))
    assert sticky.redact("$unknown") is None
    assert sticky.redact("$2") == KEY
    assert sticky.current(KEY).value == 3
    assert sticky.redact("$3") == KEY
    assert sticky.current(KEY).value == 1
    assert sticky.redact("$1") == KEY
    assert sticky.current(KEY) is None
    assert sticky.history(KEY) == ()
    assert len(sticky) == 0
    assert sticky.next_expiry_ts_ms is None


def test_tombstones_stay_until_they_expire():
    sticky = StickyMap()
    sticky.add(event("$join", 1000), "k", "join", at(1000))
    sticky.add(event("$leave", 2000), "k", "leave", at(2000))
    assert sticky.next_expiry_ts_ms == 1000 + HOUR_MS
    assert sticky.expire(at(1000 + HOUR_MS)) == [KEY]
    assert sticky.current(KEY).value == "leave"
    assert sticky.expire(at(1999 + HOUR_MS)) == []
    assert sticky.expire(at(2000 + HOUR_MS)) == [KEY]
    assert sticky.current(KEY) is None


def test_a_clock_that_ran_ahead_heals_when_its_events_expire():
    sticky = StickyMap()
    sticky.add(event("$ahead", 10**9, received_ts_ms=1000), "k", "ahead", at(1000))
    sticky.add(event("$right", 2000), "k", "right", at(2000))
    assert sticky.current(KEY).value == "ahead"
    sticky.expire(at(1000 + HOUR_MS))
    assert sticky.current(KEY).value == "right"


def test_history_is_bounded():
    sticky = StickyMap()
    for n in range(MAX_HISTORY + 5):
        sticky.add(event(f"${n:02}", n), "k", n, at(0))
    assert [entry.value for entry in sticky.history(KEY)] == list(range(20, 4, -1))
    assert sticky.redact("$00") is None
    assert sticky.expire(at(HOUR_MS + MAX_HISTORY + 5)) == [KEY] * MAX_HISTORY


def test_what_was_dropped_is_forgotten_before_it_expires():
    sticky = StickyMap()
    for n in range(2000):
        sticky.add(event(f"${n:04}", n), "k", n, at(0))
        assert len(sticky._expiries) <= 2 * len(sticky._key_of) + 65
    assert sticky.next_expiry_ts_ms == HOUR_MS + 2000 - MAX_HISTORY


def test_where_nothing_is_dropped_there_is_nothing_to_clear_away():
    """Which is linear in what is held, so that each event of a large room would cost as much."""
    sticky = StickyMap()
    held = sticky._expiries
    for n in range(500):
        sticky.add(event(f"${n:04}", n), f"k{n}", n, at(0))
    assert sticky._expiries is held


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"msc4354_sticky_key": "a", "sticky_key": "b"}, "a"),
        ({"sticky_key": "a" * 255}, "a" * 255),
        ({"sticky_key": "a" * 256}, None),
        ({"sticky_key": 5}, None),
        ({"sticky_key": None}, None),
        ({}, None),
        ([], None),
    ],
)
def test_what_an_event_is_filed_under(content, key):
    assert filing_key(content) == key


@given(
    order=st.permutations(range(8)),
    times=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), min_size=8, max_size=8),
    redacted=st.none() | st.integers(0, 7),
)
def test_order_of_arrival_does_not_matter(order, times, redacted):
    events = [
        event(f"${n}", ts_ms, duration_ms, received_ts_ms=0)
        for n, (ts_ms, duration_ms) in enumerate(times)
    ]
    straight, shuffled = StickyMap(), StickyMap()
    for n in range(8):
        straight.add(events[n], "k", n, at(0))
    for n in order:
        shuffled.add(events[n], "k", n, at(0))
    for sticky in (straight, shuffled):
        sticky.redact(f"${redacted}")
    for now_ms in range(5):
        assert straight.next_expiry_ts_ms == shuffled.next_expiry_ts_ms
        assert sorted(straight.expire(at(now_ms))) == sorted(shuffled.expire(at(now_ms)))
        assert straight.history(KEY) == shuffled.history(KEY)
        model = [
            n
            for n, (ts_ms, duration_ms) in enumerate(times)
            if n != redacted and min(0, ts_ms) + duration_ms > now_ms
        ]
        best = max(model, key=lambda n: (sum(times[n]), f"${n}"), default=None)
        current = straight.current(KEY)
        assert (current.value if current else None) == best
    assert MAX_DURATION_MS == HOUR_MS
