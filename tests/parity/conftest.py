"""Both homeservers behind one face, and the table of what each was seen to do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import pytest

from rtcfoci.matrix.http import AiohttpRequester, Requester, Response
from rtcfoci.testing import Synapse, SynapseOptions, skip_or_fail
from rtcfoci.testing.accounts import Accounts, Credentials
from rtcfoci.testing.homeserver import MemoryHomeserver
from rtcfoci.testing.synapse_env import environment_python

TRANSPORT = {"type": "livekit", "livekit_service_url": "https://sfu.example.org"}
DELAY = "org.matrix.msc4140.delay"
DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

ROWS: dict[str, dict[str, str]] = {}
"""Behaviour -> kind of server -> what was seen, in the order of the tests."""

_names = itertools.count(1)

Row: TypeAlias = Callable[[str, str, str], None]
Down: TypeAlias = Callable[[float], Awaitable[None]]


def part(text: str) -> str:
    return quote(text, safe="")


@dataclass
class Client:
    """One device, at the level of raw requests."""

    server: Server
    own: Credentials

    @property
    def user_id(self) -> str:
        return self.own.user_id

    async def ask(
        self,
        method: str,
        path: str,
        body: object | None = None,
        query: Mapping[str, str] | None = None,
        *,
        v3: bool = True,
    ) -> Response:
        prefix = "/_matrix/client/v3" if v3 else ""
        return await self.server.ask(method, prefix + path, body, query, self.own.access_token)

    async def state(
        self, room: str, kind: str, key: str, content: object, **query: str
    ) -> Response:
        path = f"/rooms/{part(room)}/state/{kind}/{part(key)}"
        return await self.ask("PUT", path, content, query)

    async def send(
        self,
        room: str,
        kind: str,
        content: object,
        query: Mapping[str, str] | None = None,
        *,
        txn: str | None = None,
    ) -> Response:
        txn = txn or f"txn{next(_names)}"
        return await self.ask("PUT", f"/rooms/{part(room)}/send/{kind}/{txn}", content, query)

    async def hold(
        self,
        room: str,
        ms: int,
        *,
        key: str | None = None,
        kind: str = "org.example.held",
        **content: object,
    ) -> Response:
        query = {DELAY: str(ms)}
        if key is None:
            return await self.send(room, kind, content, query)
        return await self.ask(
            "PUT", f"/rooms/{part(room)}/state/{kind}/{part(key)}", content, query
        )

    async def manage(self, delay_id: str, action: str = "") -> Response:
        return await self.ask("POST", f"{DELAYED}/{delay_id}/{action}", {}, v3=False)

    async def read(self, room: str, kind: str, key: str) -> object:
        """Give a piece of state, or None."""
        answer = await self.ask("GET", f"/rooms/{part(room)}/state/{kind}/{part(key)}")
        return answer.body if answer.status == 200 else None

    async def sync(self, since: str | None = None, ms: int = 0, **query: str) -> dict:
        """Sync once; each request is unlike all others, since servers keep answers to equal ones."""
        asked = {"timeout": str(ms + next(_names) % 50), **query} | (
            {"since": since} if since else {}
        )
        answer = await self.ask("GET", "/sync", query=asked)
        assert answer.status == 200, answer.body
        assert isinstance(answer.body, dict)
        return answer.body

    async def token(self) -> str:
        return (await self.sync())["next_batch"]


class Server:
    """One of the two, seen through raw requests."""

    def __init__(self, house: Accounts, requester: Requester) -> None:
        self.house = house
        self.requester = requester

    async def ask(
        self,
        method: str,
        path: str,
        body: object | None = None,
        query: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Response:
        return await self.requester.request(method, path, query or {}, body, token, timeout_s=20)

    async def user(self, name: str = "user") -> Client:
        return Client(self, await self.house.register(f"{name}{next(_names)}", "password"))

    async def device(self, name: str, device_id: str) -> Client:
        return Client(self, await self.house.login(name, "password", device_id))

    async def room(self, owner: Client, *others: Client, **options: object) -> str:
        room = await self.house.create_room(owner.own.access_token, **options)  # type: ignore[arg-type]
        for other in others:
            await self.house.join_room(other.own.access_token, room)
        return room


def options(*, limits: bool = False, plain: bool = False) -> SynapseOptions:
    return SynapseOptions(
        delayed_events=not plain,
        sticky_events=not plain,
        rtc_transports=None if plain else (TRANSPORT,),
        turn_uris=() if plain else ("turn:127.0.0.1:3478",),
        max_delayed_events=100 if limits or plain else 5,
        default_rate_limits=limits,
    )


@pytest.fixture(params=["memory", "synapse"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def _server(house: Accounts) -> AsyncIterator[Server]:
    if isinstance(house, MemoryHomeserver):
        yield Server(house, house)
    else:
        async with AiohttpRequester(house.base_url) as requester:
            yield Server(house, requester)


# The houses are found in plain fixtures: starting Synapse runs an event loop of its own.


@pytest.fixture
def _house(kind: str, request: pytest.FixtureRequest) -> Accounts:
    if kind == "memory":
        return MemoryHomeserver(options())
    return request.getfixturevalue("parity_synapse")


@pytest.fixture
def _limited_house(kind: str, request: pytest.FixtureRequest) -> Accounts:
    if kind == "memory":
        return MemoryHomeserver(options(limits=True))
    return request.getfixturevalue("limited_synapse")


@pytest.fixture
def _plain_house(kind: str, request: pytest.FixtureRequest) -> Accounts:
    if kind == "memory":
        return MemoryHomeserver(options(plain=True))
    return request.getfixturevalue("plain_synapse")


@pytest.fixture
async def server(_house: Accounts) -> AsyncIterator[Server]:
    """Delayed and sticky events on, no rate limits, at most 5 delayed events a user."""
    async with _server(_house) as found:
        yield found


@pytest.fixture
async def limited_server(_limited_house: Accounts) -> AsyncIterator[Server]:
    """Synapse's own rate limits."""
    async with _server(_limited_house) as found:
        yield found


@pytest.fixture
async def plain_server(_plain_house: Accounts) -> AsyncIterator[Server]:
    """Delayed events, sticky events and transports off, as a homeserver is by default."""
    async with _server(_plain_house) as found:
        yield found


@pytest.fixture
async def mortal_server(kind: str, tmp_path: Path) -> AsyncIterator[tuple[Server, Down]]:
    """A server of this test's own, and how it is down for a while."""
    if kind == "memory":
        memory = MemoryHomeserver(options())

        async def memory_down(for_s: float) -> None:
            with memory.outage():
                await asyncio.sleep(for_s)

        yield Server(memory, memory), memory_down
        return
    if environment_python() is None:
        skip_or_fail("synapse", "its environment could not be built")
    async with Synapse(tmp_path, options()) as synapse, _server(synapse) as server:

        async def synapse_down(for_s: float) -> None:
            synapse.kill()
            await asyncio.sleep(for_s)
            await synapse.restart()

        yield server, synapse_down


@pytest.fixture
def rows() -> dict[str, dict[str, str]]:
    """What all tests so far have recorded."""
    return ROWS


@pytest.fixture
def row(kind: str) -> Row:
    """Record what this server did, and hold it against what the facts say."""

    def record(behaviour: str, seen: str, expected: str) -> None:
        columns = ROWS.setdefault(behaviour, {})
        assert kind not in columns, f"two rows of one name: {behaviour}"
        columns[kind] = seen
        assert seen == expected, behaviour

    return record
