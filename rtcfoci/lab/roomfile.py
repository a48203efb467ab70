"""A room's events in a file: `{"room_id": ..., "events": [...]}`, read whatever it holds.

In: the JSON text, each event as the core takes it or what is wrong with it, and writing one.
Out: what the events mean (`report`), and keeping the file of a live room (`saving`).

Events are in the client format and in the order of their arrival. Beside what a server sends an event may
have `received_ts_ms` (when it reached us) and, when it was decrypted, `encryption`
(`{"sender_device_id": ..., "bound": ...}`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.errors import Problem, UsageError
from rtcfoci.matrix.sync import is_content, is_text, read_event

__all__ = [
    "MAX_DEPTH",
    "FileEvent",
    "RoomFile",
    "decode_json",
    "finite",
    "read_entry",
    "read_room_file",
    "read_room_object",
    "write_event",
]

MAX_DEPTH = 512
"""Deeper nesting is refused: nothing in Matrix comes near it."""
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[][{}]', re.DOTALL)
_SHAPE = 'the file is {"room_id": "!...", "events": [...]}, events in the client format'


@dataclass(frozen=True, slots=True)
class FileEvent:
    """One entry of the file."""

    index: int
    raw: object
    event: RoomEvent | None
    """None when it is not an event."""
    problems: tuple[Problem, ...] = ()
    """Why it is not."""

    @property
    def type(self) -> str | None:
        """The event's type, as far as there is one."""
        found = self.raw.get("type") if isinstance(self.raw, dict) else None
        return found if isinstance(found, str) else None

    @property
    def event_id(self) -> str | None:
        """The event's id, as far as there is one."""
        found = self.raw.get("event_id") if isinstance(self.raw, dict) else None
        return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class RoomFile:
    """The file."""

    room_id: str
    events: Sequence[FileEvent]
    saved_ts_ms: int | None = None
    """Until when the room was followed, where the file says so."""


def read_room_file(text: str, received_ts_ms: int) -> RoomFile:
    """Read the text of a file.

    :param received_ts_ms: when events arrived that do not say so themselves.
    :raises UsageError: not JSON, nested too deeply, or of another shape; a bad event is only noted.
    """
    return read_room_object(decode_json(text), received_ts_ms)


def decode_json(text: str, *, do: str = _SHAPE) -> JsonObject:
    """Read a JSON object that anybody may have written.

    :param do: the remedy for people, when it is none.
    :raises UsageError: not JSON, no object, or nested too deeply.
    """
    depth = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > MAX_DEPTH:
            raise _refused(f"it is nested deeper than {MAX_DEPTH} levels", do)
    try:
        found = json.loads(text, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(f"it is not JSON: {error}", do) from error
    if not isinstance(found, dict):
        raise _refused("it is not an object", do)
    return found


def read_room_object(found: JsonObject, received_ts_ms: int) -> RoomFile:
    """Read a file's object. :raises UsageError: of another shape; a bad event is only noted."""
    room_id, events = found.get("room_id"), found.get("events")
    if not is_text(room_id) or not room_id:
        raise _refused("room_id is missing or not a string")
    if not isinstance(events, list):
        raise _refused("events is missing or not an array")
    read = [read_entry(index, raw, received_ts_ms) for index, raw in enumerate(events)]
    saved = found.get("saved_ts_ms")
    return RoomFile(room_id, read, saved if isinstance(saved, int) and saved >= 0 else None)


def write_event(event: RoomEvent) -> dict[str, object]:
    """Write an event as it stands in a file; read, it is the same again, but for its age."""
    raw: dict[str, object] = {
        "type": event.type,
        "sender": event.sender,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts_ms,
        "received_ts_ms": event.received_ts_ms,
        "content": finite(event.content),
    }
    if event.state_key is not None:
        raw["state_key"] = event.state_key
    if event.redacts is not None:
        raw["redacts"] = event.redacts
    if event.sticky_duration_ms is not None:
        raw["msc4354_sticky"] = {"duration_ms": event.sticky_duration_ms}
    if event.sticky_ttl_ms is not None:
        raw["unsigned"] = {"msc4354_sticky_duration_ttl_ms": event.sticky_ttl_ms}
    if event.encrypted:
        device_id = event.encrypted_by_device_id
        raw["encryption"] = {"sender_device_id": device_id, "bound": device_id is not None}
    return raw


def finite(value: object) -> object:
    """Copy a JSON value; numbers that JSON cannot write become null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refused(why: str, do: str = _SHAPE) -> UsageError:
    return UsageError("The file cannot be used.", why=why, do=do)


def _integer(digits: str) -> int | float:
    # Python refuses to read an integer of thousands of digits; no number of Matrix is beyond 2^53.
    return int(digits) if len(digits) < 1000 else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def read_entry(index: int, raw: object, received_ts_ms: int) -> FileEvent:
    """Read one entry of a file, whatever it is."""
    if not isinstance(raw, dict):
        return FileEvent(index, raw, None, (Problem("bad_event", "it is not an object"),))
    received = raw.get("received_ts_ms", received_ts_ms)
    if not isinstance(received, int) or isinstance(received, bool):
        problem = Problem("bad_event", "received_ts_ms is not an integer")
        return FileEvent(index, raw, None, (problem,))
    event = read_event(raw, received)
    if event is None:
        return FileEvent(index, raw, None, tuple(_problems(raw)))
    return FileEvent(index, raw, _decrypted(event, raw))


def _decrypted(event: RoomEvent, raw: JsonObject) -> RoomEvent:
    encryption = raw.get("encryption")
    if not isinstance(encryption, dict):
        return event
    device_id = encryption.get("sender_device_id")
    # A device that is not bound to the keys is a claim like any other.
    known = device_id if is_text(device_id) and encryption.get("bound") is True else None
    return replace(event, encrypted=True, encrypted_by_device_id=known)


def _problems(raw: JsonObject) -> list[Problem]:
    """Say why the client layer cannot read an event."""
    found = []
    for name in ("type", "sender", "event_id"):
        if not is_text(raw.get(name)):
            found.append(Problem("bad_event", f"{name} is missing or not a string"))
    stamp = raw.get("origin_server_ts")
    if not isinstance(stamp, int) or isinstance(stamp, bool):
        found.append(Problem("bad_event", "origin_server_ts is missing or not an integer"))
    content = raw.get("content")
    if not isinstance(content, dict):
        found.append(Problem("bad_event", "content is missing or not an object"))
    elif not is_content(content):
        found.append(Problem("too_deep", "content is nested too deeply"))
    if raw.get("state_key") is not None and not is_text(raw["state_key"]):
        found.append(Problem("bad_event", "state_key is not a string"))
    return found or [Problem("bad_event", "a number is out of range")]
