"""Hours of a mesh call in which members come and go: nothing may pile up. `tox run -e soak`."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from rtcfoci.media.frames import Kind
from rtcfoci.media.sources import ToneSource
from rtcfoci.testing import Lobby

PROC = Path("/proc/self/status")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not PROC.exists(), reason="the system does not tell what a process holds"),
]

SOAK_S = float(os.environ.get("RTCFOCI_SOAK_S", "7200"))
ROUND_S = 10.0
SETTLE_S = 2.0
"""How long connections may take to be let go."""
WARM_UP_ROUNDS = 3
MESH = [("mesh", {"loopback": True})]


def held():
    """What this process holds: open files, threads, tasks, megabytes."""
    resident_kb = int(PROC.read_text().partition("VmRSS:")[2].split()[0])
    files = len(os.listdir("/proc/self/fd"))
    return files, threading.active_count(), len(asyncio.all_tasks()), resident_kb / 1024


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - it may hold for any reason
            await asyncio.sleep(0.05)


async def come_and_go(lobby, call):
    """Let somebody join, be heard for a while, and leave."""
    client, _ = await lobby.client("ann")
    source = ToneSource(440)
    async with lobby.join_as(client) as ann:
        await ann.publish(source.hubs[Kind.AUDIO])
        source.start()
        await until(lambda: call.tracks)
        async with call.tracks[0].frames() as frames:
            end_s = time.monotonic() + ROUND_S
            async for _ in frames:
                if time.monotonic() > end_s:
                    break
    await source.aclose()
    await client.aclose()
    await until(lambda: not call.participants)
    await asyncio.sleep(SETTLE_S)
    assert not call.conditions


async def test_hours_of_coming_and_going_leave_nothing_behind():
    rounds, before, end_s = 0, None, time.monotonic() + SOAK_S
    async with Lobby(foci=MESH) as lobby, lobby.join() as call:
        while time.monotonic() < end_s:
            await come_and_go(lobby, call)
            rounds += 1
            if rounds == WARM_UP_ROUNDS:
                before = held()
        after = held()
    assert before is not None, f"only {rounds} rounds in {SOAK_S:g} s"
    print(f"{rounds} rounds: files, threads, tasks, MB: {before} then {after}")
    assert all(now <= was + 2 for was, now in zip(before[:3], after[:3], strict=True))
    assert after[3] < 1.5 * before[3] + 20
