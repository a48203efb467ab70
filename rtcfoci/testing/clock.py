"""Virtual time: hours of a call run in milliseconds, the same way each time.

In: a clock that moves when told, an asyncio event loop whose idle time costs nothing, a runner.
Out: what happens in that time (`homeserver`, the backends' kit).

Under this loop there are no threads and no sockets: both would bring real time in, and raise instead.

::

    async def two_hours() -> None:
        await asyncio.sleep(7200)

    run(two_hours())  # at once
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import NoReturn, TypeVar, TypeVarTuple, Unpack

from rtcfoci.core.model import Now
from rtcfoci.errors import RtcfociError

__all__ = ["START_TS_MS", "DeadlockError", "VirtualClock", "VirtualLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_TS_MS = 1_800_000_000_000
"""Wall clock at which virtual time starts, milliseconds since the epoch."""

DAY_S = 86_400.0
_MOST_TURNS = 100_000
"""So many turns of the loop in one moment are an endless loop."""


class DeadlockError(RtcfociError):
    """Under virtual time nothing can happen any more, or nothing comes to an end; says who waits."""


class VirtualClock:
    """Both clocks of the house, moved by hand or by a `VirtualLoop`.

    :param start_s: monotonic time at the start; not 0, so that no test relies on it.
    :param start_ts_ms: wall clock at the start.
    """

    def __init__(self, start_s: float = 1000.0, start_ts_ms: int = START_TS_MS) -> None:
        self._start_s = start_s
        self._s = start_s
        self._start_ts_ms = start_ts_ms

    @property
    def s(self) -> float:
        """Monotonic seconds."""
        return self._s

    @property
    def ts_ms(self) -> int:
        """Wall clock, milliseconds since the epoch."""
        return self._start_ts_ms + round((self._s - self._start_s) * 1000)

    def now(self) -> Now:
        """Both, read together."""
        return Now(self.s, self.ts_ms)

    def advance(self, by_s: float) -> Now:
        """Move both clocks forward.

        :raises ValueError: backwards.
        """
        if by_s < 0:
            raise ValueError(f"monotonic time does not run backwards ({by_s} s)")
        self._s += by_s
        return self.now()

    def set_wall(self, by_ms: int) -> None:
        """Set the wall clock alone, as a user or NTP would; negative is back."""
        self._start_ts_ms += by_ms


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer whenever nothing is ready.

    :param limit_s: virtual seconds after which the run counts as endless.
    """

    def __init__(self, clock: VirtualClock | None = None, *, limit_s: float = 7 * DAY_S) -> None:
        self.clock: VirtualClock = clock or VirtualClock()
        self._end_s = self.clock.s + limit_s
        self._thread_id = threading.get_ident()
        self._turns = 0
        """Turns of the loop since time moved on."""
        selector = _IdleSelector(self._idle)
        super().__init__(selector)
        selector.sealed = True
        self._clock_resolution = math.ulp(self.clock.s)

    def time(self) -> float:
        return self.clock.s

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        raise RtcfociError(
            "A thread was asked for under virtual time.",
            why=f"{func!r} would run in real time, beside the clock",
            do="give the code under test a part that needs no thread, or use a real loop",
        )

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread_id:
            raise RtcfociError(
                "Another thread called into virtual time.",
                why="its timing is real, so the run would differ each time",
                do="use a real loop for code with threads of its own",
            )
        return super().call_soon_threadsafe(callback, *args, context=context)

    def timers(self) -> list[asyncio.TimerHandle]:
        """List the timers that are set, the next to fire first."""
        # asyncio has no public way to ask.
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sorted((t for t in scheduled if not t.cancelled()), key=lambda timer: timer.when())

    def _idle(self, timeout_s: float | None) -> None:
        """Nothing is ready for `timeout_s`; None means that nothing ever will be."""
        if timeout_s is None:
            self._give_up("Nothing can happen any more.", "no timer is set and nothing is ready")
        if timeout_s > 0:
            self._turns = 0
            self.clock.advance(timeout_s)
            # asyncio fires timers early by this much, which here would be no time at all: who then asks
            # how long is left would ask for ever.
            self._clock_resolution = math.ulp(self.clock.s)
            if self.clock.s > self._end_s:
                self._give_up("The run does not come to an end.", "the limit of virtual time")
        else:
            self._turns += 1
            if self._turns > _MOST_TURNS:
                self._turns = 0
                self._give_up("Time stands still.", "something is always ready")

    def _give_up(self, what: str, why: str) -> NoReturn:
        tasks = asyncio.all_tasks(self)
        waiting = "\n".join(sorted(f"  {_describe(task)}" for task in tasks))
        raise DeadlockError(
            what, why=f"{why}; waiting:\n{waiting}", do="see which of these should have been woken"
        )


class _IdleSelector(selectors.SelectSelector):
    """Asks for time instead of files; knows only the loop's own wake-up socket."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        super().__init__()
        self._idle = idle
        self.sealed = False

    def register(self, fileobj: object, events: int, data: object = None) -> selectors.SelectorKey:
        if self.sealed:
            raise RtcfociError(
                "A socket was opened under virtual time.",
                why="it would be ready in real time, beside the clock",
                do="use the in-memory homeserver and backend, or a real loop",
            )
        return super().register(fileobj, events, data)  # type: ignore[arg-type]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._idle(timeout)
        return []


def run(
    main: Coroutine[object, object, T],
    *,
    clock: VirtualClock | None = None,
    limit_s: float = 7 * DAY_S,
) -> T:
    """Run a coroutine to its end in virtual time; leftover tasks are cancelled.

    :param limit_s: virtual seconds after which the run counts as endless.
    :raises DeadlockError: when nothing can happen any more, or the limit is reached.
    """
    loop = VirtualLoop(clock, limit_s=limit_s)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


def _describe(task: asyncio.Task[object]) -> str:
    frames = task.get_stack(limit=1)
    where = f"{frames[-1].f_code.co_qualname}:{frames[-1].f_lineno}" if frames else "not started"
    return f"{task.get_name()} at {where}"
