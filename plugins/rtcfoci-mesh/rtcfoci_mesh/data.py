"""Messages on the data channels of a pair: the application's data and the mesh's own small talk.

In: framing, limits, reading what a member sent. Out: the channels (`engine`), what is done (`peer`).

A frame is one byte that says what it is. For the application's data there follow the length of the topic
in one byte, the topic and the payload; a reliable message has its number before these, in eight bytes,
the highest first (`delivery`). For our own, a JSON object follows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

from rtcfoci.errors import BackendError

__all__ = [
    "MAX_DATA_BYTES",
    "Acknowledged",
    "AppData",
    "Mute",
    "Ping",
    "Pong",
    "Small",
    "Stream",
    "numbered",
    "pack",
    "unpack",
]

MAX_DATA_BYTES = 60_000
"""Of one message, payload and topic; every WebRTC engine takes 65,536 bytes."""
_MAX_TOPIC = 255
_MAX_SMALL = 2048
_OURS, _APP, _NUMBERED = 0, 1, 2
_NUMBER_BYTES = 8
_MAX_NUMBER = 2**53


@dataclass(frozen=True, slots=True)
class AppData:
    """The application's data."""

    topic: str
    payload: bytes
    number: int | None = None
    """Of a reliable message: its place in the sender's stream."""


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


@dataclass(frozen=True, slots=True)
class Stream:
    """The sender's reliable messages on this connection are of that stream, from that number on."""

    name: str
    first: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Every reliable message with a lower number has come."""

    below: int


Small: TypeAlias = Mute | Ping | Pong | Stream | Acknowledged


def pack(message: AppData | Small) -> bytes:
    """Write a message, without its number. :raises BackendError: when it is too large."""
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
        case Stream(name, first):
            body = {"stream": [name, first]}
        case Acknowledged(below):
            body = {"acknowledged": below}
    return bytes((_OURS,)) + json.dumps(body).encode()


def numbered(frame: bytes, number: int) -> bytes:
    """Give the application's data its number."""
    return bytes((_NUMBERED,)) + number.to_bytes(_NUMBER_BYTES, "big") + frame[1:]


def unpack(frame: bytes) -> AppData | Small | None:
    """Read what a member sent; None when it is nothing we know. Never raises."""
    if not frame:
        return None
    if frame[0] == _APP:
        return _app_data(frame[1:], None)
    if frame[0] == _NUMBERED:
        number = int.from_bytes(frame[1 : 1 + _NUMBER_BYTES], "big")
        return _app_data(frame[1 + _NUMBER_BYTES :], number)
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
        case {"stream": [str(name), int(first)]} if _is_number(first) and name:
            return Stream(name, first)
        case {"acknowledged": int(below)} if _is_number(below):
            return Acknowledged(below)
        case _:
            return None


def _is_number(value: int) -> bool:
    return not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER


def _app_data(rest: bytes, number: int | None) -> AppData | None:
    if not rest or not 1 + rest[0] <= len(rest) <= 1 + MAX_DATA_BYTES:
        return None
    end = 1 + rest[0]
    try:
        return AppData(rest[1:end].decode(), rest[end:], number)
    except UnicodeDecodeError:
        return None
