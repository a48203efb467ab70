"""The part of a LiveKit server that an authorisation service talks to: Twirp's RoomService.

In: CreateRoom, GetParticipant, ListParticipants, RemoveParticipant with protobuf bodies; the token
of each call is verified with its grants. A wrong call becomes a violation. Out: signalling, media.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from aiohttp import web
from google.protobuf.message import DecodeError, Message
from livekit.protocol.models import ParticipantInfo, Room
from livekit.protocol.room import (
    CreateRoomRequest,
    ListParticipantsRequest,
    ListParticipantsResponse,
    RemoveParticipantResponse,
    RoomParticipantIdentity,
)

from fakes.answers import Answer, Ledger, Script
from fakes.hosting import Host
from fakes.webhooks import Webhook

__all__ = ["RoomCall", "Sfu", "twirp_error"]

_PREFIX = "/twirp/livekit.RoomService/"
_REQUESTS: dict[str, Callable[[], Any]] = {
    "CreateRoom": CreateRoomRequest,
    "GetParticipant": RoomParticipantIdentity,
    "ListParticipants": ListParticipantsRequest,
    "RemoveParticipant": RoomParticipantIdentity,
}


@dataclass(frozen=True, kw_only=True)
class RoomCall:
    """One call of the room service."""

    method: str
    request: Any
    """The protobuf message."""
    claims: dict[str, Any]
    """Of the call's token, verified."""
    at_s: float

    @property
    def room(self) -> str:
        return str(self.request.name if self.method == "CreateRoom" else self.request.room)


class Sfu:
    """One SFU with one key on a free port; rooms exist once created, participants when a test says so."""

    def __init__(self, host: Host, *, prefix: str = "") -> None:
        self.key = "APIfake" + secrets.token_hex(4)
        self.secret = secrets.token_hex(32)
        self._prefix = prefix
        self.port = host.listen(self._handle)
        self.url = f"ws://127.0.0.1:{self.port}{prefix}"
        self.calls: Ledger[RoomCall] = Ledger()
        self.violations: Ledger[str] = Ledger()
        self.rooms: dict[str, Room] = {}
        self._participants: dict[tuple[str, str], ParticipantInfo] = {}
        self._scripts: dict[tuple[str, str], Script] = {}

    def on(self, method: str, room: str = "") -> Script:
        """Give the script of one method in one room, or in all."""
        return self._scripts.setdefault((method, room), Script())

    def calls_in(self, room: str, method: str | None = None) -> list[RoomCall]:
        return [c for c in self.calls.all() if c.room == room and method in (None, c.method)]

    def join(self, room: str, identity: str) -> str:
        """Put somebody in without a webhook, and give the session's id."""
        sid = "PA_" + secrets.token_hex(6)
        self._participants[room, identity] = ParticipantInfo(sid=sid, identity=identity)
        return sid

    def leave(self, room: str, identity: str) -> None:
        """Take somebody out without a webhook."""
        self._participants.pop((room, identity), None)

    def webhook(
        self, event: str, room: str | None = None, identity: str | None = None, **more: Any
    ) -> Webhook:
        return Webhook(
            event=event, key=self.key, secret=self.secret, room=room, identity=identity, **more
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.raw_path
        method = path.removeprefix(self._prefix + _PREFIX)
        if method not in _REQUESTS:
            self.violations.add(f"{request.method} {path}: nothing asks for this")
            return _twirp(404, "bad_route", "no handler for path")
        if request.method != "POST" or request.content_type != "application/protobuf":
            self.violations.add(
                f"{path}: is a POST of protobuf, not {request.method} {request.content_type}"
            )
            return _twirp(404, "bad_route", "unexpected Content-Type")
        message = _REQUESTS[method]()
        try:
            message.ParseFromString(body)
        except DecodeError:
            self.violations.add(f"{path}: not the protobuf of its request")
            return _twirp(400, "malformed", "unreadable")
        try:
            claims = self._verify(request.headers.get("Authorization", ""))
        except jwt.InvalidTokenError as error:
            self.violations.add(f"{path}: {error}")
            return _twirp(401, "unauthenticated", "invalid token")
        call = RoomCall(method=method, request=message, claims=claims, at_s=time.monotonic())
        if complaint := _complaint(call):
            self.violations.add(f"{path}: {complaint}")
            return _twirp(401, "unauthenticated", "permissions denied")
        for room in (call.room, ""):
            script = self._scripts.get((method, room))
            if script is not None and (answer := script.take()) is not None:
                self.calls.add(call)
                return await answer.give(request)
        response = self._act(call)
        self.calls.add(call)
        return response

    def _verify(self, header: str) -> dict[str, Any]:
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer":
            raise jwt.InvalidTokenError("no bearer token")
        claims: dict[str, Any] = jwt.decode(
            token,
            self.secret,
            algorithms=["HS256"],
            issuer=self.key,
            options={"require": ["exp", "iss"]},
        )
        return claims

    def _act(self, call: RoomCall) -> web.Response:
        if call.method == "CreateRoom":
            room = self.rooms.get(call.room)
            if room is None:
                room = Room(
                    sid="RM_" + secrets.token_hex(6), name=call.room, creation_time=int(time.time())
                )
                room.empty_timeout = call.request.empty_timeout
                room.departure_timeout = call.request.departure_timeout
                room.max_participants = call.request.max_participants
                self.rooms[call.room] = room
            return _protobuf(room)
        if call.method == "ListParticipants":
            inside = [
                p for (room_name, _), p in self._participants.items() if room_name == call.room
            ]
            return _protobuf(ListParticipantsResponse(participants=inside))
        participant = self._participants.get((call.room, call.request.identity))
        if participant is None:
            return _twirp(404, "not_found", "participant does not exist")
        if call.method == "RemoveParticipant":
            self.leave(call.room, call.request.identity)
            return _protobuf(RemoveParticipantResponse())
        return _protobuf(participant)


def _complaint(call: RoomCall) -> str | None:
    """Say what is wrong with the grants of a call, or with what it asks for."""
    grants = call.claims.get("video", {})
    needed: dict[str, object]
    if not call.room:
        return "no room is named"
    if call.method == "CreateRoom":
        needed, forbidden = {"roomCreate": True}, {"roomAdmin", "roomList", "roomRecord"}
    else:
        needed, forbidden = {"roomAdmin": True, "room": call.room}, {"roomCreate", "roomList"}
    if missing := {name for name, value in needed.items() if grants.get(name) != value}:
        return f"the token lacks {sorted(missing)}"
    if surplus := {name for name in forbidden if grants.get(name)}:
        return f"the token grants {sorted(surplus)} without need"
    if grants.get("roomJoin"):
        return "the token of a call lets nobody join"
    return None


def _protobuf(message: Message) -> web.Response:
    return web.Response(body=message.SerializeToString(), content_type="application/protobuf")


def _twirp(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"code": code, "msg": text}, status=status)


def twirp_error(status: int, code: str) -> Answer:
    """Give a Twirp error as a scripted answer."""
    return Answer(status=status, body={"code": code, "msg": "scripted"})
