"""Packets into pictures, whatever is missing."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from rtcfoci_mesh.assembly import MOST_PARTS, Assembly, Part, Picture, Requests

FIRST = 65_500


def parts(pictures: int, *, size: int = 3, keys: tuple[int, ...] = (0,)) -> list[Part]:
    """Give the packets of a stream that wraps around."""
    return [
        Part(
            number=(FIRST + picture * size + at) & 0xFFFF,
            timestamp=(0xFFFFF000 + 6000 * picture) & 0xFFFFFFFF,
            last=at == size - 1,
            key=picture in keys and at == 0,
            payload=bytes([picture, at]),
            arrival_ns=0,
        )
        for picture in range(pictures)
        for at in range(size)
    ]


def names(pictures: list[Picture]) -> list[int]:
    for picture in pictures:
        assert picture.data == b"".join(bytes([picture.data[0], at]) for at in range(3))
    return [picture.data[0] for picture in pictures]


def test_pictures_come_out_when_their_last_packet_is_there() -> None:
    assembly, got = Assembly(), []
    for index, part in enumerate(parts(30)):
        made = assembly.put(part, index / 100)
        got += names(made)
        assert bool(made) == part.last
        assert assembly.requests(index / 100) == Requests((), False)
    assert got == list(range(30))


def test_nothing_comes_before_a_key_picture_and_one_is_asked_for_until_it_is_there() -> None:
    assembly, asked, got = Assembly(), 0, []
    for index, part in enumerate(parts(30, keys=(20,))):
        got += names(assembly.put(part, index / 45))
        asked += assembly.requests(index / 45).key
    assert got == list(range(20, 30))
    assert asked == 7, "at once, then every 0.2 s in the 20 pictures of 1/15 s"


def test_what_is_missing_is_asked_for_again_and_again() -> None:
    assembly, sent = Assembly(), parts(6)
    asked: list[tuple[float, int]] = []
    for index, part in enumerate(sent):
        if index == 4:
            continue
        now_s = 5 + index / 45
        assembly.put(part, now_s)
        asked += [(now_s, number) for number in assembly.requests(now_s).numbers]
    assert {number for _, number in asked} == {sent[4].number}
    assert len(asked) >= 3
    assert names(assembly.put(sent[4], 5.45)) == [1, 2, 3, 4, 5]


def test_a_hole_that_stays_leads_to_the_next_key_picture_and_no_further() -> None:
    assembly, got, key_asked = Assembly(), [], 0.0
    for index, part in enumerate(parts(60, keys=(0, 50))):
        now_s = index / 45
        if index == 16:
            lost_s = now_s
            continue
        got += names(assembly.put(part, now_s))
        if assembly.requests(now_s).key:
            key_asked = key_asked or now_s
    assert got == [*range(5), *range(50, 60)]
    assert 0.3 < key_asked - lost_s < 0.5


def test_a_key_picture_ends_the_wait_for_a_hole_only_when_it_is_final() -> None:
    assembly, got = Assembly(), []
    for index, part in enumerate(parts(30, keys=(0, 8))):
        if index == 16:
            continue
        got += names(assembly.put(part, index / 45))
        assembly.requests(index / 45)
    assert got == [*range(5), *range(8, 30)]


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32), st.floats(0, 0.4))
def test_every_picture_given_is_whole_and_in_order(seed: int, rate: float) -> None:
    draw = random.Random(seed)
    assembly, sent, got = Assembly(), parts(40, keys=(0, 10, 20, 30)), []
    arriving = [(index + draw.uniform(0, 8), part) for index, part in enumerate(sent)]
    arriving += [(at + draw.uniform(0, 30), part) for at, part in arriving if draw.random() < 0.1]
    for at, part in sorted(arriving, key=lambda item: item[0]):
        if draw.random() >= rate:
            got += names(assembly.put(part, at / 45))
            assembly.requests(at / 45)
    assert got == sorted(set(got))
    for before, after in itertools.pairwise(got):
        assert after == before + 1 or after % 10 == 0, "only a key picture follows a hole"


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 300), st.integers(0, 0xFFFF)),
            st.integers(0, 0xFFFFFFFF),
            st.booleans(),
            st.booleans(),
        ),
        max_size=300,
    )
)
def test_whatever_comes_memory_is_bounded(stream: list[tuple[int, int, bool, bool]]) -> None:
    assembly, now_s = Assembly(), 0.0
    for number, timestamp, last, key in stream:
        now_s += 0.01
        part = Part(number, timestamp, last, key, b"x", 0)
        assembly.put(part, now_s)
        asked = assembly.requests(now_s)
        assert len(assembly._parts) <= MOST_PARTS
        assert len(assembly._missing) <= MOST_PARTS
        assert len(asked.numbers) <= 64


def test_many_holes_in_a_moment_cost_no_more_than_one() -> None:
    """Each packet leaves out 200: what is missing is gone through with every packet."""
    assembly = Assembly()
    for count in range(300):
        part = Part(200 * count & 0xFFFF, 7, False, count % 9 == 0, b"x", 0)
        assembly.put(part, count / 10_000)
        assembly.requests(count / 10_000)
        assert len(assembly._missing) <= 512


def test_a_picture_that_never_ends_is_given_up() -> None:
    assembly = Assembly()
    for number in range(5 * MOST_PARTS):
        part = Part(number & 0xFFFF, 7, False, number == 0, bytes(1200), 0)
        assert assembly.put(part, number / 1000) == []
        assert len(assembly._parts) <= MOST_PARTS
