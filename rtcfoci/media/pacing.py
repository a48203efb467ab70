"""When the next frame of a live source is due: by absolute time, so that nothing drifts.

In: the schedule of one source, from a clock that is handed in. Out: waiting for it (`sources`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["MAX_LATE_NS", "NS", "Pacer", "Tick"]

NS = 1_000_000_000
"""Nanoseconds in a second."""
MAX_LATE_NS = NS // 5
"""A source that is later than this skips what it missed; a jitter buffer hides less anyway."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One frame's place in the schedule."""

    index: int
    """Counts periods since the start; skipped ones are counted too."""
    timestamp_ns: int
    """The frame's timestamp on the call clock."""
    emit_ns: int
    """When to hand the frame out: its timestamp, or a little later while catching up."""


class Pacer:
    """The schedule of a source: tick `i` belongs to `start + i / rate`, whatever happened before.

    After a short stall the missed frames follow at double speed, never in a burst; after a long one
    they are skipped, and counted.

    :param rate: ticks a second.
    :param start_ns: when tick 0 is due, on the call clock.
    """

    def __init__(self, rate: Fraction | int, start_ns: int) -> None:
        self._rate = Fraction(rate)
        self._start_ns = start_ns
        self._half_ns = round(NS / self._rate / 2)
        self._index = -1
        self._emitted_ns = start_ns - self._half_ns
        self.skipped: int = 0
        """Ticks that were left out because the source was too late for them."""

    def next(self, now_ns: int) -> Tick:
        """Give the next tick, seen from now."""
        self._index += 1
        late_ns = now_ns - self._due_ns(self._index)
        if late_ns > MAX_LATE_NS:
            missed = int(late_ns * self._rate / NS)
            self._index += missed
            self.skipped += missed
        due_ns = self._due_ns(self._index)
        self._emitted_ns = max(due_ns, now_ns, self._emitted_ns + self._half_ns)
        return Tick(self._index, due_ns, self._emitted_ns)

    def _due_ns(self, index: int) -> int:
        return self._start_ns + int(index * NS / self._rate)
