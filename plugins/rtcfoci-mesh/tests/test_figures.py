"""Figures of real connections: loss as it was made, each direction by itself."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from meshes import Station, stations, until
from rtcfoci_mesh.aiortc_engine import AiortcSession
from rtcfoci_mesh.meter import WINDOW_S

from rtcfoci.media.frames import Kind
from rtcfoci.plugin import PairStats


def drop_every_fifth(station: Station) -> None:
    """Lose a fifth of the media packets that a station sends from now on."""
    for peer in station.connection._peers.values():
        session = peer._session
        assert isinstance(session, AiortcSession)
        link, number = session._link, itertools.count()
        assert link is not None
        through = link.ice._send

        async def send(data: bytes, through=through, number=number) -> None:
            if not (128 <= data[0] < 192 and next(number) % 5 == 0):
                await through(data)

        link.ice._send = send


async def pair(station: Station) -> PairStats:
    (found,) = (await station.connection.stats()).pairs
    return found


async def test_loss_is_told_by_both_sides_and_in_one_direction() -> None:
    async with stations("alice", "bob") as (alice, bob):
        of_alice = await alice.publish("microphone", Kind.AUDIO)
        of_bob = await bob.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: bob.frames[of_alice.track_id] and alice.frames[of_bob.track_id])
        drop_every_fifth(alice)
        await asyncio.sleep(WINDOW_S + 3.0)
        received, sent = await pair(bob), await pair(alice)
        assert received.loss_received_ratio == pytest.approx(0.2, abs=0.08)
        assert sent.loss_sent_ratio == pytest.approx(0.2, abs=0.1)
        assert received.loss_sent_ratio == pytest.approx(0.0, abs=0.05)
        assert sent.loss_received_ratio == pytest.approx(0.0, abs=0.05)
        for figures in (received, sent):
            assert figures.bitrate_sent_bps is not None
            assert figures.bitrate_received_bps is not None
            assert figures.jitter_ms is not None
            assert figures.frames_received
            assert figures.frames_received > 100


async def test_figures_of_a_member_that_fell_silent_do_not_stay() -> None:
    async with stations("alice", "bob") as (alice, bob):
        await alice.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.connection._peers and alice.connection._peers[bob.member].rtt_ms)
        before = await pair(alice)
        await bob.connection.suspend(True, None)
        await until(lambda: not alice.reaches())
        after = await pair(alice)
        assert (before.rebuilt, after.rebuilt) == (0, 0)
        assert after.state != "connected"
        assert after.rtt_ms is after.path is after.bitrate_sent_bps is None
        assert after.bytes_sent is not None
        assert before.bytes_sent is not None
        assert after.bytes_sent >= before.bytes_sent > 0
