"""What backends are given in tests: a context without Matrix, and the network that joins several.

In: signals between contexts, homeserver answers, the clock, loopback HTTP and WebSocket.
Out: the context of a real call (`rtcfoci.call.context`), who drives the backends (`stage`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeAlias

from rtcfoci.call.trust import TrustedHttp, TrustPolicy, origins_in
from rtcfoci.core.model import JsonObject, Member, Now, Slot
from rtcfoci.errors import BackendError, ClientError
from rtcfoci.media.frames import Kind
from rtcfoci.plugin.backend import SignalSecurity
from rtcfoci.plugin.context import HttpResponse, WebSocket
from rtcfoci.testing.clock import START_TS_MS

__all__ = ["FakeContext", "FakeNetwork", "SignalHandler"]

SignalHandler: TypeAlias = Callable[[Member, JsonObject, SignalSecurity], Awaitable[None]]
Answer: TypeAlias = JsonObject | Callable[[JsonObject | None], JsonObject]

_SIGNALS_WAITING = 200


class FakeNetwork:
    """Carries signals between the contexts of one test, in order; answers for the homeserver.

    :param answers: what the homeserver says, by (method, path): an object, or a function of the body.
    """

    def __init__(self, answers: Mapping[tuple[str, str], Answer] | None = None) -> None:
        self.answers: dict[tuple[str, str], Answer] = {
            ("GET", "/_matrix/client/v3/voip/turnServer"): {},
            **(answers or {}),
        }
        self.contexts: dict[tuple[Slot, Member], FakeContext] = {}
        self.drop: Callable[[Member, Member, JsonObject], bool] = lambda sender, to, payload: False
        """Loses a signal on its way."""

    def deliver(self, sender: FakeContext, to: Member, payload: JsonObject) -> None:
        """Hand a signal to the context it is for; one that nobody has is lost, as with Matrix."""
        target = self.contexts.get((sender.slot, to))
        if target is not None and not self.drop(sender.member, to, payload):
            security: SignalSecurity = "bound" if sender.encrypted else "clear"
            target.receive(sender.member, payload, security)


class FakeContext:
    """Everything a backend may use, without Matrix; create it on the test's event loop.

    :param trusted: URLs of configuration; loopback is reachable in any case, nothing else is.
    """

    def __init__(
        self,
        member: Member,
        *,
        slot: Slot | None = None,
        network: FakeNetwork | None = None,
        encrypted: bool = False,
        announced: frozenset[Kind] = frozenset(),
        trusted: tuple[str, ...] = (),
    ) -> None:
        self.member = member
        self.slot: Slot = slot or Slot(room_id="!room:test")
        self.encrypted = encrypted
        self.announced = announced
        self.network: FakeNetwork = network or FakeNetwork()
        self.network.contexts[self.slot, member] = self
        self.log: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(
            logging.getLogger("rtcfoci.testing"), {}
        )
        self.counters: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        """What spawned work raised."""
        self.refused: list[BaseException] = []
        """What `Connection.on_signal` raised, which it never may."""
        self._http = TrustedHttp(TrustPolicy(), origins_in(trusted))
        self._loop = asyncio.get_running_loop()
        self._start_s = self._loop.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handler: SignalHandler | None = None
        self._signals: asyncio.Queue[tuple[Member, JsonObject, SignalSecurity]]
        self._signals = asyncio.Queue(_SIGNALS_WAITING)
        self._lock = threading.Lock()

    def now(self) -> Now:
        s = self._loop.time()
        return Now(s, START_TS_MS + round((s - self._start_s) * 1000))

    def on_signal(self, handler: SignalHandler) -> None:
        """Hand signals to a connection from now on, those that waited for it first."""
        if self._handler is None:
            self.spawn(self._hand_over(), name="signals")
        self._handler = handler

    def receive(self, sender: Member, payload: JsonObject, security: SignalSecurity) -> None:
        """Take a signal from the network; it waits, bounded, for a connection."""
        if not self._signals.full():
            self._signals.put_nowait((sender, payload, security))

    async def send_signal(self, member: Member, payload: JsonObject) -> None:
        # From whichever loop it comes, it goes out on the test's.
        self._at_home(lambda: self.network.deliver(self, member, payload))

    async def homeserver(
        self, method: str, path: str, body: JsonObject | None = None
    ) -> JsonObject:
        answer = self.network.answers.get((method, path))
        if answer is None:
            raise ClientError(f"{method} {path} is unknown", status=404, errcode="M_UNRECOGNIZED")
        return answer(body) if callable(answer) else answer

    async def http(
        self,
        method: str,
        url: str,
        *,
        body: JsonObject | None = None,
        timeout_s: float = 10.0,
        trusted: bool = False,
    ) -> HttpResponse:
        trusted = self._loopback(url) or trusted
        return await self._http.http(method, url, body=body, timeout_s=timeout_s, trusted=trusted)

    async def websocket(
        self, url: str, *, timeout_s: float = 10.0, trusted: bool = False
    ) -> WebSocket:
        trusted = self._loopback(url) or trusted
        return await self._http.websocket(url, timeout_s=timeout_s, trusted=trusted)

    def check_url(self, url: str, *, trusted: bool = False) -> None:
        self._http.check_url(url, trusted=self._loopback(url) or trusted)

    def spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        handles: list[asyncio.TimerHandle] = []
        self._at_home(lambda: handles.append(self._loop.call_later(delay_s, callback)))

        def cancel() -> None:
            for handle in handles:
                handle.cancel()

        return lambda: self._at_home(cancel)

    def count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self.counters[name] += amount

    async def aclose(self) -> None:
        """Cancel what was spawned, close what was opened; idempotent."""
        self.network.contexts.pop((self.slot, self.member), None)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    async def _hand_over(self) -> None:
        while True:
            signal = await self._signals.get()
            try:
                if self._handler is not None:
                    await self._handler(*signal)
            except Exception as error:
                self.refused.append(error)

    def _at_home(self, act: Callable[[], object]) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            act()
        else:
            self._loop.call_soon_threadsafe(act)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failures.append(error)

    @staticmethod
    def _loopback(url: str) -> bool:
        hosts = {host for host, _ in origins_in([url])}
        if hosts and not hosts <= {"127.0.0.1", "::1", "localhost"}:
            what = f"a test may only reach this machine, not {', '.join(hosts)}"
            raise BackendError(what, why="no real network in tests", do="use a loopback URL")
        return bool(hosts)
