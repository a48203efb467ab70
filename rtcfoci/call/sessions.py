"""The session of a room as a stream: what `rtcfoci watch` shows, and what a call starts from.

In: dialects and policies from plugins, and folding a client's updates into a `Session` and its
`Notifications`, with their timers.
Out: taking part (`presence`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from rtcfoci.core.dialects import Dialect, WritableDialect
from rtcfoci.core.model import Now, RoomEvent, Slot
from rtcfoci.core.notifications import NotificationDiff, Notifications
from rtcfoci.core.policies import ReadingPolicy
from rtcfoci.core.selection import SelectionPolicy
from rtcfoci.core.session import Session, SessionDiff
from rtcfoci.errors import ClientError, PluginError, UsageError
from rtcfoci.matrix.client import Connectivity, MatrixClient, RoomUpdate
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.plugin.reference import resolve

__all__ = [
    "Followed",
    "find_dialect",
    "find_selection_policy",
    "follow_session",
    "installed_dialects",
    "reading_policies",
    "wall_now",
    "writable_dialects",
]

_NEVER_TS_MS = 2**53


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


def find_selection_policy(plugins: PluginManager, name: str) -> SelectionPolicy:
    """Find a selection policy by name.

    :raises UsageError: when there is none.
    :raises PluginError: when it is none.
    """
    found = {info.name: info for info in plugins.selection_policies}
    if name not in found:
        raise UsageError(
            f"no selection policy is called {name!r}",
            why=f"installed: {', '.join(found)}",
            do="choose one of those, or leave it out",
        )
    reference = found[name].policy
    made = resolve(reference, plugin=name)
    policy = made() if isinstance(made, type) else made
    if not callable(getattr(policy, "choose", None)):
        raise PluginError(
            f"{reference} is not a selection policy",
            plugin=name,
            why="it has no method choose",
            do="name a class or an instance of rtcfoci.core.selection.SelectionPolicy",
        )
    return cast("SelectionPolicy", policy)


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


@dataclass(frozen=True, slots=True)
class Followed:
    """A session after one sync or timer, and what that changed."""

    session: Session
    changes: Sequence[SessionDiff]
    notifications: Sequence[NotificationDiff]


async def follow_session(
    client: MatrixClient,
    slot: Slot,
    plugins: PluginManager | None = None,
    on_events: Callable[[Sequence[RoomEvent]], None] | None = None,
    *,
    requires_slot: bool = False,
    now: Callable[[], Now] | None = None,
) -> AsyncIterator[Followed]:
    """Yield the session at the start and after each change, with what changed.

    :param on_events: is given every event of the room, before the session changes by it.
    :param requires_slot: whether a room without this slot is silent.
    :param now: both clocks; only tests need it.
    :raises ClientError: when the access token is revoked.
    """
    now = now or wall_now
    session = Session(slot, installed_dialects(plugins or PluginManager.load()))
    notifications = Notifications(
        session, user_id=client.user_id, device_id=client.device_id, requires_slot=requires_slot
    )
    updates = client.updates(slot.room_id)
    pending = asyncio.ensure_future(anext(updates))
    first = True
    try:
        while True:
            due_ts_ms = [
                due
                for due in (session.next_timer_ts_ms, notifications.next_timer_ts_ms)
                if due is not None
            ]
            # One wait is never longer than an hour: no remote time can overflow a timer.
            wait_s = (min(due_ts_ms, default=_NEVER_TS_MS) - now().ts_ms) / 1000
            await asyncio.wait((pending,), timeout=max(0.0, min(wait_s, 3600.0)))
            changes: list[SessionDiff] = list(session.handle_timer(now()))
            news: list[NotificationDiff] = list(notifications.handle_timer(now(), changes))
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
                    if on_events is not None:
                        on_events(update.events)
                    for event in update.events:
                        at = now()
                        changed = session.receive(event, at)
                        news += notifications.receive(event, changed, at)
                        changes += changed
                    if first:
                        first = False
                        yield Followed(session, changes, news)
                        continue
            if changes or news:
                yield Followed(session, changes, news)
    except StopAsyncIteration:
        return
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
