"""A homeserver that exists only in memory: it sits below our client-server layer, traps included.

In: `MemoryHomeserver`, which answers `request`; waiting syncs; faults on demand.
Out: its endpoints (`homeserver_api`) and what they know (`homeserver_rooms`, `_devices`, `_delayed`,
`_sync`, `_limits`); federation, presence, receipts, account data, cross-signing, media.

What it answers is held against Synapse 1.163.2 by one test file, `tests/parity`. Its time is the event
loop's, so it runs under virtual time.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rtcfoci.core.model import Now
from rtcfoci.errors import UnreachableError
from rtcfoci.matrix.http import Response
from rtcfoci.testing.accounts import Accounts, Credentials, credentials
from rtcfoci.testing.clock import VirtualLoop
from rtcfoci.testing.homeserver_api import Api
from rtcfoci.testing.homeserver_core import Call
from rtcfoci.testing.homeserver_delayed import Held
from rtcfoci.testing.homeserver_devices import Devices
from rtcfoci.testing.homeserver_limits import MatrixError
from rtcfoci.testing.homeserver_rooms import Room
from rtcfoci.testing.homeserver_sync import Since, SyncFilter
from rtcfoci.testing.synapse_config import SynapseOptions

__all__ = ["Line", "MemoryHomeserver"]

SYNC_KEPT_S = 120.0
"""How long an equal sync gets the answer of the first, as Synapse does it."""

_SYNC = ("/_matrix/client/v3/sync", "/_matrix/client/r0/sync")


@dataclass(slots=True)
class _Fault:
    match: str
    count: int
    error: MatrixError | None
    """None: the request is done and its answer lost."""


class MemoryHomeserver(Accounts):
    """One homeserver; any number of clients, each through a `Line` or directly.

    Make and use it inside the event loop whose time it shall follow.

    :param options: the same as for the real one.
    :param latency_s: how long each request is on its way, there and back together.
    :param random_bytes: where ids and tokens come from; a run that shall repeat gives a source of its own.
    """

    def __init__(
        self,
        options: SynapseOptions | None = None,
        *,
        server_name: str = "memory.test",
        latency_s: float = 0.0,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.server_name = server_name
        self.base_url: str = f"https://{server_name}"
        self.latency_s = latency_s
        self.options: SynapseOptions = options or SynapseOptions()
        self._wake = asyncio.Event()
        self._down = False
        self._faults: list[_Fault] = []
        self._seen: list[str] = []
        self._kept: dict[tuple[object, ...], tuple[float, dict[str, object]]] = {}
        """Answers to syncs, by who asked for what, and until when they are kept."""
        self._api = Api(server_name, self.options, _now, self._changed, random_bytes)

    @property
    def devices(self) -> Devices:
        """Users, devices and to-device messages; its `hook` drops, doubles or keeps back messages."""
        return self._api.devices

    @property
    def rooms(self) -> Mapping[str, Room]:
        """Every room, by its id, with all events in the server's order."""
        return self._api.rooms

    def held(self, user_id: str) -> Sequence[Held]:
        """List the delayed events of a user, the next to fire first."""
        return self._api.delayed.of(user_id)

    def line(self) -> Line:
        """Give one client a connection of its own, which can be cut."""
        return Line(self)

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> Response:
        """Answer one request, as `rtcfoci.matrix.http.Requester` describes it."""
        self._seen.append(f"{method} {path}")
        try:
            async with asyncio.timeout(timeout_s):
                if self.latency_s:
                    await asyncio.sleep(self.latency_s / 2)
                response = await self._respond(method, path, query or {}, body, token)
                if self.latency_s:
                    await asyncio.sleep(self.latency_s / 2)
                self._check_up()
                return response
        except TimeoutError:
            raise self._unreachable(f"no answer within {timeout_s:g} s") from None

    async def aclose(self) -> None:
        """Do nothing: the server outlives its clients."""

    async def register(self, user: str, password: str) -> Credentials:
        """Create a user with a first device, past any rate limit."""
        return credentials(self._api.register(user, password))

    async def _ask(
        self, method: str, path: str, token: str | None, query: Mapping[str, str], body: object
    ) -> tuple[int, object]:
        response = await self.request(method, path, query, body, token)
        return response.status, response.body

    # --- faults ---------------------------------------------------------------------------------

    def go_down(self) -> None:
        """Answer nobody from now on; nothing that is held fires, nothing is forgotten."""
        self._down = True
        self._api.delayed.stop()
        self._changed()

    def come_up(self) -> None:
        """Answer again; delayed events that are overdue fire at once."""
        self._down = False
        self._api.delayed.start()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be down inside the `with`."""
        self.go_down()
        try:
            yield
        finally:
            self.come_up()

    def refuse(
        self,
        match: str,
        *,
        count: int = 1,
        status: int = 429,
        errcode: str = "M_LIMIT_EXCEEDED",
        retry_after_ms: int | None = None,
    ) -> None:
        """Refuse the next requests whose `METHOD path` contains `match`."""
        error = MatrixError(status, errcode, "Refused on demand", retry_after_ms=retry_after_ms)
        self._faults.append(_Fault(match, count, error))

    def lose_answer(self, match: str, *, count: int = 1) -> None:
        """Do the next requests that match, and lose the answers on the way back."""
        self._faults.append(_Fault(match, count, None))

    def seen(self, match: str) -> int:
        """Count the requests so far whose `METHOD path` contains `match`."""
        return sum(match in request for request in self._seen)

    # --- answering ------------------------------------------------------------------------------

    async def _respond(
        self, method: str, path: str, query: Mapping[str, str], body: object, token: str | None
    ) -> Response:
        self._check_up()
        fault = self._fault(f"{method} {path}")
        # Through JSON and back: nothing is shared with the caller, and what is no JSON fails here.
        call = Call(path, dict(query), json.loads(json.dumps(body)))
        try:
            if fault is not None and fault.error is not None:
                raise fault.error
            if method == "GET" and path in _SYNC:
                answer: object = await self._sync(call, token)
            else:
                answer = self._api.answer(method, path, call, token)
        except MatrixError as error:
            return Response(error.status, dict(error.headers), error.body)
        if fault is not None:
            raise self._unreachable("the answer was lost on demand")
        return Response(200, {"content-type": "application/json"}, json.loads(json.dumps(answer)))

    async def _sync(self, call: Call, token: str | None) -> dict[str, object]:
        if token is None:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        device = self._api.devices.by_token(token)
        if device is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "Invalid access token passed.")
        since = Since.read(call.query["since"]) if "since" in call.query else None
        stored = self._api.devices.users[device.user_id].filters
        wanted = SyncFilter.read(call.query.get("filter", ""), stored)
        wait_s = (call.number("timeout") or 0) / 1000
        if since is None or call.query.get("full_state") == "true":
            wait_s = 0
        loop = asyncio.get_running_loop()
        key = (device.user_id, device.device_id, *sorted(call.query.items()))
        self._kept = {k: kept for k, kept in self._kept.items() if kept[0] > loop.time()}
        if key in self._kept:
            return self._kept[key][1]
        until_s = loop.time() + wait_s
        while True:
            wake = self._wake
            api = self._api
            body, says = api.syncs.build(device, since, wanted, api.position, _now().ts_ms)
            if says or loop.time() >= until_s:
                if body["next_batch"] != call.query.get("since"):
                    self._kept[key] = (loop.time() + SYNC_KEPT_S, body)
                return body
            try:
                async with asyncio.timeout_at(until_s):
                    await wake.wait()
            except TimeoutError:
                pass
            self._check_up()

    def _fault(self, request: str) -> _Fault | None:
        for fault in self._faults:
            if fault.match in request:
                fault.count -= 1
                if fault.count == 0:
                    self._faults.remove(fault)
                return fault
        return None

    def _changed(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    def _check_up(self) -> None:
        if self._down:
            raise self._unreachable("it is down, on demand")

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"The homeserver {self.base_url} cannot be reached.",
            why=why,
            do="This is the homeserver in memory: look at the test.",
        )


class Line:
    """One client's connection; `cut` makes the server unreachable for this client alone."""

    def __init__(self, server: MemoryHomeserver) -> None:
        self._server = server
        self._cut = asyncio.Event()

    @property
    def cut(self) -> bool:
        return self._cut.is_set()

    @cut.setter
    def cut(self, value: bool) -> None:
        if value:
            self._cut.set()
        else:
            self._cut.clear()

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
        """Pass one request on; one that is on its way when the line is cut fails too."""
        asking = asyncio.ensure_future(
            self._server.request(method, path, query, body, token, timeout_s=timeout_s)
        )
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            if not self.cut:
                await asyncio.wait({asking, cut}, return_when=asyncio.FIRST_COMPLETED)
            if self.cut:
                raise UnreachableError(
                    f"The homeserver {self._server.base_url} cannot be reached.",
                    why="this client's line is cut, on demand",
                    do="This is the homeserver in memory: look at the test.",
                )
            return await asking
        finally:
            for task in (asking, cut):
                task.cancel()
            await asyncio.gather(asking, cut, return_exceptions=True)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


def _now() -> Now:
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        return loop.clock.now()
    return Now(loop.time(), time.time_ns() // 1_000_000)
