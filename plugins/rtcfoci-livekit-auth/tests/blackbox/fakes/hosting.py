"""A thread with an event loop that serves the fakes.

In: starting and stopping listeners on free loopback ports. Out: what they answer.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

__all__ = ["Host"]

T = TypeVar("T")


class Host:
    """One loop in one thread; fakes share it, and it ends them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakes", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 10.0) -> T:
        """Run something in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def listen(
        self,
        handler: Any,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> int:
        """Serve every path with one handler and give the port.

        :raises OSError: the port is taken, or not for this user.
        """
        return self.run(self._listen(handler, host, port, tls))

    async def _listen(self, handler: Any, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024)
        await site.start()
        return int(runner.addresses[0][1])

    def close(self) -> None:
        async def end() -> None:
            await asyncio.gather(*(runner.cleanup() for runner in self._runners))
            # Answers that are never given.
            waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
