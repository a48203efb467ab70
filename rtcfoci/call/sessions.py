"""The session of a room as a stream: what `rtcfoci watch` shows, and what a call starts from.

In: dialects from plugins, and folding a client's updates into a `Session` with its one timer.
Out: taking part (`presence`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from rtcfoci.core.dialects import Dialect, WritableDialect
from rtcfoci.core.model import Now, Slot
from rtcfoci.core.policies import ReadingPolicy
from rtcfoci.core.session import Session, SessionDiff
from rtcfoci.errors import ClientError, PluginError, UsageError
from rtcfoci.matrix.client import Connectivity, MatrixClient, RoomUpdate
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.plugin.reference import resolve

__all__ = [
    "find_dialect",
    "follow_session",
    "installed_dialects",
    "reading_policies",
    "wall_now",
    "writable_dialects",
]


def wall_now() -> Now:
    """Read both clocks together."""
    return Now(time.monotonic(), time.time_ns() // 1_000_000)


def installed_dialects(plugins: PluginManager) -> tuple[Dialect, ...]:
    """Make every dialect that is installed, readers for all of them."""
    return tuple(_make(info.dialect, info.name) for info in plugins.dialects)


def writable_dialects(plugins: PluginManager) -> tuple[WritableDialect, ...]:
    """Make every dialect that can be written."""
    return tuple(_writable(info.dialect, info.name) for info in plugins.dialects if info.writable)


def find_dialect(plugins: PluginManager, name: str) -> WritableDialect:
    """Find a writable dialect by name. :raises UsageError: when there is none."""
    writable = {info.name: info for info in plugins.dialects if info.writable}
    if name not in writable:
        raise UsageError(
            f"no writable dialect is called {name!r}",
            why=f"installed: {', '.join(writable)}",
            do="choose one of those, or leave it out",
        )
    return _writable(writable[name].dialect, name)


def reading_policies(plugins: PluginManager) -> tuple[ReadingPolicy, ...]:
    """Give every reading policy that is installed. :raises PluginError: when one is none."""
    found = []
    for info in plugins.reading_policies:
        policy = resolve(info.policy, plugin=info.name)
        if not isinstance(policy, ReadingPolicy):
            raise PluginError(
                f"{info.policy} is not a ReadingPolicy",
                plugin=info.name,
                why=f"it is a {type(policy).__name__}",
                do="name an instance of rtcfoci.core.policies.ReadingPolicy",
            )
        found.append(replace(policy, name=info.name))
    return tuple(found)


def _make(reference: str, name: str) -> Dialect:
    return _made(reference, name)


def _writable(reference: str, name: str) -> WritableDialect:
    dialect = _made(reference, name)
    lacking = [part for part in ("join", "refresh", "leave") if not hasattr(dialect, part)]
    if lacking:
        raise PluginError(
            f"dialect {name} cannot be written",
            plugin=name,
            why=f"{reference} has no {', '.join(lacking)}",
            do="implement rtcfoci.core.dialects.WritableDialect, or declare writable=False",
        )
    return dialect


def _made(reference: str, name: str) -> WritableDialect:
    made = resolve(reference, plugin=name)
    dialect: WritableDialect = made() if isinstance(made, type) else made  # type: ignore[assignment]
    return dialect


async def follow_session(
    client: MatrixClient, slot: Slot, plugins: PluginManager | None = None
) -> AsyncIterator[tuple[Session, Sequence[SessionDiff]]]:
    """Yield the session at the start and after each change, with what changed.

    :raises ClientError: when the access token is revoked.
    """
    session = Session(slot, installed_dialects(plugins or PluginManager.load()))
    updates = client.updates(slot.room_id)
    pending = asyncio.ensure_future(anext(updates))
    first = True
    try:
        while True:
            due_ts_ms = session.next_timer_ts_ms
            now = wall_now()
            timeout_s = None if due_ts_ms is None else max(0.0, (due_ts_ms - now.ts_ms) / 1000)
            # One wait is never longer than an hour: no remote time can overflow a timer.
            await asyncio.wait((pending,), timeout=min(timeout_s or 3600.0, 3600.0))
            diffs: list[SessionDiff] = list(session.handle_timer(wall_now()))
            if pending.done():
                update = pending.result()
                pending = asyncio.ensure_future(anext(updates))
                if isinstance(update, Connectivity) and update.token_revoked:
                    raise ClientError(
                        "the access token was revoked",
                        status=401,
                        errcode="M_UNKNOWN_TOKEN",
                        do="log in again",
                    )
                if isinstance(update, RoomUpdate):
                    for event in update.events:
                        diffs += session.receive(event, wall_now())
                    if first:
                        first = False
                        yield session, diffs
                        continue
            if diffs:
                yield session, diffs
    except StopAsyncIteration:
        return
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
