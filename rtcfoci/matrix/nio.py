"""The same client for a bot that already has matrix-nio: its sync, its olm account, our calls.

In: following an `AsyncClient`. The bot itself goes on as before, except that custom olm events reach its
callbacks decrypted, as `UnknownToDeviceEvent`, where nio alone would hand it the ciphertext.
Out: devices of our own (`connect`), olm itself (`olm`).

nio saves its sync token before it calls anybody back, and its callbacks see neither sticky events nor the
state block of a sync. So the answer is taken where the client begins to handle it, before the token moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from nio import SyncResponse, UnknownToDeviceEvent
from nio.events import OlmEvent

from rtcfoci.errors import ClientError, UsageError
from rtcfoci.matrix.client import Connectivity
from rtcfoci.matrix.cs import CsClient
from rtcfoci.matrix.encrypter import Encrypter
from rtcfoci.matrix.feed import Feed
from rtcfoci.matrix.http import AiohttpRequester, Requester
from rtcfoci.matrix.loop import clear_arrivals, prime_readers
from rtcfoci.matrix.olm import OlmMachine
from rtcfoci.matrix.store import DeviceStore
from rtcfoci.matrix.sync import read_sync

if TYPE_CHECKING:
    from nio import AsyncClient

__all__ = ["NioClient"]

_RETRY_S = 1.0


class NioClient(CsClient):
    """Follows a logged-in nio client; closing it leaves that client as it was.

    Updates flow while the bot syncs: run `client.sync_forever()`, as bots do.
    """

    @classmethod
    def from_nio(
        cls,
        client: AsyncClient,
        *,
        device_store: Path | None = None,
        requester: Callable[[str], Requester] = AiohttpRequester,
    ) -> NioClient:
        """Begin to follow a client.

        :param device_store: where messages not yet handled are kept; by default next to nio's own store, and
            in memory when it has none.
        :raises UsageError: the client is not logged in, is followed already, or the store is in use.
        """
        if not (client.user_id and client.device_id and client.access_token):
            raise UsageError(
                "The nio client cannot be used yet.",
                why="It is not logged in: it has no user, device or access token.",
                do="Await login(), or call restore_login(), before handing it over.",
            )
        if "_handle_sync" in vars(client):
            raise UsageError(
                "The nio client is followed already.",
                why="One device has one sync and one queue.",
                do="Use the NioClient made before; any number of calls can share it.",
            )
        if device_store is None and client.store_path and client.olm is not None:
            device_store = Path(client.store_path) / f"rtcfoci_{client.device_id}"
        store = DeviceStore.memory() if device_store is None else DeviceStore.open(device_store)
        try:
            return cls(client, store, requester(client.homeserver.rstrip("/")))
        except BaseException:
            store.close()
            raise

    def __init__(self, client: AsyncClient, store: DeviceStore, requester: Requester) -> None:
        super().__init__(
            requester,
            homeserver_url=client.homeserver.rstrip("/"),
            user_id=client.user_id,
            device_id=client.device_id,
            access_token=client.access_token,
            store=store,
        )
        # The bot may have a sync under way when a first update is fetched, and another right behind it.
        self.feed: Feed = Feed(store.pending, overlap=2)
        self._nio = client
        self._handle_sync = client._handle_sync
        self._send = client.send
        olm = client.olm
        self._machine = None if olm is None else OlmMachine(olm, self, owned=False)
        self.encrypter: Encrypter | None = self._machine
        client._handle_sync = self._on_sync
        client.send = self._on_send

    def start(self) -> None:
        """Fetch first updates as readers come; the syncing is the bot's."""
        if self._sync is None and not self._closed:
            self._sync = asyncio.create_task(self._prime(), name=f"first updates {self.user_id}")

    async def aclose(self) -> None:
        if not self._closed:
            # What was put over the class's methods is taken off again.
            del self._nio._handle_sync, self._nio.send
        await super().aclose()

    async def _prime(self) -> None:
        while True:
            await self.feed.wanted.wait()
            try:
                await prime_readers(self.feed, self.snapshot)
            except ClientError as error:
                self.feed.wanted.set()
                if error.errcode == "M_UNKNOWN_TOKEN":
                    self._revoked(error.why)
                    return
                await asyncio.sleep(_RETRY_S)

    async def _on_sync(self, response: SyncResponse) -> None:
        if self._nio.next_batch != response.next_batch:
            self._take(response, await response.transport_response.json())
        await self._handle_sync(response)

    def _take(self, response: SyncResponse, raw: object) -> None:
        batch = read_sync(raw, self.wall_ts_ms())
        arrivals = clear_arrivals(batch.to_device)
        machine = self._machine
        if machine is None:
            messages = self.store.commit(None, arrivals)
        else:
            machine.note(batch)
            with machine.transaction():
                for i, event in enumerate(response.to_device_events):
                    if not isinstance(event, OlmEvent):
                        continue
                    decrypted, arrived = machine.decrypt(event)
                    for item in arrived:
                        source = {"type": item.type, "sender": item.sender, "content": item.content}
                        decrypted = UnknownToDeviceEvent(source, item.sender, item.type)
                    if decrypted is not None:
                        # nio must not decrypt it again: olm does that once.
                        response.to_device_events[i] = decrypted
                    arrivals += arrived
                messages = self.store.commit(None, arrivals)
            messages += machine.settle()
        for message in messages:
            self.feed.message(message)
        self.feed.rooms_synced(batch.rooms if machine is None else machine.read_rooms(batch.rooms))

    async def _on_send(self, *args: object, **kwargs: object) -> aiohttp.ClientResponse:
        """Learn from the bot's own requests whether the homeserver answers and knows the token."""
        try:
            answer = await self._send(*args, **kwargs)
        except (aiohttp.ClientError, OSError) as error:
            self.feed.connectivity(False, str(error) or type(error).__name__)
            raise
        if answer.status == 401:
            try:
                body = await answer.json()
            except (aiohttp.ClientError, ValueError):
                body = None
            if isinstance(body, dict) and body.get("errcode") == "M_UNKNOWN_TOKEN":
                self._revoked(str(body.get("error", "")))
        elif answer.status < 500:
            self.feed.connectivity(True)
        return answer  # type: ignore[no-any-return]

    def _revoked(self, cause: str) -> None:
        self.feed.end(Connectivity(online=False, cause=cause, token_revoked=True))
