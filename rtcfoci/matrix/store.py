"""What a device must not forget: its login, its place in the sync, to-device messages not yet handled.

In: the folder of one device, its lock, the session file, and the queue on SQLite, with the identities of
others as they were first seen; the same in memory for tests and for devices that live only once.
Out: olm accounts and sessions, which matrix-nio keeps in a file of its own in the same folder.

A message is written in the transaction that moves the sync token on, so that a crash at any moment
delivers it again rather than never.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import UsageError
from rtcfoci.matrix.client import ToDevice

__all__ = ["Arrival", "DeviceStore", "OlmProof", "Session", "Unsettled", "wall_clock_ts_ms"]

MAX_MESSAGES = 4000
MAX_MESSAGES_OF_SENDER = 1000
"""One sender cannot push the messages of others out."""
MAX_IDENTITIES = 10_000
"""Of users beyond these no identity is pinned, so that none of them is trusted."""
MAX_AGE_MS = 3_600_000
"""Nobody waits longer for signalling or media keys than a membership can last."""


def wall_clock_ts_ms() -> int:
    """Read the wall clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A login that is reused: the device stays the same."""

    homeserver_url: str
    user_id: str
    device_id: str
    access_token: str = field(repr=False)
    pickle_key: str = field(repr=False)
    """Encrypts the olm account on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OlmProof:
    """What an olm message says of its sender, before anybody has checked it."""

    sender_key: str
    """Curve25519 key that the message was decrypted with."""
    ed25519: str
    """Fingerprint key that the payload claims."""
    device_id: str | None
    """Device that the payload claims, if it does."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message just received; with a proof when it came through olm."""

    type: str
    sender: str
    content: JsonObject = field(repr=False)
    proof: OlmProof | None = None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A queued olm message whose sender is not yet bound to a device."""

    id: int
    sender: str
    proof: OlmProof


_SCHEMA = """
CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), next_batch TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS to_device (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL, sender TEXT NOT NULL, content TEXT NOT NULL, received_ts_ms INTEGER NOT NULL,
    security TEXT, device_id TEXT,
    sender_key TEXT, ed25519 TEXT, claimed_device_id TEXT
);
CREATE INDEX IF NOT EXISTS to_device_sender ON to_device (sender, id);
CREATE TABLE IF NOT EXISTS identities (user_id TEXT PRIMARY KEY, master_key TEXT NOT NULL);
"""


class DeviceStore:
    """The queue and the place in the sync; with a folder, the login and the lock too.

    Used from the event loop's thread; each call is one small transaction.
    """

    def __init__(
        self,
        folder: Path | None,
        database: sqlite3.Connection,
        lock_fd: int | None,
        wall_ts_ms: Callable[[], int],
    ) -> None:
        self.folder = folder
        self.dropped: int = 0
        """Messages given up because the queue was full or they were too old."""
        self._database = database
        self._lock_fd = lock_fd
        self._wall_ts_ms = wall_ts_ms
        self._closed = False
        database.executescript(_SCHEMA)

    @classmethod
    def memory(cls, *, wall_ts_ms: Callable[[], int] = wall_clock_ts_ms) -> DeviceStore:
        """Make a store that ends with the process."""
        return cls(None, sqlite3.connect(":memory:", isolation_level=None), None, wall_ts_ms)

    @classmethod
    def open(cls, folder: Path, *, wall_ts_ms: Callable[[], int] = wall_clock_ts_ms) -> DeviceStore:
        """Open or make the store in a folder, for one owner at a time.

        :raises UsageError: somebody else has it open, or the folder cannot be written.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(folder, error) from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(lock_fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(lock_fd)
            raise UsageError(
                f"The device store {folder} is in use.",
                why=f"Process {owner} has it open, and a device has one sync and one olm account.",
                do="Stop that process, or give this one a device store of its own.",
            ) from None
        try:
            os.ftruncate(lock_fd, 0)
            os.pwrite(lock_fd, str(os.getpid()).encode(), 0)
            path = folder / "rtcfoci.sqlite"
            # Made by us first: SQLite would make it readable by all, and it holds decrypted messages.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            database = sqlite3.connect(path, isolation_level=None)
            try:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=NORMAL")
                return cls(folder, database, lock_fd, wall_ts_ms)
            except sqlite3.Error:
                database.close()
                raise
        except (OSError, sqlite3.Error) as error:
            os.close(lock_fd)
            raise _unusable(folder, error) from None

    def load_session(self) -> Session | None:
        """Give back the login that was saved, None when there is none.

        :raises UsageError: the file is damaged.
        """
        if self.folder is None:
            return None
        path = self.folder / "session.json"
        try:
            saved = json.loads(path.read_bytes())
            fields = {name: saved[name] for name in Session.__dataclass_fields__}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            fields = {"": None}
        if not all(isinstance(value, str) for value in fields.values()):
            raise UsageError(
                f"The login saved in {path} is damaged.",
                why="It is not the file that rtcfoci wrote.",
                do="Delete the folder and log in again: this makes a new device.",
            )
        return Session(**fields)

    def save_session(self, session: Session) -> None:
        """Keep a login, readable by this user only."""
        if self.folder is None:
            return
        path, fresh = self.folder / "session.json", self.folder / "session.json.new"
        try:
            fresh.unlink(missing_ok=True)
            with os.fdopen(
                os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
            ) as file:
                json.dump(asdict(session), file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            raise _unusable(self.folder, error) from None

    @property
    def next_batch(self) -> str | None:
        """Where the sync goes on; None at the very start."""
        row = self._database.execute("SELECT next_batch FROM place").fetchone()
        return None if row is None else str(row[0])

    def commit(self, next_batch: str | None, arrivals: Sequence[Arrival]) -> list[ToDevice]:
        """Keep messages and move the sync on, both or neither.

        :param next_batch: None leaves the place as it is.
        :returns: the messages that can be delivered at once: those in clear.
        """
        now_ts_ms = self._wall_ts_ms()
        clear = []
        db = self._database
        if arrivals:
            # On the disk, not on its way there: with the next sync the server forgets these messages.
            db.execute("PRAGMA synchronous=FULL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            for item in arrivals:
                proof = item.proof
                row = db.execute(
                    "INSERT INTO to_device (type, sender, content, received_ts_ms, security,"
                    " sender_key, ed25519, claimed_device_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        item.type,
                        item.sender,
                        json.dumps(item.content),
                        now_ts_ms,
                        "clear" if proof is None else None,
                        proof and proof.sender_key,
                        proof and proof.ed25519,
                        proof and proof.device_id,
                    ),
                ).lastrowid
                if proof is None and row is not None:
                    clear.append(_message(row, item.type, item.sender, item.content, "clear", None))
            if arrivals:
                self._bound({item.sender for item in arrivals}, now_ts_ms)
            if next_batch is not None:
                db.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", (next_batch,))
        db.execute("PRAGMA synchronous=NORMAL")
        return clear

    def forget_place(self) -> None:
        """Start the sync anew: the server no longer knows our place."""
        self._database.execute("DELETE FROM place")

    def pending(self) -> list[ToDevice]:
        """List what can be delivered and was not acknowledged, oldest first."""
        rows = self._database.execute(
            "SELECT id, type, sender, content, security, device_id FROM to_device"
            " WHERE security IS NOT NULL AND received_ts_ms >= ? ORDER BY id",
            (self._wall_ts_ms() - MAX_AGE_MS,),
        )
        return [_message(r[0], r[1], r[2], json.loads(r[3]), r[4], r[5]) for r in rows]

    def unsettled(self) -> list[Unsettled]:
        """List olm messages whose sender must still be bound, oldest first."""
        rows = self._database.execute(
            "SELECT id, sender, sender_key, ed25519, claimed_device_id FROM to_device"
            " WHERE security IS NULL AND received_ts_ms >= ? ORDER BY id",
            (self._wall_ts_ms() - MAX_AGE_MS,),
        )
        return [
            Unsettled(r[0], r[1], OlmProof(sender_key=r[2], ed25519=r[3], device_id=r[4]))
            for r in rows
        ]

    def settle(
        self, id: int, device_id: str, security: Literal["bound", "trusted"]
    ) -> ToDevice | None:
        """Note which device sent an olm message, which can then be delivered."""
        row = self._database.execute(
            "UPDATE to_device SET security = ?, device_id = ? WHERE id = ? AND security IS NULL"
            " RETURNING type, sender, content",
            (security, device_id, id),
        ).fetchone()
        if row is None:
            return None
        return _message(id, row[0], row[1], json.loads(row[2]), security, device_id)

    def remove(self, id: int) -> None:
        """Forget a message: it was handled, or it is refused."""
        self._database.execute("DELETE FROM to_device WHERE id = ?", (id,))

    def pin_identity(self, user_id: str, master_key: str) -> str | None:
        """Keep a user's identity unless one is; give back what is kept, None when there is no room."""
        self._database.execute(
            "INSERT OR IGNORE INTO identities SELECT ?, ?"
            " WHERE (SELECT count(*) FROM identities) < ?",
            (user_id, master_key, MAX_IDENTITIES),
        )
        row = self._database.execute(
            "SELECT master_key FROM identities WHERE user_id = ?", (user_id,)
        ).fetchone()
        return None if row is None else str(row[0])

    def forget_identity(self, user_id: str) -> None:
        """Believe a user's identity anew as it is seen next."""
        self._database.execute("DELETE FROM identities WHERE user_id = ?", (user_id,))

    def close(self) -> None:
        """Close and unlock. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._database.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)

    def _bound(self, senders: set[str], now_ts_ms: int) -> None:
        db = self._database
        gone = db.execute(
            "DELETE FROM to_device WHERE received_ts_ms < ?", (now_ts_ms - MAX_AGE_MS,)
        ).rowcount
        for sender in senders:
            gone += db.execute(
                "DELETE FROM to_device WHERE sender = ? AND id <="
                " (SELECT id FROM to_device WHERE sender = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (sender, sender, MAX_MESSAGES_OF_SENDER),
            ).rowcount
        gone += db.execute(
            "DELETE FROM to_device WHERE id <="
            " (SELECT id FROM to_device ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (MAX_MESSAGES,),
        ).rowcount
        self.dropped += gone


def _message(
    id: int,
    type: str,
    sender: str,
    content: JsonObject,
    security: Literal["clear", "bound", "trusted"],
    device_id: str | None,
) -> ToDevice:
    return ToDevice(
        id=id,
        type=type,
        sender=sender,
        content=content,
        security=security,
        sender_device_id=device_id,
    )


def _unusable(folder: Path, error: Exception) -> UsageError:
    return UsageError(
        f"The device store {folder} cannot be used.",
        why=str(error),
        do="Give a folder that this user can write, on a local disk.",
    )
