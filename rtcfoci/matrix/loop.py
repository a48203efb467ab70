"""The sync loop of a device of our own: poll, keep, hand out, and never stop before it is told to.

In: polling, its filter, first updates between polls, backing off, the end when the token is revoked.
Out: requests and their errors (`cs`), what survives (`store`), readers (`feed`), decryption (`olm`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from rtcfoci.errors import ClientError, UnreachableError
from rtcfoci.matrix.client import Connectivity, ToDevice
from rtcfoci.matrix.feed import Feed, Snapshot
from rtcfoci.matrix.store import Arrival, DeviceStore
from rtcfoci.matrix.sync import RawToDevice, RoomBatch, SyncBatch, read_sync

__all__ = ["CRYPTO_TYPES", "Decrypter", "Poll", "SyncLoop", "clear_arrivals", "prime_readers"]

POLL_MS = 30_000
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 2.0
"""We have to be a member again within 5 s of the homeserver's return."""
TIMELINE_LIMIT = 50

_log = logging.getLogger(__name__)

CRYPTO_TYPES = (
    "m.room.encrypted",
    "m.room_key",
    "m.forwarded_room_key",
    "m.dummy",
    "m.secret.",
    "m.key.verification.",
)
"""To-device types (or their beginnings) that are an encryption machine's own business."""


class Poll(Protocol):
    """Asks for the next sync; raises `ClientError`."""

    def __call__(
        self, query: dict[str, str], *, timeout_s: float
    ) -> Awaitable[dict[str, object]]: ...


class Decrypter(Protocol):
    """What the loop wants from an olm machine."""

    def receive(self, batch: SyncBatch, store: DeviceStore) -> list[ToDevice]:
        """Decrypt, commit the sync's messages and its place, and give back what can be delivered now.

        What needs the homeserver first (keys of an unknown sender) happens behind it, so that no remote
        server can hold up our sync.
        """

    def read_rooms(self, batches: Iterable[RoomBatch]) -> tuple[RoomBatch, ...]:
        """Read the encrypted events that a call goes by, of a sync whose messages were received.

        What could not be read when it came is given to the feed when it can be.
        """


def clear_arrivals(events: tuple[RawToDevice, ...]) -> list[Arrival]:
    """Take what came in clear and is not an encryption machine's own business."""
    return [
        Arrival(event.type, event.sender, event.content)
        for event in events
        if not event.type.startswith(CRYPTO_TYPES)
    ]


async def prime_readers(feed: Feed, snapshot: Callable[[str], Awaitable[Snapshot]]) -> None:
    """Fetch the first update of every room that a reader waits for."""
    feed.wanted.clear()
    for room_id in feed.unprimed():
        feed.prime(room_id, await snapshot(room_id))


