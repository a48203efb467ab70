"""One process's way to the homeserver, and what goes wrong on it.

In: a `Requester` that is late, cut, limited, or loses answers, as it is told. Out: the homeserver itself,
and its own outages (`rtcfoci.testing.homeserver`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from rtcfoci.errors import UnreachableError
from rtcfoci.matrix.http import Response
from rtcfoci.testing.homeserver import MemoryHomeserver

__all__ = ["Uplink", "Weather"]

_SYNC = "/sync"


@dataclass(slots=True)
class Weather:
    """What the way is like now; it outlives processes, as a device's place does."""

    delay_s: float
    """One way."""
    late_s: float = 0.0
    """How much later answers are."""
    refused: int = 0
    """Cuts that show at once."""
    silent: int = 0
    """Cuts that hold everything back until they are over."""
    limited: int = 0
    """How many more requests are refused for their rate."""
    retry_after_ms: int | None = None
    lost: int = 0
    """How many more answers get lost."""
    lost_silently: bool = False


class Uplink:
    """The way of one process.

    A request that has left takes effect, whether its sender still waits for it or not.
    """

    def __init__(self, server: MemoryHomeserver, weather: Weather) -> None:
        self.alive: bool = True
        self._server = server
        self._weather = weather
        self._waiting: dict[asyncio.Future[Response], None] = {}
        self._held: dict[asyncio.Future[Response], asyncio.Task[None]] = {}
        """What waits here for the end of a cut."""
        self._returning: set[asyncio.Future[Response]] = set()
        """Answers on their way back."""
        self._mended = asyncio.Event()
        self._mended.set()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object | None,
        token: str | None,
        *,
        timeout_s: float,
    ) -> Response:
        """Send one request and wait for its answer."""
        self._check()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response] = loop.create_future()
        self._waiting[answer] = None
        serving = loop.create_task(self._serve(answer, method, path, query, body, token))
        self._held[answer] = serving
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise _unreachable(f"no answer within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(answer, None)
            if path.endswith(_SYNC) or answer in self._returning:
                serving.cancel()

    async def aclose(self) -> None:
        """Give up what has not left yet."""
        for serving in self._held.values():
            serving.cancel()
        self._held.clear()

    def changed(self) -> None:
        """Take note that a cut began or ended."""
        if self._weather.silent and self.alive:
            self._mended.clear()
        else:
            self._mended.set()
        if self._weather.refused or not self.alive:
            for answer in tuple(self._waiting):
                self._fail(answer, "the way to it is cut")

    def die(self) -> None:
        """The process is gone: nothing leaves any more, and nothing arrives."""
        self.alive = False
        self.changed()

    def _check(self) -> None:
        if not self.alive:
            raise _unreachable("this process is dead")
        if self._weather.refused:
            raise _unreachable("the way to it is cut")

    async def _serve(
        self,
        answer: asyncio.Future[Response],
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object | None,
        token: str | None,
    ) -> None:
        weather, sync = self._weather, path.endswith(_SYNC)
        await self._mended.wait()
        self._held.pop(answer, None)
        await asyncio.sleep(weather.delay_s)
        if weather.limited and not sync:
            weather.limited -= 1
            response = _limited(weather.retry_after_ms)
        else:
            try:
                response = await self._server.request(
                    method, path, query, body, token, timeout_s=3600
                )
            except UnreachableError as error:
                self._fail(answer, error.why)
                return
            if weather.lost and not sync:
                weather.lost -= 1
                if not weather.lost_silently:
                    self._fail(answer, "the answer was lost")
                return
        if answer.done():
            return  # nobody waits any more
        self._returning.add(answer)
        try:
            await asyncio.sleep(weather.delay_s + weather.late_s)
            await self._mended.wait()
        finally:
            self._returning.discard(answer)
        if not answer.done():
            answer.set_result(response)

    def _fail(self, answer: asyncio.Future[Response], why: str) -> None:
        if not answer.done():
            answer.set_exception(_unreachable(why))


def _limited(retry_after_ms: int | None) -> Response:
    body: dict[str, object] = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests"}
    if retry_after_ms is not None:
        body["retry_after_ms"] = retry_after_ms
    return Response(429, {}, body)


def _unreachable(why: str) -> UnreachableError:
    return UnreachableError(
        "The homeserver cannot be reached.", why=why, do="This is a simulated homeserver."
    )
