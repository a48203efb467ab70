"""The context that a call gives its backends.

In: one `CallContext` for each focus type in a call. Out: the policy behind it (`trust`), and the
envelope around signals (`rtcfoci.core.signals`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from rtcfoci.call.trust import TrustedHttp
from rtcfoci.core.model import JsonObject, Member, Now, Slot
from rtcfoci.errors import BackendError, ClientError
from rtcfoci.matrix.client import MatrixClient
from rtcfoci.media.frames import Kind
from rtcfoci.plugin.context import HttpResponse, WebSocket

__all__ = ["CallContext", "Host"]

_T = TypeVar("_T")
_MAX_COUNTERS = 500


class Host(Protocol):
    """What a context needs of its call."""

    slot: Slot
    member: Member
    encrypted: bool
    announced: frozenset[Kind]
    client: MatrixClient
    counters: Counter[str]
    loop: asyncio.AbstractEventLoop

    def now(self) -> Now: ...
    async def send_signal(self, focus_type: str, member: Member, payload: JsonObject) -> None: ...
    def spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]: ...


class CallContext:
    """Everything a backend may use of the outside world; thread-safe.

    Calls that come from another loop than the call's are carried over to it.
    """

    def __init__(self, host: Host, focus_type: str, http: TrustedHttp) -> None:
        self._host = host
        self._focus_type = focus_type
        self._http = http
        self._counting = threading.Lock()
        self.slot: Slot = host.slot
        self.member: Member = host.member
        self.encrypted: bool = host.encrypted
        self.announced: frozenset[Kind] = host.announced
        self.log: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(
            logging.getLogger(f"rtcfoci.focus.{focus_type}"), {"room_id": host.slot.room_id}
        )

    def now(self) -> Now:
        return self._host.now()

    async def send_signal(self, member: Member, payload: JsonObject) -> None:
        await self._at_home(lambda: self._host.send_signal(self._focus_type, member, payload))

    async def homeserver(
        self, method: str, path: str, body: JsonObject | None = None
    ) -> JsonObject:
        return await self._at_home(lambda: self._host.client.request(method, path, body=body))

    async def http(
        self,
        method: str,
        url: str,
        *,
        body: JsonObject | None = None,
        timeout_s: float = 10.0,
        trusted: bool = False,
    ) -> HttpResponse:
        return await self._at_home(
            lambda: self._http.http(method, url, body=body, timeout_s=timeout_s, trusted=trusted)
        )

    async def websocket(
        self, url: str, *, timeout_s: float = 10.0, trusted: bool = False
    ) -> WebSocket:
        socket = await self._at_home(
            lambda: self._http.websocket(url, timeout_s=timeout_s, trusted=trusted)
        )
        # Used on the loop that asked for it, it lives on the call's.
        return socket if _running_loop() is self._host.loop else _Carried(socket, self._at_home)

    def check_url(self, url: str, *, trusted: bool = False) -> None:
        self._http.check_url(url, trusted=trusted)

    def spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Run work on the call's loop; call it from there."""
        return self._host.spawn(work, name=f"{self._focus_type}: {name}")

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        if _running_loop() is self._host.loop:
            return self._host.loop.call_later(delay_s, callback).cancel
        handles: list[asyncio.TimerHandle] = []
        cancelled = False

        def arm() -> None:
            if not cancelled:
                handles.append(self._host.loop.call_later(delay_s, callback))

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            for handle in handles:
                self._host.loop.call_soon_threadsafe(handle.cancel)

        self._host.loop.call_soon_threadsafe(arm)
        return cancel

    def count(self, name: str, amount: int = 1) -> None:
        name = f"{self._focus_type}.{name}"
        with self._counting:
            counters = self._host.counters
            if name not in counters and len(counters) >= _MAX_COUNTERS:
                name = f"{self._focus_type}.others"  # a name made of what a stranger sends
            counters[name] += amount

    async def _at_home(self, start: Callable[[], Coroutine[object, object, _T]]) -> _T:
        async def run() -> _T:
            try:
                return await start()
            except ClientError as error:
                raise BackendError(
                    error.what,
                    why=error.why,
                    do=error.do,
                    retryable=error.status == 0 or error.status == 429 or error.status >= 500,
                ) from None

        if _running_loop() is self._host.loop:
            return await run()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._host.loop))


class _Home(Protocol):
    async def __call__(self, start: Callable[[], Coroutine[object, object, _T]]) -> _T: ...


class _Carried:
    """A WebSocket of the call's loop for use on another."""

    def __init__(self, socket: WebSocket, at_home: _Home) -> None:
        self._socket = socket
        self._at_home = at_home

    async def send(self, message: str | bytes) -> None:
        await self._at_home(lambda: self._socket.send(message))

    async def receive(self) -> str | bytes:
        return await self._at_home(self._socket.receive)

    async def aclose(self) -> None:
        await self._at_home(self._socket.aclose)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
