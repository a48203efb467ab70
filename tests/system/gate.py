"""A gate between participants and their homeserver: it can be shut, and it can spoil to-device messages.

While it is shut nothing passes, as on a cable that was pulled: what was asked hangs, what was answered is
held, and all of it goes on when the gate opens. To-device messages are lost, repeated and held up as a
seed decides; their sender is always told that all went well.
"""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

_HOP = {
    "connection",
    "content-encoding",
    "content-length",
    "host",
    "keep-alive",
    "transfer-encoding",
}
_LIMIT_BYTES = 1 << 26


@dataclass(frozen=True)
class Spoiling:
    """How likely each fault is, for every request with to-device messages."""

    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    late_s: float = 2.0
    """At most; others overtake what is late."""


class Gate:
    """Use it where a test uses its Synapse: it has a `base_url` too."""

    def __init__(self, homeserver_url, *, seed=0):
        self.base_url = ""
        self.spoiling = Spoiling()
        self.spoilt = Counter()
        """How often each fault was done."""
        self._to = homeserver_url
        self._random = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._late = set()

    def shut(self):
        self._open.clear()

    def open(self):
        self._open.set()

    async def __aenter__(self):
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=_LIMIT_BYTES)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_):
        self.open()
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request):
        body = await request.read()
        await self._open.wait()
        if "/sendToDevice/" in request.path:
            if self._chance("lost", self.spoiling.lost):
                return web.json_response({})
            if self._chance("late", self.spoiling.late):
                delay_s = self._random.uniform(0.2, self.spoiling.late_s)
                self._afterwards(self._forward(request, body), delay_s)
                return web.json_response({})
            if self._chance("repeated", self.spoiling.repeated):
                # Under another transaction id: the same one would be dropped by the homeserver.
                again = request.rel_url.with_name(f"{request.rel_url.name}-again")
                self._afterwards(self._forward(request, body, again), 0.1)
        try:
            status, headers, answer = await self._forward(request, body)
        except aiohttp.ClientError:
            raise web.HTTPBadGateway from None
        await self._open.wait()
        return web.Response(status=status, headers=headers, body=answer)

    def _chance(self, what, likely):
        done = self._random.random() < likely
        self.spoilt[what] += done
        return done

    def _afterwards(self, forwarding, delay_s):
        async def wait():
            with contextlib.closing(forwarding):
                await asyncio.sleep(delay_s)
                with contextlib.suppress(aiohttp.ClientError):
                    await forwarding

        task = asyncio.create_task(wait())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _forward(self, request, body, target=None):
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        url = self._to + str(target or request.rel_url)
        async with self._session.request(
            request.method,
            URL(url, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
        ) as answer:
            kept = {
                k: v
                for k, v in answer.headers.items()
                if k.lower() not in _HOP - {"content-encoding"}
            }
            return answer.status, kept, await answer.read()
