"""The database of matrix-nio's olm machine: opened without leaks, and written as one.

In: nio's file store, and a transaction over whatever database a machine has. Out: what is written (`olm`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from nio.crypto import Olm
from nio.store import SqliteStore

__all__ = ["Transaction", "open_store"]


class _FileStore(SqliteStore):  # type: ignore[misc]
    """nio's, which would leave the database open when it turns out to be none."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except BaseException:
            self.database.close()
            raise


def open_store(
    user_id: str, device_id: str, folder: str, pickle_key: str, name: str
) -> SqliteStore:
    """Open nio's store in a file of that name, which is there already.

    :raises Exception: whatever nio or its database raise.
    """
    return _FileStore(user_id, device_id, folder, pickle_key, name)


class Transaction(AbstractContextManager[object]):
    """nio's database in one transaction; on failure nio's memory follows the database back."""

    def __init__(self, olm: Olm) -> None:
        self._olm = olm
        database = olm.store.database
        queued = type(database).__name__ == "SqliteQueueDatabase"  # writes in a thread of its own
        self._inner: AbstractContextManager[object] = nullcontext() if queued else database.atomic()

    def __enter__(self) -> object:
        return self._inner.__enter__()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        exit_: Callable[..., object] = self._inner.__exit__
        exit_(kind, error, trace)
        if kind is not None:
            self._olm.account = self._olm.store.load_account()
            self._olm.session_store = self._olm.store.load_sessions()
