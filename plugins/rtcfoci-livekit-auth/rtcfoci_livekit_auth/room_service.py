"""LiveKit's room service: rooms and participants, over Twirp on a pooled connection.

In: creating and deleting rooms, looking up, listing and removing participants. Out: which LiveKit server
(`sfus`), and the messages themselves, which are livekit-api's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import aiohttp
from google.protobuf.message import DecodeError, Message
from livekit.protocol import models, room
from yarl import URL

from rtcfoci_livekit_auth.tokens import Minter

__all__ = ["Participant", "Presence", "RoomOptions", "RoomService", "SfuError", "Sighting"]

Answer = TypeVar("Answer", bound=Message)

_MOST_BYTES = 8 << 20
_NOT_FOUND = "not_found"


class SfuError(Exception):
    """The LiveKit server refused, or did not answer; `code` is Twirp's, empty where there is none."""

    def __init__(self, method: str, why: str, *, code: str = "") -> None:
        super().__init__(f"{method}: {why}")
        self.code = code


class Presence(Enum):
    """Whether somebody is in a room, as far as the LiveKit server tells."""

    PRESENT = "present"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Sighting:
    """An answer to where somebody is."""

    presence: Presence
    sid: str = ""
    """The session that is present."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in a room."""

    identity: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomOptions:
    """How rooms are created."""

    empty_timeout_s: int = 300
    departure_timeout_s: int = 20
    max_participants: int = 0


class RoomService:
    """One LiveKit server's room service.

    :param url: where it is; ws and wss stand for http and https.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, minter: Minter, options: RoomOptions
    ) -> None:
        self._session = session
        self._minter = minter
        self._options = options
        base = ("http" + url[2:] if url.startswith(("ws:", "wss:")) else url).rstrip("/")
        self._urls = {
            name: URL(f"{base}/twirp/livekit.RoomService/{name}")
            for name in (
                "CreateRoom",
                "DeleteRoom",
                "GetParticipant",
                "ListParticipants",
                "ListRooms",
                "RemoveParticipant",
            )
        }

    async def create_room(self, name: str) -> None:
        """Create a room; one that is there already stays as it is.

        :raises SfuError: when it could not be created.
        """
        request = room.CreateRoomRequest(
            name=name,
            empty_timeout=self._options.empty_timeout_s,
            departure_timeout=self._options.departure_timeout_s,
            max_participants=self._options.max_participants,
        )
        token = self._minter.room_creator(now_s=int(time.time()))
        _parsed(models.Room, await self._call("CreateRoom", request, token))

    async def delete_room(self, name: str) -> None:
        """End a room and everybody's session in it; one that is not there is no error.

        :raises SfuError: when the server did not do it.
        """
        token = self._minter.room_creator(now_s=int(time.time()))
        await self._unless_gone("DeleteRoom", room.DeleteRoomRequest(room=name), token)

    async def look_up(self, name: str, identity: str) -> Sighting:
        """Tell whether a participant is in a room; only the server's plain no means gone."""
        request = room.RoomParticipantIdentity(room=name, identity=identity)
        try:
            body = await self._call("GetParticipant", request, self._admin(name))
            return Sighting(Presence.PRESENT, _parsed(models.ParticipantInfo, body).sid)
        except SfuError as error:
            return Sighting(Presence.GONE if error.code == _NOT_FOUND else Presence.UNKNOWN)

    async def participants(self, name: str) -> list[Participant]:
        """List who is in a room.

        :raises SfuError: when the server does not tell.
        """
        request = room.ListParticipantsRequest(room=name)
        body = await self._unless_gone("ListParticipants", request, self._admin(name))
        return [
            Participant(one.identity, dict(one.attributes))
            for one in _parsed(room.ListParticipantsResponse, body).participants
        ]

    async def rooms(self, names: Sequence[str] = ()) -> list[str]:
        """List the rooms there are, or those of these names.

        :raises SfuError: when the server does not tell.
        """
        token = self._minter.room_lister(now_s=int(time.time()))
        body = await self._call("ListRooms", room.ListRoomsRequest(names=names), token)
        return [one.name for one in _parsed(room.ListRoomsResponse, body).rooms]

    async def remove_participant(self, name: str, identity: str) -> None:
        """End somebody's session; who is not there is no error.

        :raises SfuError: when the server did not do it.
        """
        request = room.RoomParticipantIdentity(room=name, identity=identity)
        await self._unless_gone("RemoveParticipant", request, self._admin(name))

    def _admin(self, name: str) -> str:
        return self._minter.room_admin(name, now_s=int(time.time()))

    async def _unless_gone(self, method: str, request: Message, token: str) -> bytes:
        try:
            return await self._call(method, request, token)
        except SfuError as error:
            if error.code != _NOT_FOUND:
                raise
            return b""

    async def _call(self, method: str, request: Message, token: str) -> bytes:
        data = request.SerializeToString()
        headers = {
            "Authorization": "Bearer " + token,
            "Content-Type": "application/protobuf",
        }
        for last in (False, True):
            try:
                async with self._session.post(
                    self._urls[method], data=data, headers=headers, allow_redirects=False
                ) as response:
                    body = await response.content.read(_MOST_BYTES)
                    while not response.content.at_eof() and len(body) < _MOST_BYTES:
                        body += await response.content.read(_MOST_BYTES - len(body))
                    if response.status == 200:
                        return body
                    raise SfuError(method, f"HTTP {response.status}", code=_code(body))
            except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                # A kept connection that the server was closing; every call may be made twice.
                if last:
                    raise SfuError(method, "the server closes the connection") from None
            except (aiohttp.ClientError, OSError) as error:
                raise SfuError(method, str(error) or type(error).__name__) from None
        raise AssertionError("unreachable")


def _parsed(kind: type[Answer], body: bytes) -> Answer:
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise SfuError(kind.__name__, "the answer is no such message") from None
    return message


def _code(body: bytes) -> str:
    import json

    try:
        code = json.loads(body).get("code", "")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return code if isinstance(code, str) else ""
