"""Reliable data: each message arrives once and in order, and nobody waits for the unreachable."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import CONFIG, Station, Wire, member, stations, until
from rtcfoci_mesh.connection import MeshDrill
from rtcfoci_mesh.data import AppData, Stream, numbered, pack, unpack
from rtcfoci_mesh.delivery import WINDOW_BYTES, Receiving, Sending

from rtcfoci.core.model import JsonObject, Member
from rtcfoci.errors import BackendError
from rtcfoci.plugin import ConditionCleared, ConditionRaised, DataReceived


def got(station: Station, topic: str = "count") -> list[int]:
    return [
        int(e.payload[-9:])
        for e in station.events
        if isinstance(e, DataReceived) and e.topic == topic and e.reliable
    ]


def raised(station: Station) -> list[str]:
    return [e.code for e in station.saw(ConditionRaised) if isinstance(e, ConditionRaised)]


# The rules

STEPS = st.lists(st.sampled_from("sssaaabr"), max_size=80)
"""Send a message; let one arrive; break the connection and make a new one; the receiver starts anew."""


@given(STEPS, st.randoms(use_true_random=False))
def test_each_arrives_once_and_in_order_whatever_breaks(steps: list[str], random: object) -> None:
    sending, receiving = Sending("stream"), Receiving()
    wire: deque[Stream | bytes] = deque()
    came: list[int] = []
    sent, lives = 0, 1

    def connect() -> None:
        wire.clear()
        stream, kept = sending.again()
        wire.extend((stream, *kept))

    def arrive() -> None:
        if not wire:
            return
        item = wire.popleft()
        if isinstance(item, Stream):
            receiving.begin(item)
            return
        message = unpack(item)
        assert isinstance(message, AppData)
        assert message.number is not None
        if receiving.take(message.number):
            came.append(int(message.payload))
        # An acknowledgement comes late, or is lost with the connection.
        if random.random() < 0.5:  # type: ignore[attr-defined]
            assert sending.acknowledged(receiving.acknowledgement.below)

    connect()
    for step in steps:
        if step == "s":
            frame = sending.take(pack(AppData("t", b"%d" % sent)))
            assert frame is not None
            wire.append(frame)
            sent += 1
        elif step == "a":
            arrive()
        elif step == "b":
            connect()
        else:  # what it had taken it may get again, what it had not it must get
            receiving, lives = Receiving(), lives + 1
            connect()
    while wire:
        arrive()
    if lives == 1:
        assert came == list(range(sent))
    assert set(came) == set(range(sent))


def test_the_window_is_bounded_and_opens_again() -> None:
    sending, frame = Sending("s"), pack(AppData("", bytes(1000)))
    count = 0
    while sending.take(frame) is not None:
        count += 1
    assert 0.8 * WINDOW_BYTES < count * len(frame) <= WINDOW_BYTES
    empty = Sending("s")
    many = 0
    while empty.take(pack(AppData("", b""))) is not None:
        many += 1
    assert many < 10_000, "keeping an empty message costs something too"
    assert sending.acknowledged(1)
    assert sending.take(frame) is not None
    assert sending.take(frame) is None


def test_what_a_member_makes_up_changes_nothing() -> None:
    sending = Sending("s")
    sending.take(pack(AppData("", b"x")))
    assert not sending.acknowledged(2), "never sent"
    assert sending.acknowledged(1)
    assert sending.acknowledged(0), "late"
    receiving = Receiving()
    assert not receiving.take(0), "before there is a stream"
    receiving.begin(Stream("a", 5))
    assert not receiving.take(7), "a gap"
    assert receiving.take(5)
    receiving.begin(Stream("a", 0))
    assert not receiving.take(0), "the same stream again"
    assert receiving.acknowledgement.below == 6


def test_a_number_survives_the_wire() -> None:
    frame = pack(AppData("topic", b"payload"))
    assert unpack(numbered(frame, 2**40)) == AppData("topic", b"payload", 2**40)
    assert unpack(numbered(frame, 3)[:9]) is None
    assert unpack(b"\x02") is None
    assert unpack(b'\x00{"stream": ["a", -1]}') is None
    assert unpack(b'\x00{"stream": ["", 1]}') is None
    assert unpack(b'\x00{"acknowledged": true}') is None


# In a call


async def test_a_rebuilt_connection_loses_nothing_and_repeats_nothing() -> None:
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.reaches() and bob.reaches())
        sent = 0

        async def send(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                payload = b"%d" % sent
                await alice.connection.send_data(payload, topic="count", reliable=True)
                sent += 1

        await send(50)
        await until(lambda: len(got(bob)) == 50)
        drills = [s.connection.extension(MeshDrill) for s in (alice, bob)]
        # Messages still arrive and their acknowledgements do not, then nothing passes either way.
        assert drills[0] is not None
        assert drills[1] is not None
        await drills[1].suspend()
        await send(20)
        await until(lambda: len(got(bob)) == 70)
        await drills[0].suspend()
        await send(30)
        await until(lambda: "media_stalled" in raised(alice))
        await send(30)
        await until(lambda: len(got(bob)) >= sent, 15.0)
        await send(5)
        await until(lambda: len(got(bob)) >= sent)
        assert got(bob) == list(range(sent))
        await until(lambda: not alice.connection._peers[bob.member]._delivery.sending._kept)
        assert alice.connection._peers[bob.member]._delivery.sending._bytes == 0


async def test_nobody_waits_for_a_member_that_cannot_be_reached() -> None:
    wire = Wire()
    async with stations("alice", "bob", "carol", wire=wire) as (alice, bob, carol):

        def mangle(sender: Member, to: Member, payload: JsonObject) -> int:
            return int(carol.member not in (sender, to))

        wire.mangle = mangle
        await asyncio.gather(alice.meet(bob, carol), bob.meet(alice), carol.meet(alice))
        await until(bob.reaches)
        start_s, sent = time.monotonic(), 0
        while "mesh_data_lost" not in raised(alice):
            payload = b"%d" % sent
            await alice.connection.send_data(payload.zfill(20_000), topic="count", reliable=True)
            sent += 1
            assert sent < 100
        took_s = time.monotonic() - start_s
        (told,) = [
            e for e in alice.events if isinstance(e, ConditionRaised) and e.code == "mesh_data_lost"
        ]
        assert told.subject == str(carol.member)
        assert told.what
        assert told.remedy
        assert took_s < 4, "less than the wait for one that is slow"
        await until(lambda: got(bob) == list(range(sent)))
        to = [carol.member, bob.member]
        with pytest.raises(BackendError, match="carol") as refused:
            await alice.connection.send_data(b"9" * 20_000, topic="x", reliable=True, to=to)
        assert refused.value.retryable
        await until(lambda: got(bob, "x"), 2.0)

        wire.mangle = lambda sender, to, payload: 1
        await until(alice.reaches, 15.0)
        cleared = ConditionCleared("mesh_data_lost", str(carol.member))
        await until(lambda: cleared in alice.events)
        kept = got(carol)
        await until(lambda: len(got(carol)) >= sent - 1)
        kept = got(carol)
        assert kept == list(range(len(kept))), "all that was kept, in order"


async def test_a_broadcast_outlives_a_member_that_leaves_while_it_waits() -> None:
    config = CONFIG.model_copy(update={"stall_s": 60.0})
    async with stations("alice", "bob", config=config) as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.reaches() and bob.reaches())
        drill = bob.connection.extension(MeshDrill)
        assert drill is not None
        await drill.suspend()  # nothing is acknowledged
        waiting = None
        for _ in range(60):
            waiting = asyncio.create_task(
                alice.connection.send_data(bytes(30_000), topic="", reliable=True)
            )
            done, _ = await asyncio.wait([waiting], timeout=0.3)
            if not done:
                break
        assert waiting is not None
        assert not waiting.done()
        await alice.part(bob)
        async with asyncio.timeout(2):
            await waiting


async def test_a_member_that_starts_anew_gets_what_its_past_did_not_take() -> None:
    assert member("bob") == member("bob", "bob-1")
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.reaches() and bob.reaches())
        await alice.connection.send_data(b"0", topic="count", reliable=True)
        await until(lambda: got(bob) == [0])
        await until(lambda: not alice.connection._peers[bob.member]._delivery.sending._kept)
        await bob.part(alice)  # bob forgets all about alice, and meets her as if for the first time
        await alice.connection.send_data(b"1", topic="count", reliable=True)
        await bob.meet(alice)
        await until(lambda: got(bob) == [0, 1], 15.0)
