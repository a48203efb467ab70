"""Handing out what syncs bring: every reader has a queue of its own and starts with the whole room.

In: subscriptions, their first update, the catching up behind it, bounded queues.
Out: where syncs come from (`loop`, `nio`) and what messages survive a restart (`store`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from rtcfoci.core.model import RoomEvent
from rtcfoci.matrix.client import Connectivity, RoomUpdate, ToDevice, Update
from rtcfoci.matrix.sync import RoomBatch, RoomMembership

__all__ = ["Feed", "Snapshot"]

MAX_QUEUED = 2000
"""A reader this far behind gets the whole room again instead of what it missed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A room as it is now."""

    membership: RoomMembership
    state: tuple[RoomEvent, ...] = ()
    sticky: tuple[RoomEvent, ...] = ()


class _Reader:
    __slots__ = ("catching_up", "known", "primed", "queue", "ready", "room_id")

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.queue: deque[Update | None] = deque()
        """None ends the stream."""
        self.ready = asyncio.Event()
        self.primed = False
        self.catching_up = 0
        """Syncs that may still hold what the first update held already."""
        self.known: frozenset[str] = frozenset()
        """Event ids of the first update, while catching up."""

    def put(self, update: Update | None) -> None:
        self.queue.append(update)
        self.ready.set()


class Feed:
    """The readers of one device.

    :param pending: lists the to-device messages that nobody has acknowledged yet.
    :param overlap: how many syncs may have been under way when a first update was fetched.
    """

    def __init__(self, pending: Callable[[], Iterable[ToDevice]], *, overlap: int = 1) -> None:
        self.wanted: asyncio.Event = asyncio.Event()
        """A reader waits for its first update."""
        self._pending = pending
        self._overlap = overlap
        self._readers: list[_Reader] = []
        self._connectivity = Connectivity(online=True)
        self._ended = False

    @property
    def rooms(self) -> list[str]:
        """Rooms that somebody reads, sorted."""
        return sorted({reader.room_id for reader in self._readers})

    @property
    def online(self) -> bool:
        return self._connectivity.online

    def unprimed(self) -> list[str]:
        """List rooms with a reader that still waits for its first update."""
        return sorted({reader.room_id for reader in self._readers if not reader.primed})

    async def stream(self, room_id: str) -> AsyncIterator[Update]:
        """Read a room until the feed ends."""
        reader = _Reader(room_id)
        if self._ended:
            if self._connectivity.token_revoked:
                yield self._connectivity
            return
        if not self._connectivity.online:
            reader.put(self._connectivity)
        self._readers.append(reader)
        self.wanted.set()
        try:
            while True:
                while reader.queue:
                    update = reader.queue.popleft()
                    if update is None:
                        return
                    yield update
                reader.ready.clear()
                await reader.ready.wait()
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    def prime(self, room_id: str, snapshot: Snapshot) -> None:
        """Give the room's waiting readers their first update, then what nobody has acknowledged."""
        first = RoomUpdate(
            room_id=room_id,
            events=snapshot.state + snapshot.sticky,
            membership=snapshot.membership,
        )
        pending: list[ToDevice] | None = None
        for reader in self._readers:
            if reader.room_id != room_id or reader.primed:
                continue
            reader.primed = True
            reader.catching_up = self._overlap
            reader.known = frozenset(event.event_id for event in first.events)
            reader.put(first)
            pending = list(self._pending()) if pending is None else pending
            for message in pending:
                reader.put(message)

    def rooms_synced(self, batches: Iterable[RoomBatch]) -> None:
        """Hand out the rooms of one sync; to be called for every sync, empty ones included."""
        by_room = {batch.room_id: batch for batch in batches}
        for reader in list(self._readers):
            if not reader.primed:
                continue
            batch = by_room.get(reader.room_id)
            if batch is not None:
                events = _after(batch, reader.known) if reader.catching_up else batch.events
                if events or batch.membership != "join":
                    self._put(
                        reader,
                        RoomUpdate(
                            room_id=batch.room_id, events=events, membership=batch.membership
                        ),
                    )
            reader.catching_up = max(0, reader.catching_up - 1)
            if not reader.catching_up:
                reader.known = frozenset()

    def late(self, room_id: str, event: RoomEvent) -> None:
        """Hand out what an event says that has been handed out unread."""
        for reader in list(self._readers):
            if reader.primed and reader.room_id == room_id:
                self._put(reader, RoomUpdate(room_id=room_id, events=(event,)))

    def message(self, message: ToDevice) -> None:
        """Hand out a to-device message; readers not yet started find it among the pending ones."""
        for reader in list(self._readers):
            if reader.primed:
                self._put(reader, message)

    def connectivity(self, online: bool, cause: str = "") -> None:
        """Tell the readers when the homeserver goes or comes back."""
        if self._ended or online == self._connectivity.online:
            return
        self._connectivity = Connectivity(online=online, cause=cause)
        for reader in self._readers:
            reader.put(self._connectivity)

    def reset(self) -> None:
        """Have all readers start with the whole room again: syncs were lost."""
        for reader in self._readers:
            self._restart(reader)

    def end(self, last: Connectivity | None = None) -> None:
        """End all streams, after a last word if there is one. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._connectivity = last or self._connectivity
        for reader in self._readers:
            if last is not None:
                reader.put(last)
            reader.put(None)

    def _put(self, reader: _Reader, update: Update) -> None:
        if len(reader.queue) >= MAX_QUEUED:
            self._restart(reader)
        else:
            reader.put(update)

    def _restart(self, reader: _Reader) -> None:
        # Connectivity is kept: the first update cannot replace it. To-device messages come again.
        held = [item for item in reader.queue if isinstance(item, Connectivity)][-1:]
        reader.queue.clear()
        for item in held:
            reader.put(item)
        reader.primed = False
        self.wanted.set()


def _after(batch: RoomBatch, known: frozenset[str]) -> tuple[RoomEvent, ...]:
    """Leave out what a first update fetched during this sync already told, or has overtaken.

    The state of the first update is the room at one moment. The last event of the timeline that belongs to
    it is therefore from before that moment, and so is all state in front of it.
    """
    last = max((i for i, event in enumerate(batch.timeline) if event.event_id in known), default=-1)
    state = batch.state if last < 0 else ()
    timeline = (
        event
        for i, event in enumerate(batch.timeline)
        if i > last or (event.state_key is None and event.event_id not in known)
    )
    return tuple(e for e in (*state, *timeline, *batch.sticky) if e.event_id not in known)
