"""Calling others and being called: notifications and declines (MSC4075), as an application sees them.

In: hearing calls without taking part, declining them, and ringing from within one.
Out: which notifications count (`rtcfoci.core.notifications`), what they look like on the wire
(`rtcfoci.core.dialects.notification`), taking a call (`join`).

In an encrypted room they are encrypted (MSC4075, Invites, draft of 2026-09-11), if the client can.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from rtcfoci.call.preflight import inspect_room
from rtcfoci.call.sessions import follow_session
from rtcfoci.core.dialects import OwnEvent
from rtcfoci.core.dialects.notification import (
    MAX_LIFETIME_MS,
    NotificationKind,
    write_decline,
    write_notification,
)
from rtcfoci.core.diffs import SessionDiff
from rtcfoci.core.model import Member, Now, RoomEvent, Slot
from rtcfoci.core.notifications import (
    Notification,
    NotificationDeclined,
    NotificationDiff,
    Notifications,
)
from rtcfoci.core.session import Session
from rtcfoci.errors import RtcfociError, UsageError
from rtcfoci.matrix.adapted import adapted
from rtcfoci.matrix.client import MatrixClient
from rtcfoci.matrix.rooms import is_encrypted, resolve_alias
from rtcfoci.media.frames import Kind
from rtcfoci.plugin.manager import PluginManager

if TYPE_CHECKING:
    import nio

__all__ = ["Caller", "Calling", "decline", "listen"]

_ECHO_TIMEOUT_S = 10.0
_LOOK_S = 0.05
_MAX_USERS = 500
"""More user ids would not fit into an event."""


async def listen(
    client: MatrixClient | nio.AsyncClient,
    room: str,
    *,
    slot: str = "ROOM",
    application: str = "m.call",
    requires_slot: bool = False,
    plugins: PluginManager | None = None,
    now: Callable[[], Now] | None = None,
) -> AsyncIterator[NotificationDiff]:
    """Hear who calls us in a room, and who declines, without taking part; runs until it is closed.

    A bot answers a `NotificationStarted` with `join`, or with `decline`.

    :param slot: name of the slot; with the application it makes the slot id.
    :param requires_slot: whether a room without this slot is silent, as with matrix-js-sdk 43.
    :param plugins: what is installed, if it was loaded already.
    :param now: both clocks; only tests need it.
    :raises PreflightError: when we are not in the room.
    :raises ClientError: when the homeserver refuses, or the access token is revoked.
    """
    async with adapted(client) as adapter:
        room_id = await resolve_alias(adapter, room)
        await inspect_room(adapter, room_id)
        place = Slot(room_id=room_id, application=application, name=slot)
        async for seen in follow_session(
            adapter, place, plugins, requires_slot=requires_slot, now=now
        ):
            for news in seen.notifications:
                yield news


async def decline(client: MatrixClient | nio.AsyncClient, notification: Notification) -> None:
    """Tell the caller, and our own other devices, that we will not come.

    :raises ClientError: when the homeserver refuses or does not answer.
    """
    async with adapted(client) as adapter:
        sticky, room_id = (await adapter.support()).sticky_events, notification.room_id
        encrypt = adapter.encrypts and await is_encrypted(adapter, room_id)
        event = write_decline(notification.event_id)
        await _send(adapter, room_id, event, secrets.token_hex(8), sticky=sticky, encrypt=encrypt)


class Caller(Protocol):
    """Who rings."""

    client: MatrixClient
    slot: Slot
    member: Member
    encrypted: bool
    announced: frozenset[Kind]
    random_bytes: Callable[[int], bytes]

    def now(self) -> Now: ...


class Calling:
    """The notifications of one call, and who declines them.

    :param session: the call's.
    :param sticky: whether the homeserver has sticky events; without, they are sent as plain ones.
    """

    def __init__(self, call: Caller, session: Session, *, sticky: bool) -> None:
        self._call = call
        self._session = session
        self._sticky = sticky
        self.heard: Notifications = Notifications(
            session, user_id=call.member.user_id, device_id=call.member.device_id or ""
        )

    def receive(
        self, event: RoomEvent, changes: Sequence[SessionDiff], now: Now
    ) -> Iterator[tuple[str, str]]:
        """Take an event; give who declines a notification of ours, and which."""
        own = self._call.member.user_id
        for news in self.heard.receive(event, changes, now):
            match news:
                case NotificationDeclined(notification, user_id):
                    if notification.sender == own != user_id:
                        yield user_id, notification.event_id

    async def ring(
        self, users: Iterable[str] | None, *, kind: NotificationKind, lifetime_s: float
    ) -> str:
        """Tell the users, or the room, of the call.

        :raises UsageError: when nobody would hear it.
        """
        call = self._call
        user_ids = [] if users is None else list(dict.fromkeys(users))
        self._require_hearers(None if users is None else user_ids, lifetime_s)
        event = write_notification(
            call.slot,
            membership_id=await self._membership_id(),
            user_ids=user_ids,
            room=users is None,
            kind=kind,
            sender_ts_ms=call.now().ts_ms,
            lifetime_ms=round(lifetime_s * 1000),
            intent=_intent(call.announced),
        )
        txn_id = call.random_bytes(8).hex()
        return await _send(
            call.client,
            call.slot.room_id,
            event,
            txn_id,
            sticky=self._sticky,
            encrypt=call.encrypted and call.client.encrypts,
        )

    def _require_hearers(self, user_ids: Sequence[str] | None, lifetime_s: float) -> None:
        if not 1 <= lifetime_s <= MAX_LIFETIME_MS / 1000:
            raise UsageError(
                f"a call cannot ring for {lifetime_s:g} s",
                why="receivers count it for at most 120 s (MSC4075)",
                do="give lifetime_s between 1 and 120",
            )
        if user_ids is None:
            if not self.heard.power.may_mention_room(self._call.member.user_id):
                raise UsageError(
                    "we may not call everybody in this room",
                    why="our power is below what mentioning the room needs (notifications.room)",
                    do="name the users: call.ring([user_id, ...])",
                )
            return
        wrong = [user_id for user_id in user_ids if not user_id.startswith("@")]
        if wrong or not 0 < len(user_ids) <= _MAX_USERS:
            raise UsageError(
                "there is nobody to call" if not user_ids else "these users cannot be called",
                why=f"users are 1 to {_MAX_USERS} user ids, such as @ann:example.org",
                do="name the users by their ids, or leave them out to call everybody in the room",
            )

    async def _membership_id(self) -> str:
        """Give the event by which others see us, which comes with a sync after the join."""
        member = self._call.member
        try:
            async with asyncio.timeout(_ECHO_TIMEOUT_S):
                while True:
                    own = self._session.find(member.user_id, member.device_id or "")
                    if own is not None:
                        return own.event_id
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise RtcfociError(
                "the call cannot be announced",
                why="our membership has not come back from the homeserver",
                do="see the conditions of the call, and ring again",
            ) from None


def _intent(announced: Iterable[Kind]) -> str:
    """Say what we mean to use, in the words that deployed clients know."""
    kinds = set(announced)
    return "video" if Kind.VIDEO in kinds else "audio" if kinds else ""


async def _send(
    client: MatrixClient,
    room_id: str,
    event: OwnEvent,
    txn_id: str,
    *,
    sticky: bool,
    encrypt: bool,
) -> str:
    return await client.send_event(
        room_id,
        event.type,
        event.content,
        txn_id=txn_id,
        sticky_duration_ms=event.sticky_duration_ms if sticky else None,
        encrypt=encrypt,
    )
