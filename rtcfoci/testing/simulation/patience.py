"""An end for a run that would never come to one.

In: a limit of the processor's time, so that a busy machine fails nobody. Out: endless virtual time, and time
that stands still (`rtcfoci.testing.clock`), which show at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["PATIENCE_S", "EndlessError", "patience"]

PATIENCE_S = 20.0
"""Processor time of one run at most; most take a twentieth of a second."""
_AGAIN_S = 2.0
"""What cleans up may be endless too."""


class EndlessError(SystemExit):
    """A run took too long; nothing on the way catches it, asyncio least of all."""


@contextmanager
def patience(limit_s: float = PATIENCE_S) -> Iterator[None]:
    """Raise `EndlessError` wherever the run is when it has taken so much of the processor's time."""
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or not hasattr(signal, "setitimer"):  # signals reach no other thread
        yield
        return

    def over(number: int, frame: FrameType | None) -> NoReturn:
        where = "nowhere" if frame is None else f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        raise EndlessError(f"no end after {limit_s:g} s of processor time, in {where}")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, limit_s, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
