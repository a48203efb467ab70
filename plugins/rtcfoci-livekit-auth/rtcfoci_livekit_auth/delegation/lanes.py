"""The queue of calls to one server: so many at once, so many a second, what is urgent first.

In: the queue and its limits; time is an input. Out: the calls themselves.

Restarts have a time after which the homeserver would make somebody leave who is there; leaves have none,
they only ought to be soon. So leaves go first, until a restart becomes urgent.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

__all__ = ["Lane"]

T = TypeVar("T")


class Lane(Generic[T]):
    """Calls to one server that wait for their turn.

    :param at_once: how many may be under way.
    :param per_s: how many may start a second in the long run; 0 is no limit.
    :param burst: how many may start at once after a rest.
    """

    __slots__ = (
        "_at_once",
        "_burst",
        "_held_until_s",
        "_later",
        "_order",
        "_per_s",
        "_soon",
        "_tokens",
        "_tokens_at_s",
        "under_way",
    )

    def __init__(self, *, at_once: int, per_s: float = 0.0, burst: int = 1) -> None:
        self._at_once, self._per_s, self._burst = at_once, per_s, burst
        self._tokens, self._tokens_at_s = float(burst), -inf
        self._held_until_s = -inf
        self._soon: deque[T] = deque()
        self._later: list[tuple[float, int, T]] = []
        self._order = 0
        self.under_way: int = 0
        """How many calls were taken and are not done."""

    def __len__(self) -> int:
        return len(self._soon) + len(self._later)

    @property
    def paced(self) -> bool:
        """Whether all calls share one limit of the server."""
        return self._per_s > 0

    def put(self, call: T, *, urgent_s: float | None = None) -> None:
        """Queue a call.

        :param urgent_s: from when on it goes before all others; before that, after those without.
        """
        if urgent_s is None:
            self._soon.append(call)
        else:
            self._order += 1
            heappush(self._later, (urgent_s, self._order, call))

    def take(self, now_s: float) -> T | None:
        """Start the next call if one may start now; say `done` when it is."""
        if not self or self.ready_s(now_s) > now_s:
            return None
        if self._per_s:
            self._refill(now_s)
            self._tokens -= 1
        self.under_way += 1
        if self._soon and not (self._later and self._later[0][0] <= now_s):
            return self._soon.popleft()
        return heappop(self._later)[2]

    def unused(self) -> None:
        """Give back the turn of a call that nobody wants any more."""
        self.under_way -= 1
        self._tokens = min(float(self._burst), self._tokens + 1)

    def done(self) -> None:
        """Learn that a call is over."""
        self.under_way -= 1

    def hold(self, until_s: float) -> None:
        """Start nothing before then: the server said that it is too much."""
        self._held_until_s = max(self._held_until_s, until_s)
        self._tokens = min(self._tokens, 1.0)

    def ready_s(self, now_s: float) -> float:
        """Give the time at which `take` has something; infinite while that takes an input."""
        if not self or self.under_way >= self._at_once:
            return inf
        ready_s = max(now_s, self._held_until_s)
        if self._per_s:
            self._refill(now_s)
            if self._tokens < 1 - 1e-9:  # Rounding must not cost a turn of the loop.
                ready_s = max(ready_s, now_s + (1 - self._tokens) / self._per_s)
        return ready_s

    def idle(self, now_s: float) -> bool:
        """Tell whether a new lane would behave the same."""
        if self or self.under_way or self._held_until_s > now_s:
            return False
        self._refill(now_s)
        return not self._per_s or self._tokens >= self._burst

    def _refill(self, now_s: float) -> None:
        if self._per_s:
            gained = (now_s - self._tokens_at_s) * self._per_s
            self._tokens = min(float(self._burst), self._tokens + max(0.0, gained))
            self._tokens_at_s = now_s
