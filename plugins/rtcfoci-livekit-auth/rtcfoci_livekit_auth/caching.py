"""Remembering answers for a while: bounded, and asked once where many ask at the same time.

In: `Remembered`. Out: what is asked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

__all__ = ["Remembered"]

T = TypeVar("T")


class Remembered(Generic[T]):
    """Answers by key; the one unused for longest goes first.

    :param ask: gives the answer, and for how many seconds it holds; at most 0 is not remembered.
    :param most: how many are kept.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[tuple[T, float]]],
        *,
        most: int = 10_000,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        self._ask = ask
        self._most = most
        self._clock_s = clock_s
        self._known: OrderedDict[str, tuple[float, T]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def known(self, key: str) -> tuple[T] | None:
        """Give what is remembered, in a tuple, or None."""
        found = self._known.get(key)
        if found is None:
            return None
        if found[0] <= self._clock_s():
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return (found[1],)

    async def get(self, key: str) -> T:
        """Give what is remembered, or ask; whoever asks meanwhile waits for the same answer."""
        if (found := self.known(key)) is not None:
            return found[0]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._find(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def forget(self, key: str) -> None:
        """Ask anew next time."""
        self._known.pop(key, None)

    async def _find(self, key: str) -> T:
        answer, holds_s = await self._ask(key)
        if holds_s > 0:
            self._known[key] = (self._clock_s() + holds_s, answer)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return answer

    def _asked(self, key: str, task: asyncio.Task[T]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # those who waited have seen it; when none did, nobody need
