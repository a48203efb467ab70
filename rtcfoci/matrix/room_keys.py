"""Events of ours that a room can only read with a key: Megolm for what we send, and the keys for everybody.

In: the sessions of a room, who has their keys, encrypting.
Out: olm itself (`olm`), what others encrypt (`megolm`), what is sent encrypted (`rtcfoci.call`).

These are sessions of our own, apart from those with which a bot writes its messages: a device that comes
into the room later gets them from their beginning, since a sticky event that it cannot read is no use
to it, and no message of before is given away by that.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from nio.crypto import OutboundGroupSession

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError
from rtcfoci.matrix.megolm import MEGOLM

if TYPE_CHECKING:
    from collections.abc import Collection

    from nio.crypto import Olm, OlmDevice

    from rtcfoci.matrix.cs import CsClient
    from rtcfoci.matrix.devices import Devices

__all__ = ["RoomKeys"]

_SHARE_WAIT_S = 3.0
"""How long an event waits for its key to be shared; what takes longer (a server that does not answer) goes
on behind it."""
_AGAIN_S = 1.0
"""Between two looks at who is in a room: people come in groups."""
_DEVICES_AT_ONCE = 100
_MAX_SESSIONS = 4
"""Of one room: a delayed leave may be of an older session than the membership."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Session:
    outbound: OutboundGroupSession
    first_key: str = field(repr=False)
    has_key: set[tuple[str, str]] = field(default_factory=set)
    """Devices, by user and curve25519 key."""
    known_outside: bool = False
    """Somebody who has the key is gone: the next event is in another session."""


@dataclass(slots=True)
class _Room:
    sessions: list[_Session] = field(default_factory=list)
    """The current one last."""
    stale: bool = True
    """Who is there may have changed since the keys were shared."""
    tried_s: float = 0.0
    looks: bool = False
    """Somebody is about to look who is there."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RoomKeys:
    """The keys of what one device sends."""

    def __init__(self, olm: Olm, devices: Devices, client: CsClient) -> None:
        self._olm = olm
        self._devices = devices
        self._client = client
        self._rooms: dict[str, _Room] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def encrypt(self, room_id: str, event_type: str, content: JsonObject) -> JsonObject:
        """Give back the content of an `m.room.encrypted` event for everybody in the room.

        A relation is beside the ciphertext as well, for homeservers, and for readers that look there.
        """
        room = self._rooms.setdefault(room_id, _Room())
        # Of a room that nobody reads no sync says who comes and goes.
        read = room_id in self._client.feed.rooms
        if room.stale or not read or _is_over(room):
            await asyncio.wait({self._spawn(room_id, renew=True)}, timeout=_SHARE_WAIT_S)
        if _is_over(room):
            self._begin(room_id, room)
            room.stale = True
        session = room.sessions[-1]
        plain = {"type": event_type, "content": dict(content), "room_id": room_id}
        return {
            **{name: value for name, value in content.items() if name == "m.relates_to"},
            "algorithm": MEGOLM,
            "sender_key": self._olm.account.identity_keys["curve25519"],
            "device_id": self._client.device_id,
            "session_id": session.outbound.id,
            "ciphertext": session.outbound.encrypt(json.dumps(plain)),
        }

    def look(self, changed: Collection[str]) -> None:
        """Share the keys of rooms that somebody may have come to, behind us.

        :param changed: the rooms; those where it failed are tried again.
        """
        read = set(self._client.feed.rooms)
        for room_id, room in self._rooms.items():
            room.stale = room.stale or room_id in changed
            if room.stale and room.sessions and room_id in read and not room.looks:
                room.looks = True
                rest_s = room.tried_s + _AGAIN_S - asyncio.get_running_loop().time()
                self._spawn(room_id, after_s=max(0.0, rest_s))

    @property
    def rooms(self) -> Collection[str]:
        """Rooms in which keys were shared."""
        return self._rooms.keys()

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(
        self, room_id: str, *, renew: bool = False, after_s: float = 0.0
    ) -> asyncio.Task[None]:
        work = self._try_share(room_id, renew, after_s)
        task = asyncio.create_task(work, name=f"room keys {room_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try_share(self, room_id: str, renew: bool, after_s: float) -> None:
        room = self._rooms[room_id]
        if not renew:
            await asyncio.sleep(after_s)
            room.looks = False
        async with room.lock:
            room.tried_s = asyncio.get_running_loop().time()
            try:
                await self._share(room_id, room, renew)
            except ClientError as error:  # the next sync tries again
                room.stale = True
                _log.info("The keys of %s are not shared yet: %s", room_id, error.why)

    async def _share(self, room_id: str, room: _Room, renew: bool) -> None:
        """Give every session's key to the devices that lack it.

        :param renew: begin another session when this one is over.
        """
        room.stale = False
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/joined_members"
        answer = await self._client.call("list members", "GET", path)
        joined = answer.get("joined")
        users = list(joined) if isinstance(joined, dict) else []
        await self._devices.learn(users)
        there = {
            (user, device.curve25519): device
            for user in users
            for device in self._devices.others(user)
        }
        for session in room.sessions:
            session.known_outside |= bool(session.has_key - there.keys())
        if renew and _is_over(room):
            self._begin(room_id, room)
        for session in list(room.sessions):
            wanting = [at for at in there if at not in session.has_key]
            for i in range(0, len(wanting), _DEVICES_AT_ONCE):
                some = {at: there[at] for at in wanting[i : i + _DEVICES_AT_ONCE]}
                reached = await self._give(room_id, session, some.values())
                session.has_key.update(
                    at for at, d in some.items() if d.id in reached.get(at[0], ())
                )

    async def _give(
        self, room_id: str, session: _Session, devices: Collection[OlmDevice]
    ) -> dict[str, dict[str, JsonObject]]:
        content = {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": session.outbound.id,
            "session_key": session.first_key,
        }
        sealed = await self._devices.seal(devices, "m.room_key", content)
        if sealed:
            await self._client.send_to_devices("m.room.encrypted", sealed)
        return sealed

    def _begin(self, room_id: str, room: _Room) -> None:
        outbound = OutboundGroupSession()
        outbound.mark_as_shared()
        session = _Session(outbound, outbound.session_key)
        keys = self._olm.account.identity_keys
        # Kept as one that we received: after a crash our delayed leave has to be known for ours.
        self._olm.create_group_session(
            keys["curve25519"], keys["ed25519"], room_id, outbound.id, session.first_key
        )
        room.sessions.append(session)
        del room.sessions[:-_MAX_SESSIONS]


def _is_over(room: _Room) -> bool:
    if not room.sessions:
        return True
    session = room.sessions[-1]
    return session.known_outside or bool(session.outbound.expired)
