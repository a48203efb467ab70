"""Virtual time is exact, instant, the same each run, and names what hangs."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time

import pytest

from rtcfoci.errors import RtcfociError
from rtcfoci.testing.clock import START_TS_MS, DeadlockError, VirtualClock, VirtualLoop, run


def test_hours_pass_at_once_and_exactly() -> None:
    clock = VirtualClock()

    async def main() -> list[float]:
        began_s, seen = clock.s, []
        async with asyncio.TaskGroup() as group:
            for wait_s in (3600.5, 0.001, 7200.0):

                async def note(wait_s: float = wait_s) -> None:
                    await asyncio.sleep(wait_s)
                    seen.append(clock.s - began_s)

                group.create_task(note())
        return seen

    real_s = time.monotonic()
    assert run(main(), clock=clock) == pytest.approx([0.001, 3600.5, 7200.0], abs=1e-6)
    assert time.monotonic() - real_s < 1.0
    assert clock.ts_ms == START_TS_MS + 7_200_000


def test_ten_thousand_timers_keep_their_order() -> None:
    async def main() -> list[int]:
        loop, order = asyncio.get_running_loop(), []
        for number in range(10_000):
            loop.call_later((number * 7919 % 10_000) / 10, order.append, number * 7919 % 10_000)
        await asyncio.sleep(1000)
        return order

    first, second = run(main()), run(main())
    assert first == second == sorted(first)


def test_a_timeout_is_a_timeout_in_virtual_time() -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(main())


def test_who_waits_for_what_is_left_does_not_wait_for_ever() -> None:
    """Not where one timer is a rounding before another, and time would creep between the two."""

    async def main() -> int:
        loop, turns = asyncio.get_running_loop(), 0
        due_s = loop.time() + 0.3
        loop.call_at(math.nextafter(due_s, 0), lambda: None)
        while loop.time() < due_s:
            turns += 1
            await asyncio.sleep((due_s - loop.time()) / 2 if turns == 1 else due_s - loop.time())
        return turns

    assert run(main()) <= 4


def test_a_deadlock_names_who_waits() -> None:
    async def waits_for_godot() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match=r"waits_for_godot") as error:
        run(waits_for_godot())
    assert "Nothing can happen any more" in error.value.what


def test_an_endless_run_is_found_too() -> None:
    async def main() -> None:
        async def tick() -> None:
            while True:  # noqa: ASYNC110
                await asyncio.sleep(1)

        ticking = asyncio.create_task(tick())
        await asyncio.Event().wait()
        ticking.cancel()

    with pytest.raises(DeadlockError, match="does not come to an end"):
        run(main(), limit_s=3600)


def test_leftover_tasks_are_cancelled_and_clean_up() -> None:
    cleaned = []

    async def left_over() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    async def main() -> None:
        task = asyncio.create_task(left_over())
        await asyncio.sleep(1)
        assert not task.done()

    run(main())
    assert cleaned == [True]


def test_threads_and_sockets_are_refused() -> None:
    async def thread() -> None:
        await asyncio.to_thread(time.sleep, 0)

    async def listen() -> None:
        with socket.socket() as listening:
            listening.setblocking(False)
            await asyncio.get_running_loop().sock_connect(listening, ("127.0.0.1", 9))

    with pytest.raises(RtcfociError, match="thread"):
        run(thread())
    with pytest.raises(RtcfociError, match="socket"):
        run(listen())


def test_another_thread_may_not_call_in() -> None:
    caught: list[RtcfociError] = []
    loop = VirtualLoop()

    def call_in() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RtcfociError as error:
            caught.append(error)

    other = threading.Thread(target=call_in)
    other.start()
    other.join()
    loop.close()
    assert len(caught) == 1


def test_the_clock_by_hand() -> None:
    clock = VirtualClock(start_s=5, start_ts_ms=1000)
    assert clock.now().s == 5
    now = clock.advance(1.5)
    assert (now.s, now.ts_ms) == (6.5, 2500)
    clock.set_wall(-2000)
    assert (clock.s, clock.ts_ms) == (6.5, 500)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
