"""Jobs in an SQLite file: one command is a complete service that survives a restart.

In: the table, and the thread that writes it. Out: more than one process, which the file's lock refuses;
`redis` is for several.

A write is answered when it is on the disk (write-ahead log, flushed at each commit); writes that come
together share one commit. The file is readable by its owner alone: it holds delay ids.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sys import intern
from typing import TypeVar

from rtcfoci.errors import UsageError
from rtcfoci_livekit_auth.delegation.model import Leave, Phase, Record
from rtcfoci_livekit_auth.delegation.store import QueuedStore, Write

__all__ = ["SqliteStore"]

T = TypeVar("T")

VERSION = 1
LOCK_WAIT_S = 5.0
"""How long a predecessor that is still stopping may hold the file."""

_TABLE = """
CREATE TABLE IF NOT EXISTS leaves (
    room TEXT NOT NULL,
    identity TEXT NOT NULL,
    delay_id TEXT NOT NULL,
    delay_ms INTEGER NOT NULL,
    server_name TEXT NOT NULL,
    user_id TEXT,
    created_ts_ms INTEGER NOT NULL,
    restarted_ts_ms INTEGER NOT NULL,
    phase TEXT NOT NULL,
    PRIMARY KEY (room, identity)
) WITHOUT ROWID
"""


class SqliteStore(QueuedStore):
    """Keeps jobs in a file.

    :param path: its folder has to exist; the file is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delegation-sqlite")
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    async def _connect(self) -> Sequence[Record]:
        try:
            return await self._in_thread(self._load)
        except UsageError:
            self._thread.shutdown(wait=False)
            raise
        except (sqlite3.Error, OSError) as error:
            self._thread.shutdown(wait=False)
            raise _unusable(self._path, error) from None

    async def _write(self, writes: Sequence[Write]) -> Sequence[bool]:
        try:
            await self._in_thread(lambda: self._commit(writes))
        except sqlite3.Error as error:
            raise OSError(f"SQLite: {error}") from None
        return [True] * len(writes)

    async def _disconnect(self) -> None:
        await self._in_thread(self._hang_up)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # What the thread does.

    def _load(self) -> Sequence[Record]:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path.chmod(0o600)
        # Transactions are begun by hand: each batch is one.
        db = sqlite3.connect(self._path, isolation_level=None, timeout=LOCK_WAIT_S)
        self._connection = db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise UsageError(
                f"{self._path} was written by a newer version",
                why=f"its format is {version}; this version knows {VERSION}",
                do="use the newer version, or name another file",
            )
        db.execute("BEGIN IMMEDIATE")
        db.execute(_TABLE)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
        columns = "room, identity, delay_id, delay_ms, server_name, user_id"
        rows = db.execute(f"SELECT {columns}, created_ts_ms, restarted_ts_ms, phase FROM leaves")
        return [_record(*row) for row in rows]

    def _commit(self, writes: Sequence[Write]) -> None:
        db = self._connection
        assert db is not None
        db.execute("BEGIN IMMEDIATE")
        try:
            for (room, identity), record, _ in writes:
                if record is None:
                    db.execute(
                        "DELETE FROM leaves WHERE room = ? AND identity = ?", (room, identity)
                    )
                else:
                    db.execute("REPLACE INTO leaves VALUES (?,?,?,?,?,?,?,?,?)", _row(record))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _row(record: Record) -> tuple[str | int | None, ...]:
    leave = record.leave
    return (
        leave.room,
        leave.identity,
        leave.delay_id,
        leave.delay_ms,
        leave.server_name,
        leave.user_id,
        record.created_ts_ms,
        record.restarted_ts_ms,
        record.phase.value,
    )


def _record(
    room: str,
    identity: str,
    delay_id: str,
    delay_ms: int,
    server_name: str,
    user_id: str | None,
    created_ts_ms: int,
    restarted_ts_ms: int,
    phase: str,
) -> Record:
    return Record(
        leave=Leave(
            room=room,
            identity=identity,
            delay_id=delay_id,
            delay_ms=delay_ms,
            server_name=intern(server_name),
            user_id=user_id,
        ),
        created_ts_ms=created_ts_ms,
        restarted_ts_ms=restarted_ts_ms,
        phase=Phase(phase),
    )


def _unusable(path: Path, error: Exception) -> UsageError:
    if "locked" in str(error):
        do = "stop the other process that uses it, or name another file; several processes need Redis"
    elif isinstance(error, OSError) or "unable to open" in str(error):
        do = "make its folder exist and be writable for this user, or name another file"
    else:
        do = "move the file away; the leaves in it will be sent by their homeservers in time"
    return UsageError(f"the store {path} cannot be used", why=str(error), do=do)
