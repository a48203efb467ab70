"""Nothing stays behind: threads, processes, loops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meshes import CONFIG, stations, until
from rtcfoci_mesh.loop import MediaLoop

from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind


async def test_no_thread_is_left_by_ten_calls() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    counts = []
    for _ in range(10):
        async with stations("alice", "bob") as (alice, bob):
            track = await alice.publish("microphone", Kind.AUDIO)
            await asyncio.gather(alice.meet(bob), bob.meet(alice))
            await until(lambda: bob.frames[track.track_id] > 2)  # noqa: B023
            names = [t.name for t in threading.enumerate() if not t.daemon]
            assert not [n for n in names if "decoder" in n or "rtcfoci" in n]
        counts.append((threading.active_count(), _open_files()))
    assert len(set(counts)) == 1, counts
    assert not [t for t in threading.enumerate() if "mesh" in t.name or "decoder" in t.name]


async def test_attempts_that_fail_leave_nothing() -> None:
    config = CONFIG.model_copy(update={"connect_timeout_s": 0.2})
    before = _open_files()
    async with stations("alice", "bob", config=config) as (alice, bob):
        wire = alice.context._wire
        wire.mangle = lambda sender, to, payload: int(payload["kind"] != "answer")
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: len({str(p["attempt"]) for _, _, p in wire.sent}) > 2)
        during = _open_files()
        await until(lambda: len({str(p["attempt"]) for _, _, p in wire.sent}) > 3)
        assert _open_files() <= during + 4
    assert _open_files() == before
    assert not [t for t in threading.enumerate() if "mesh" in t.name or "decoder" in t.name]


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_process_that_forgets_to_close_ends() -> None:
    here = Path(__file__).parent
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(here)!r})
from meshes import *
async def main():
    wire = Wire()
    a, b = [await open_station(wire, member(n)) for n in ("alice", "bob")]
    await a.publish("camera", Kind.VIDEO)
    await asyncio.gather(a.meet(b), b.meet(a))
    await until(lambda: b.frames)
    print("seen", flush=True)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = process.stdout.readline()
        # Only the ending is timed: aiortc's own threads would hold it for half a minute.
        _, errors = process.communicate(timeout=15)
    assert "seen" in seen, errors
    assert process.returncode == 0


async def test_a_late_loop_is_noticed() -> None:
    late: list[float] = []
    loop = MediaLoop(late.append, lag_limit_s=0.1)
    try:
        loop.call(time.sleep, 0.6)
        await until(lambda: late)
        assert late[0] > 0.1
        assert loop.lag_s > 0.1
    finally:
        await loop.stop()
        await loop.stop()


async def test_work_asked_for_while_it_ends_is_refused_and_never_waits() -> None:
    for _ in range(20):
        loop = MediaLoop()

        async def work() -> int:
            await asyncio.sleep(0)
            return 1

        async def ask(loop: MediaLoop = loop) -> int:
            try:
                return await loop.run(work())
            except BackendError:
                return 0

        asked = [asyncio.create_task(ask()) for _ in range(20)]
        stopping = asyncio.create_task(loop.stop())
        await asyncio.sleep(0)
        asked += [asyncio.create_task(ask()) for _ in range(20)]
        async with asyncio.timeout(10):
            await asyncio.gather(*asked, stopping, return_exceptions=True)
        assert await ask() == 0


async def test_a_cancelled_wait_cancels_the_work() -> None:
    loop = MediaLoop()
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    try:
        waiting = asyncio.create_task(loop.run(work()))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(cancelled.is_set)
    finally:
        await loop.stop()


def test_registering_loads_nothing_heavy() -> None:
    script = (
        "import sys, rtcfoci_mesh; rtcfoci_mesh.rtcfoci_focus_types();"
        "print([m for m in ('aiortc', 'av', 'numpy', 'pydantic', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == "[]"


async def test_closing_while_connecting_leaves_no_decoder() -> None:
    for wait_s in (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14):
        async with stations("alice", "bob") as (alice, bob):
            for station in (alice, bob):
                await station.publish("microphone", Kind.AUDIO)
            await asyncio.gather(alice.meet(bob), bob.meet(alice))
            await asyncio.sleep(wait_s)
    assert not [t for t in threading.enumerate() if "mesh" in t.name or "decoder" in t.name]
