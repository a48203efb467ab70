"""A thread with an event loop of its own for media, and the way into it.

In: starting and ending it, running work there, noticing that it lags; a stand-in without a thread.
Out: what runs there (`peer` and all below).

An application that blocks its own loop must not stop the media of the call: a receiver reads late
packets as congestion, and its senders fall to a tenth of their rate. The thread is a daemon, and so
are the decoder threads that aiortc starts from it: a process that ends without closing its calls ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rtcfoci.errors import BackendError

__all__ = ["MediaLoop", "SameLoop"]

_T = TypeVar("_T")
_LAG_EVERY_S = 0.25
_STOP_S = 10.0
_log = logging.getLogger(__name__)


class MediaLoop:
    """An event loop in a thread of its own.

    :param lagging: called on the media loop when it was late by more than `lag_limit_s`.
    """

    def __init__(
        self, lagging: Callable[[float], None] | None = None, *, lag_limit_s: float = 0.2
    ) -> None:
        self._lagging = lagging
        self._limit_s = lag_limit_s
        self.lag_s: float = 0.0
        """How late the loop was lately, its worst in about ten seconds."""
        self.errors: int = 0
        """Failures inside the engine that nobody waited for."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._failed)
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._asked: set[concurrent.futures.Future[Any]] = set()
        """What `run` waits for."""
        self._thread = threading.Thread(target=self._main, name="rtcfoci-mesh", daemon=True)
        self._thread.start()

    def time(self) -> float:
        """Give the loop's clock, monotonic seconds."""
        return self._loop.time()

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Have a function called there, soon; after the end it is dropped. From any thread."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            return

    async def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Run a coroutine there and wait for it; cancelling the wait cancels the work.

        :raises BackendError: after the end.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise _closed() from error
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        if self._ended.done():  # it ended in between, and would never answer
            _refuse(future)
        try:
            return await asyncio.wrap_future(future)
        finally:
            if self._ended.done():
                work.close()  # it may never have begun

    async def stop(self) -> None:
        """End the loop and its thread: what still runs there is cancelled. Idempotent."""
        self.call(self._loop.stop)
        async with asyncio.timeout(_STOP_S):
            await asyncio.shield(asyncio.wrap_future(self._ended))
        self._thread.join()

    def _main(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        monitor = loop.create_task(self._watch())
        try:
            loop.run_forever()
        finally:
            monitor.cancel()
            try:
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                loop.close()
                self._ended.set_result(None)
                for future in tuple(self._asked):
                    _refuse(future)

    async def _watch(self) -> None:
        while True:
            before_s = self._loop.time()
            await asyncio.sleep(_LAG_EVERY_S)
            late_s = self._loop.time() - before_s - _LAG_EVERY_S
            self.lag_s = max(late_s, self.lag_s * 0.95)
            if late_s > self._limit_s and self._lagging is not None:
                self._lagging(late_s)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        # aiortc starts tasks that nobody awaits; what becomes of their connection is noticed by its
        # state and by the connect deadline.
        self.errors += 1
        _log.debug("on the media loop: %s: %r", context.get("message"), context.get("exception"))


class SameLoop(MediaLoop):
    """Stands in for a media loop on the loop that runs: no thread, so that virtual time can pass.

    :param lagging: never called; nothing can lag.
    """

    def __init__(
        self, lagging: Callable[[float], None] | None = None, *, lag_limit_s: float = 0.2
    ) -> None:
        self.lag_s: float = 0.0
        self.errors: int = 0
        self._loop = asyncio.get_running_loop()
        self._stopped = False

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Have a function called soon; after the end it is dropped."""
        if not self._stopped:
            self._loop.call_soon(callback, *arguments)

    async def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Run a coroutine. :raises BackendError: after the end."""
        if self._stopped:
            work.close()
            raise _closed()
        return await work

    async def stop(self) -> None:
        """Take no more work. Idempotent."""
        self._stopped = True


def _closed() -> BackendError:
    return BackendError(
        "The mesh connection is closed.", why="it was asked for something after its end"
    )


def _refuse(future: concurrent.futures.Future[Any]) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        future.set_exception(_closed())
