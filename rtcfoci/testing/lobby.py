"""A call with scripted peers and no server: for the tests of applications.

In: a room on the in-memory homeserver, peers that are real calls over the in-memory focus, and what
a script does with them. Out: the homeserver (`homeserver`), the focus (`memory`), the fixture
(`pytest_plugin`).

::

    async def test_it_echoes(rtc_lobby):
        bob = await rtc_lobby.peer("bob")
        async with rtc_lobby.join() as call:
            bot = asyncio.create_task(echo(call))
            await bob.send_data(b"ping")
            assert (await bob.next_data()).payload == b"ping"

It runs in real time, and in virtual time under `rtcfoci.testing.run`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from rtcfoci.call.call import Call
from rtcfoci.call.events import CallEvent, DataReceived
from rtcfoci.call.join import Focus, join
from rtcfoci.core.model import Now
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.cs import CsClient
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import LocalTrack
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.testing.accounts import Credentials
from rtcfoci.testing.homeserver import Line, MemoryHomeserver
from rtcfoci.testing.memory_world import MemoryWorld
from rtcfoci.testing.stage import TestSource
from rtcfoci.testing.synapse_config import SynapseOptions

__all__ = ["Lobby", "Peer"]

_TYPES = "rtcfoci.testing.memory_types"
_MEET_TIMEOUT_S = 10.0


class Peer:
    """A scripted participant: a call of its own, and what it has seen so far.

    Use `call` for whatever is not here.
    """

    def __init__(self, call: Call, line: Line) -> None:
        self.call = call
        self.events: list[CallEvent] = []
        """Everything it was told, oldest first."""
        self._line = line
        self._data: asyncio.Queue[DataReceived] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = [asyncio.create_task(self._read())]

    async def publish(self, kind: Kind, *, name: str = "") -> LocalTrack:
        """Publish a tone or a moving picture until it leaves."""
        source = TestSource(self.call.member, kind)
        self._tasks.append(asyncio.create_task(source.feed()))
        return await self.call.publish(source.hub, name=name)

    async def send_data(self, payload: bytes, *, topic: str = "") -> None:
        """Send data to everybody, once its focus is connected."""
        await self.until(lambda: any(link.up for link in self.call.foci.publishing_links()))
        await self.call.send_data(payload, topic=topic)

    async def next_data(self, *, timeout_s: float = _MEET_TIMEOUT_S) -> DataReceived:
        """Wait for the next data message."""
        async with asyncio.timeout(timeout_s):
            return await self._data.get()

    async def until(
        self, holds: Callable[[], object], *, timeout_s: float = _MEET_TIMEOUT_S
    ) -> None:
        """Wait until something holds. :raises TimeoutError: when it does not in time."""
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110 - it may hold for any reason
                await asyncio.sleep(0.02)

    async def leave(self) -> None:
        """Leave as it should."""
        await self.call.leave()
        await self._stop()

    async def vanish(self) -> None:
        """Lose the network for good, without a word: its delayed leave is what remains."""
        self._line.cut = True
        for link in self.call.foci.links:
            if link.connection is not None:
                await link.connection.aclose()
        await self._stop()

    async def _read(self) -> None:
        async for event in self.call.events():
            self.events.append(event)
            if isinstance(event, DataReceived):
                self._data.put_nowait(event)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Lobby:
    """A room in which the application under test and its peers meet.

    :param encrypted: whether the room is.
    :param olm: whether everybody's client can encrypt, if the room is; takes matrix-nio.
    :param foci: what everybody accepts, in order.
    :param options: what the homeserver offers.
    """

    def __init__(
        self,
        *,
        encrypted: bool = False,
        olm: bool = True,
        foci: Sequence[Focus] = ("memory.elected",),
        options: SynapseOptions | None = None,
        allow_insecure: bool = False,
    ) -> None:
        self.homeserver: MemoryHomeserver = MemoryHomeserver(options)
        self.world_name: str = secrets.token_hex(4)
        self.world: MemoryWorld = MemoryWorld.named(self.world_name, fresh=True)
        """The network of the focus, with the hand that breaks it."""
        self.plugins: PluginManager = PluginManager.load(plugins=(_TYPES,))
        self.room_id: str = ""
        self._encrypted = encrypted
        self._olm = olm
        self._allow_insecure = allow_insecure
        self.foci: Sequence[Focus] = self._in_world(foci)
        """What everybody accepts, as `rtcfoci.join` takes it."""
        self._people: dict[str, Credentials] = {}
        self._stack = AsyncExitStack()

    def now(self) -> Now:
        """Both clocks, of the loop that runs: virtual if it is."""
        loop_s = asyncio.get_running_loop().time()
        clock = getattr(asyncio.get_running_loop(), "clock", None)
        return Now(loop_s, clock.ts_ms if clock is not None else time.time_ns() // 1_000_000)

    async def client(self, name: str) -> tuple[CsClient, Line]:
        """Make a new device of a person, who is put into the room, and the line it hangs on."""
        if name not in self._people:
            person = self._people[name] = await self.homeserver.register(name, "secret")
            if not self.room_id:
                self.room_id = await self.homeserver.create_room(
                    person.access_token, encrypted=self._encrypted
                )
            else:
                await self.homeserver.join_room(person.access_token, self.room_id)
        else:
            person = await self.homeserver.login(name, "secret")
        line = self.homeserver.line()
        if self._encrypted and self._olm:
            client = await connect(
                self.homeserver.base_url,
                token=person.access_token,
                encrypted=True,
                requester=lambda _: line,
                wall_ts_ms=lambda: self.now().ts_ms,
            )
        else:
            client = CsClient(
                line,
                homeserver_url=self.homeserver.base_url,
                user_id=person.user_id,
                device_id=person.device_id,
                access_token=person.access_token,
                wall_ts_ms=lambda: self.now().ts_ms,
            )
        self._stack.push_async_callback(client.aclose)
        return client, line

    @asynccontextmanager
    async def join(
        self, name: str = "me", *, foci: Sequence[Focus] | None = None, dialect: str | None = None
    ) -> AsyncIterator[Call]:
        """Join as the application under test does."""
        client, _ = await self.client(name)
        async with self.join_as(client, foci, dialect) as call:
            yield call

    async def peer(
        self, name: str, *, foci: Sequence[Focus] | None = None, dialect: str | None = None
    ) -> Peer:
        """Bring a scripted peer into the call; it leaves at the end of the test at the latest."""
        client, line = await self.client(name)
        call = await self._stack.enter_async_context(self.join_as(client, foci, dialect))
        peer = Peer(call, line)
        self._stack.push_async_callback(peer._stop)
        return peer

    def join_as(
        self, client: CsClient, foci: Sequence[Focus] | None = None, dialect: str | None = None
    ) -> AbstractAsyncContextManager[Call]:
        """Join with a client that `client` made."""
        return join(
            client,
            self.room_id,
            foci=self.foci if foci is None else self._in_world(foci),
            dialect=dialect,
            allow_insecure=self._allow_insecure,
            plugins=self.plugins,
            now=self.now,
        )

    def _in_world(self, foci: Sequence[Focus]) -> Sequence[Focus]:
        named = [(f, {}) if isinstance(f, str) else f for f in foci]
        return [
            (name, {"world": self.world_name, **config} if name.startswith("memory.") else config)
            for name, config in named
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
