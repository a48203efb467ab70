"""Helpers of the Matrix tests, as fixtures, because test modules do not import each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from rtcfoci.matrix.client import Connectivity, RoomUpdate, ToDevice, Update
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.cs import CsClient
from rtcfoci.testing import Credentials, Synapse


class Watch:
    """Reads a room's updates in the background and waits for what a test wants to see."""

    def __init__(self, client: CsClient, room_id: str) -> None:
        self.seen: list[Update] = []
        self.ended = False
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._read(client.updates(room_id)))

    async def _read(self, updates: AsyncIterator[Update]) -> None:
        async for update in updates:
            async with self._changed:
                self.seen.append(update)
                self._changed.notify_all()
        async with self._changed:
            self.ended = True
            self._changed.notify_all()

    async def until(self, wanted: Callable[[Watch], object], timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: wanted(self))

    @property
    def rooms(self) -> list[RoomUpdate]:
        return [u for u in self.seen if isinstance(u, RoomUpdate)]

    @property
    def events(self) -> list:
        return [event for update in self.rooms for event in update.events]

    @property
    def messages(self) -> list[ToDevice]:
        return [u for u in self.seen if isinstance(u, ToDevice)]

    @property
    def connectivity(self) -> list[Connectivity]:
        return [u for u in self.seen if isinstance(u, Connectivity)]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait for something that tells nobody when it happens."""

    async def wait(happened: Callable[[], object], timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not happened():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
async def watch() -> AsyncIterator[Callable[[CsClient, str], Watch]]:
    watches = []

    def start(client: CsClient, room_id: str) -> Watch:
        watches.append(Watch(client, room_id))
        return watches[-1]

    yield start
    for one in watches:
        await one.close()


@pytest.fixture
async def open_client() -> AsyncIterator[Callable[..., Awaitable[CsClient]]]:
    """Open clients that are closed at the end of the test."""
    clients = []

    async def open_(
        server: Synapse,
        who: Credentials,
        *,
        device_store: Path | None = None,
        encrypted: bool = False,
    ) -> CsClient:
        client = await connect(
            server.base_url,
            token=who.access_token,
            device_store=device_store,
            encrypted=encrypted,
        )
        clients.append(client)
        return client

    yield open_
    for client in clients:
        await client.aclose()
