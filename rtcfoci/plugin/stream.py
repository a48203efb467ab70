"""A bounded, thread-safe stream of events with one asynchronous reader.

In: putting from any thread, dropping only what may be dropped, counting it.
Out: what the events mean.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["EventStream"]

_E = TypeVar("_E")


class EventStream(Generic[_E]):
    """Events in order, for one reader.

    :param droppable: the classes whose events are dropped, and counted, once `limit` are waiting.
    :param limit: how many events may wait before droppable ones are dropped.
    """

    def __init__(self, droppable: tuple[type, ...], limit: int = 1000) -> None:
        self._droppable = droppable
        self._limit = limit
        self._waiting: deque[_E] = deque()
        self._lock = threading.Lock()
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.dropped: int = 0
        """How many events were dropped."""

    def put(self, event: _E) -> None:
        """Add an event; from any thread. After `close` it is ignored."""
        with self._lock:
            if self._closed:
                return
            if len(self._waiting) >= self._limit and isinstance(event, self._droppable):
                self.dropped += 1
                return
            self._waiting.append(event)
        self._notify()

    def close(self) -> bool:
        """End the stream after what is waiting; True the first time."""
        with self._lock:
            first, self._closed = not self._closed, True
        self._notify()
        return first

    async def read(self) -> AsyncIterator[_E]:
        """Yield events until the stream is closed and empty."""
        self._loop = asyncio.get_running_loop()
        wake = self._wake = asyncio.Event()
        while True:
            wake.clear()
            while True:
                with self._lock:
                    if not self._waiting:
                        break
                    event = self._waiting.popleft()
                yield event
            if self._closed and not self._waiting:
                return
            await wake.wait()

    def _notify(self) -> None:
        loop, wake = self._loop, self._wake
        if loop is None or wake is None:
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            wake.set()
        else:
            with suppress(RuntimeError):  # the loop closed meanwhile: nobody reads any more
                loop.call_soon_threadsafe(wake.set)