class SyncLoop:
    """Polls until cancelled or until the token is revoked.

    A first update is fetched only while no poll is under way, so that the next poll starts from before it:
    nothing falls in between, and `Feed` drops what both hold.
    """

    def __init__(
        self,
        poll: Poll,
        snapshot: Callable[[str], Awaitable[Snapshot]],
        feed: Feed,
        store: DeviceStore,
        decrypter: Decrypter | None,
        wall_ts_ms: Callable[[], int],
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.malformed: int = 0
        self._poll = poll
        self._snapshot = snapshot
        self._feed = feed
        self._store = store
        self._decrypter = decrypter
        self._wall_ts_ms = wall_ts_ms
        self._random_bytes = random_bytes
        self._polls = 0

    async def run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            wait_s: float
            try:
                if await self._turn():
                    self._feed.connectivity(True)
                    backoff_s = FIRST_BACKOFF_S
                continue
            except ClientError as error:
                if error.errcode in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"):
                    self._feed.end(Connectivity(online=False, cause=error.why, token_revoked=True))
                    return
                limited = error.status == 429
                wait_s = backoff_s
                if error.retry_after_ms is not None:
                    wait_s = max(wait_s, min(error.retry_after_ms / 1000, 60.0))
                if not limited:
                    cause = error.why if isinstance(error, UnreachableError) else str(error)
                    self._feed.connectivity(False, cause)
            except Exception:  # a fault of ours must not end a call's view of its room
                _log.exception("Handling a sync failed; it is tried again.")
                wait_s = MAX_BACKOFF_S
            await asyncio.sleep(wait_s * (0.8 + 0.4 * self._random_bytes(1)[0] / 255))
            backoff_s = min(backoff_s * 1.6, MAX_BACKOFF_S)

    async def _turn(self) -> bool:
        """Sync once; False when a reader who wants to start has come in between."""
        if self._store.next_batch is None:
            # Only a place to start from, and waiting messages: rooms come as first updates.
            body = await self._poll(self._query(0, []), timeout_s=60.0)
        else:
            if self._feed.wanted.is_set():
                try:
                    await prime_readers(self._feed, self._snapshot)
                except BaseException:
                    self._feed.wanted.set()
                    raise
            try:
                answer = await self._interruptible_poll()
            except ClientError as error:
                if error.status == 400:
                    # A homeserver restored from a backup does not know our place any more.
                    self._store.forget_place()
                    self._feed.reset()
                raise
            if answer is None:
                return False
            body = answer
        self._take(read_sync(body, self._wall_ts_ms()))
        return True

    async def _interruptible_poll(self) -> dict[str, object] | None:
        # While we do not know whether the server is back we do not want to find out after 30 s.
        wait_ms = POLL_MS if self._feed.online else 0
        query = self._query(wait_ms, self._feed.rooms)
        poll = asyncio.ensure_future(self._poll(query, timeout_s=wait_ms / 1000 + 15))
        wanted = asyncio.ensure_future(self._feed.wanted.wait())
        try:
            await asyncio.wait({poll, wanted}, return_when=asyncio.FIRST_COMPLETED)
            return poll.result() if poll.done() else None
        finally:
            for task in (poll, wanted):
                task.cancel()
            await asyncio.gather(poll, wanted, return_exceptions=True)

    def _take(self, batch: SyncBatch) -> None:
        self.malformed += batch.malformed
        if batch.next_batch is None:
            raise ClientError(
                "The homeserver's sync holds no next_batch.",
                status=502,
                why="Something between us and the homeserver answers in its place, or it is faulty.",
                do="Check the homeserver's address.",
            )
        try:
            if self._decrypter is None:
                messages = self._store.commit(batch.next_batch, clear_arrivals(batch.to_device))
            else:
                messages = self._decrypter.receive(batch, self._store)
            for message in messages:
                self._feed.message(message)
            rooms = batch.rooms
            if self._decrypter is not None:
                rooms = self._decrypter.read_rooms(rooms)
            self._feed.rooms_synced(rooms)
        except Exception:
            if self._store.next_batch == batch.next_batch:
                # Kept, but perhaps not handed out: readers start again and find it there.
                self._feed.reset()
            raise

    def _query(self, wait_ms: int, rooms: list[str]) -> dict[str, str]:
        # Servers share and keep answers to equal requests (Synapse: two minutes). The odd milliseconds
        # make each of ours unequal, so that no answer is older than the first update before it; and
        # the odd limit the very first, or a device that begins anew would relive its last call.
        self._polls += 1
        odd_ms = self._polls % 1000 if wait_ms else 0
        first = self._store.next_batch is None
        odd = 1 + int.from_bytes(self._random_bytes(4)) % (1 << 30)
        limit = odd if first else TIMELINE_LIMIT  # of no rooms at all
        nothing: dict[str, list[str]] = {"types": []}
        sync_filter = {
            "presence": nothing,
            "account_data": nothing,
            "room": {
                "rooms": rooms,
                "account_data": nothing,
                "ephemeral": nothing,
                "timeline": {"limit": limit},
            },
        }
        query = {"filter": json.dumps(sync_filter), "timeout": str(wait_ms - odd_ms)}
        if self._store.next_batch is not None:
            query["since"] = self._store.next_batch
        return query
