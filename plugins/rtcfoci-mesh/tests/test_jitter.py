"""The order of sound, whatever comes when."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rtcfoci_mesh.jitter import MOST_HELD, JitterBuffer, Lost, Packet, nearest

RATE_HZ = 48_000


def sound(count: int, arrival_s: float, first: int = 65_530) -> Packet:
    """Give the packet number `count` of a stream that is about to wrap around."""
    timestamp = (0xFFFFF000 + 960 * count) & 0xFFFFFFFF
    return Packet((first + count) & 0xFFFF, timestamp, bytes([count & 0xFF]), arrival_s)


def counts(given: list[Packet | Lost]) -> list[int | str]:
    return [f"lost {i.count}" if isinstance(i, Lost) else i.payload[0] for i in given]


def test_what_comes_in_order_goes_out_at_once_and_across_the_end_of_numbers() -> None:
    buffer = JitterBuffer(RATE_HZ)
    for count in range(20):
        assert counts(buffer.put(sound(count, 0.02 * count))) == [count]
        assert buffer.due_s is None


def test_a_hole_waits_for_what_was_overtaken() -> None:
    buffer = JitterBuffer(RATE_HZ)
    assert counts(buffer.put(sound(0, 0.0))) == [0]
    assert buffer.put(sound(2, 0.03)) == []
    assert counts(buffer.put(sound(1, 0.04))) == [1, 2]
    assert buffer.due_s is None


def test_a_hole_is_given_up_soon_with_what_follows_it() -> None:
    buffer = JitterBuffer(RATE_HZ)
    buffer.put(sound(0, 0.0))
    assert buffer.put(sound(3, 0.06)) == []
    due_s = buffer.due_s
    assert due_s is not None
    assert 0.04 <= due_s - 0.06 <= 0.12
    assert buffer.expire(due_s - 0.001) == []
    lost, after = buffer.expire(due_s)
    assert lost == Lost(2, sound(3, 0.06))
    assert after == sound(3, 0.06)
    assert buffer.put(sound(2, 0.2)) == [], "too late"


def test_the_wait_follows_the_network() -> None:
    calm, rough, draw = JitterBuffer(RATE_HZ), JitterBuffer(RATE_HZ), random.Random(3)
    for count in range(200):
        calm.put(sound(count, 0.02 * count))
        rough.put(sound(count, 0.02 * count + draw.choice([0.0, 0.05])))
    assert calm.hold_s == pytest.approx(0.04)
    assert 0.08 < rough.hold_s <= 0.12


def test_a_pause_is_no_hole() -> None:
    buffer = JitterBuffer(RATE_HZ)
    buffer.put(sound(0, 0.0))
    late = Packet(65_531, 48_000 * 60, b"\x01", 60.0)
    assert counts(buffer.put(late)) == [1]


def test_a_sender_that_starts_anew_is_followed() -> None:
    buffer = JitterBuffer(RATE_HZ)
    for count in range(3):
        buffer.put(sound(count, 0.02 * count, first=30_000))
    assert counts(buffer.put(sound(0, 0.06, first=2_000))) == [0]
    assert counts(buffer.put(sound(1, 0.08, first=2_000))) == [1]


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 40), st.integers(0, 0xFFFF)),
            st.integers(0, 0xFFFFFFFF),
            st.floats(0, 0.2),
        ),
        max_size=120,
    )
)
def test_whatever_comes_memory_is_bounded_and_nothing_waits_long(
    packets: list[tuple[int, int, float]],
) -> None:
    buffer, now_s, out, came = JitterBuffer(RATE_HZ), 100.0, 0, 0
    for number, timestamp, step_s in packets:
        due_s = buffer.due_s
        if due_s is not None and due_s <= now_s + step_s:
            now_s = max(now_s, due_s)
            assert buffer.expire(now_s), "what is due goes out"
        now_s += step_s
        came += 1
        given = buffer.put(Packet(number, timestamp, b"x", now_s))
        out += sum(isinstance(item, Packet) for item in given)
        assert len(buffer._held) <= MOST_HELD
        assert all(item.count > 0 for item in given if isinstance(item, Lost))
    assert out <= came


@settings(deadline=None)  # the machine may be busy
@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=6))
def test_any_order_and_any_doubles_within_the_wait_come_out_right(
    order: list[int], doubles: list[int]
) -> None:
    order = [0, *(count + 1 for count in order)]  # the first tells where it begins
    order += doubles
    buffer = JitterBuffer(RATE_HZ)
    given = [buffer.put(sound(count, 10.0 + index / 1000)) for index, count in enumerate(order)]
    assert counts(list(itertools.chain(*given))) == list(range(13))


@settings(deadline=None)  # the machine may be busy
@given(st.integers(), st.integers(-(2**40), 2**40))
def test_the_nearest_number_has_the_same_lowest_bits(value: int, to: int) -> None:
    found = nearest(value & 0xFFFF, to)
    assert found & 0xFFFF == value & 0xFFFF
    assert -0x8000 <= found - to < 0x8000
