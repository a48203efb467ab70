"""Where jobs survive a restart: what a store has to do, the queue in front of it, and one in memory.

In: the protocol `JobStore`; `QueuedStore`, which writes at once what has come together and owes what
failed; `MemoryStore`, for tests and for who wants nothing kept. Out: SQLite and Redis, each in its module.

**Group commit.** Writes queue while one is under way, and go together as the next: sixty-four delegations
at once pay for one or two flushes of the disk, not for sixty-four.

**Debts.** What a store did not take is remembered, the newest for each job, and written before anything
else once it takes again. So an outage costs nothing but what a crash in it would lose.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from rtcfoci_livekit_auth.delegation.model import Key, Record

__all__ = ["JobStore", "MemoryStore", "QueuedStore", "Watcher", "Write"]

_log = logging.getLogger(__name__)

Write = tuple[Key, Record | None, bool]
"""A job's key, what to keep of it (None: nothing), and whether it is a new job that takes the key over."""

RETRY_S = 1.0
MOST_AT_ONCE = 1000


class Watcher(Protocol):
    """Who uses a store, and hears of the other replicas."""

    def adopt(self, records: Sequence[Record]) -> None:
        """Take up jobs of a replica that is gone, or that may not have reached us before."""

    def lost(self, keys: Sequence[Key] | None) -> None:
        """Learn that others have these jobs now; None: all that the store does not give again."""

    def heard(self, message: dict[str, Any]) -> None:
        """Take what another replica passed on with `tell`."""

    def kept_again(self) -> Sequence[Record]:
        """Give all records anew: the store was away, and may have forgotten."""


class JobStore(Protocol):
    """Keeps the records of jobs, and where several replicas share one store, who has which."""

    @property
    def shared(self) -> bool:
        """Whether there may be other replicas."""

    async def open(self, watcher: Watcher) -> Sequence[Record]:
        """Connect, and give the jobs that are ours to drive.

        :raises rtcfoci.errors.UsageError: it cannot be used at all.
        """

    async def save(self, record: Record, *, new: bool = False) -> bool:
        """Keep a record; false if another replica has the job by now.

        :param new: take the key over, whoever has it.
        :raises OSError: it was not kept. If it is not new, it is owed.
        """

    def keep(self, record: Record) -> None:
        """Keep the record of a job that is known, some time soon."""

    def delete(self, key: Key) -> None:
        """Forget a job, some time soon."""

    def tell(self, message: dict[str, Any]) -> None:
        """Pass something on to the other replicas; without effect where there are none."""

    async def close(self) -> None:
        """Write what is owed, if that is possible, and disconnect; others may take our jobs at once."""


class QueuedStore(ABC):
    """A store with the queue in front of it; a subclass says how to write a batch."""

    def __init__(self) -> None:
        self._queue: list[tuple[Write, asyncio.Future[bool] | None]] = []
        self._owed: dict[Key, Record | None] = {}
        self._owes_all = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watcher: Watcher | None = None
        self._closing = False

    @abstractmethod
    async def _connect(self) -> Sequence[Record]: ...

    @abstractmethod
    async def _write(self, writes: Sequence[Write]) -> Sequence[bool]:
        """Write all or none, in this order; false for what another replica has.

        :raises OSError: nothing is known to be written.
        """

    @abstractmethod
    async def _disconnect(self) -> None: ...

    @property
    def shared(self) -> bool:
        return False

    @property
    def owed(self) -> int:
        """How many writes failed and are still to be made."""
        return len(self._owed)

    async def open(self, watcher: Watcher) -> Sequence[Record]:
        self._watcher = watcher
        records = await self._connect()
        self._task = asyncio.create_task(self._run(), name="delegation-store")
        return records

    async def save(self, record: Record, *, new: bool = False) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._put((record.leave.key, record, new), future)
        return await future

    def keep(self, record: Record) -> None:
        self._put((record.leave.key, record, False), None)

    def delete(self, key: Key) -> None:
        self._put((key, None, False), None)

    def tell(self, message: dict[str, Any]) -> None:  # noqa: B027 - nobody else is the usual case
        """Pass nothing on: there is nobody else."""

    async def close(self) -> None:
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        await self._task
        self._task = None
        await self._disconnect()

    def _owe_all(self) -> None:
        """Write every job anew: the store may have forgotten some, or given them away."""
        self._owes_all = True
        self._wake.set()

    def _put(self, write: Write, future: asyncio.Future[bool] | None) -> None:
        self._queue.append((write, future))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            if not self._closing:
                await self._rest()
            self._wake.clear()
            if self._closing and not self._queue:
                await self._settle()
                return
            if await self._settle():
                await self._next_batch()

    async def _rest(self) -> None:
        """Wait for work; while something is owed, not for long."""
        try:
            async with asyncio.timeout(RETRY_S if self._owed or self._owes_all else None):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _settle(self) -> bool:
        """Write what is owed; if that fails, fail what is queued too."""
        if not (self._owed or self._owes_all):
            return True
        assert self._watcher is not None
        # The store may have come back without what it had: write everything.
        debts = self._owed | {record.leave.key: record for record in self._watcher.kept_again()}
        writes = [(key, record, False) for key, record in debts.items()]
        try:
            results = await self._write(writes)
        except OSError:
            for write, future in self._take_queue():
                self._fail(write, future)
            return False
        self._owed.clear()
        self._owes_all = False
        gone = [key for (key, _, _), ours in zip(writes, results, strict=True) if not ours]
        if gone:
            self._watcher.lost(gone)
        if writes:
            _log.warning("%d jobs were written anew: the store takes writes again", len(writes))
        return True

    async def _next_batch(self) -> None:
        batch = self._take_queue()
        if not batch:
            return
        try:
            results = await self._write([write for write, _ in batch])
        except Exception as error:
            _log.warning("the store took no write: %s", type(error).__name__)
            for write, future in batch:
                # What cannot be written at all must not be in the way of the rest for ever.
                self._fail(write, future, owe=isinstance(error, OSError))
            return
        lost: list[Key] = []
        for ((key, _, _), future), ours in zip(batch, results, strict=True):
            if future is None:
                lost += [] if ours else [key]
            elif not future.done():
                future.set_result(ours)
        if lost and self._watcher is not None:
            self._watcher.lost(lost)

    def _take_queue(self) -> list[tuple[Write, asyncio.Future[bool] | None]]:
        batch, self._queue = self._queue[:MOST_AT_ONCE], self._queue[MOST_AT_ONCE:]
        if self._queue:
            self._wake.set()
        return batch

    def _fail(self, write: Write, future: asyncio.Future[bool] | None, *, owe: bool = True) -> None:
        key, record, new = write
        if owe and not new:
            self._owed[key] = record
        if future is not None and not future.done():
            future.set_exception(OSError("the store took no write"))


class MemoryStore:
    """Keeps nothing beyond the process."""

    shared = False

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}

    async def open(self, watcher: Watcher) -> Sequence[Record]:
        return tuple(self.records.values())

    async def save(self, record: Record, *, new: bool = False) -> bool:
        self.records[record.leave.key] = record
        return True

    def keep(self, record: Record) -> None:
        self.records[record.leave.key] = record

    def delete(self, key: Key) -> None:
        self.records.pop(key, None)

    def tell(self, message: dict[str, Any]) -> None:
        """Pass nothing on: there is nobody else."""

    async def close(self) -> None:
        """There is nothing to close."""
