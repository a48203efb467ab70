"""Messages on the data channels of a pair: the application's data and the mesh's own small talk.

In: framing, limits, reading what a member sent. Out: the channels (`engine`), what is done (`peer`).

A frame is one byte that says what it is, then, for the application's data, the length of the topic in
one byte, the topic and the payload; for our own, a JSON object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

from rtcfoci.errors import BackendError

__all__ = [
    "MAX_DATA_BYTES",
    "AppData",
    "Mute",
    "Ping",
    "Pong",
    "Small",
    "pack",
    "unpack",
]

MAX_DATA_BYTES = 60_000
"""Of one message, payload and topic; every WebRTC engine takes 65,536 bytes."""
_MAX_TOPIC = 255
_MAX_SMALL = 2048
_APP, _OURS = 1, 0


@dataclass(frozen=True, slots=True)
class AppData:
    """The application's data."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Mute:
    """One of the sender's tracks is muted or not."""

    source: str
    name: str
    muted: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """A question for a sign of life."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to the ping of that number."""

    number: int


Small: TypeAlias = Mute | Ping | Pong


def pack(message: AppData | Small) -> bytes:
    """Write a message. :raises BackendError: when it is too large."""
    match message:
        case AppData(topic, payload):
            name = topic.encode()
            if len(name) > _MAX_TOPIC or len(name) + len(payload) > MAX_DATA_BYTES:
                raise BackendError(
                    f"A data message of {len(payload)} bytes with a topic of {len(name)} is too large.",
                    why=f"the mesh carries {MAX_DATA_BYTES} bytes a message, {_MAX_TOPIC} of them topic",
                    do="send it in parts",
                )
            return bytes((_APP, len(name))) + name + payload
        case Mute(source, name, muted):
            body: dict[str, object] = {"mute": [source, name, muted]}
        case Ping(number):
            body = {"ping": number}
        case Pong(number):
            body = {"pong": number}
    return bytes((_OURS,)) + json.dumps(body).encode()


def unpack(frame: bytes) -> AppData | Small | None:
    """Read what a member sent; None when it is nothing we know. Never raises."""
    if not frame:
        return None
    if frame[0] == _APP and 2 <= len(frame) <= 2 + MAX_DATA_BYTES and len(frame) >= 2 + frame[1]:
        end = 2 + frame[1]
        try:
            return AppData(frame[2:end].decode(), frame[end:])
        except UnicodeDecodeError:
            return None
    if frame[0] != _OURS or len(frame) > _MAX_SMALL:
        return None
    try:
        body = json.loads(frame[1:])
    except (ValueError, RecursionError):
        return None
    match body:
        case {"mute": [str(source), str(name), bool(muted)]}:
            return Mute(source, name, muted)
        case {"ping": int(number)} if not isinstance(number, bool):
            return Ping(number)
        case {"pong": int(number)} if not isinstance(number, bool):
            return Pong(number)
        case _:
            return None
