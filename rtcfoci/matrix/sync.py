"""A `/sync` answer read into values, whatever it holds.

In: the reader, which never raises: what is malformed is left out and counted.
Out: polling (`loop`), handing out (`feed`) and decryption (`olm`).

Sections and fields of sticky events carry their unstable names (MSC4354) and, for servers to come, the
stable ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeGuard

from rtcfoci.core.model import JsonObject, RoomEvent

__all__ = [
    "RawToDevice",
    "RoomBatch",
    "SyncBatch",
    "is_content",
    "is_text",
    "read_event",
    "read_sync",
]

MAX_JSON_INT = 2**53 - 1
"""The largest integer of canonical JSON; anything beyond is hostile."""

MAX_DEPTH = 100
"""No Matrix content is nested deeper; whatever walks or writes it must not run out of stack."""

RoomMembership: TypeAlias = Literal["join", "leave", "invite"]


@dataclass(frozen=True, slots=True)
class RawToDevice:
    """A to-device event as it came, encrypted or not."""

    type: str
    sender: str
    content: JsonObject = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomBatch:
    """What one sync says about one room; an event is in one of the three only."""

    room_id: str
    membership: RoomMembership
    limited: bool = False
    """There is a gap before the timeline; `state` tells what changed in it."""
    state: tuple[RoomEvent, ...] = ()
    timeline: tuple[RoomEvent, ...] = ()
    sticky: tuple[RoomEvent, ...] = ()

    @property
    def events(self) -> tuple[RoomEvent, ...]:
        return self.state + self.timeline + self.sticky


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBatch:
    """One sync."""

    next_batch: str | None
    rooms: tuple[RoomBatch, ...] = ()
    to_device: tuple[RawToDevice, ...] = ()
    devices_changed: tuple[str, ...] = ()
    """Users whose device keys changed, or who no longer share a room with us."""
    one_time_keys: int | None = None
    """`signed_curve25519` keys left on the server; None when it does not say."""
    malformed: int = 0
    """Events left out because nothing can be made of them."""


def is_text(value: object) -> TypeGuard[str]:
    """Tell text from everything else; JSON can hold halves of characters, which no file or database takes."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_content(value: object) -> TypeGuard[JsonObject]:
    """Tell an object that can be walked from everything else."""
    if not isinstance(value, dict):
        return False
    level: list[dict[object, object] | list[object]] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return True
    return False


def read_event(raw: object, received_ts_ms: int) -> RoomEvent | None:
    """Read one room event; None when a required field is missing or of the wrong type."""
    event = _object(raw)
    kind, sender, event_id = event.get("type"), event.get("sender"), event.get("event_id")
    content, stamp = event.get("content"), _integer(event.get("origin_server_ts"))
    state_key = event.get("state_key")
    if not (is_text(kind) and is_text(sender) and is_text(event_id)):
        return None
    if not is_content(content) or stamp is None:
        return None
    if state_key is not None and not is_text(state_key):
        return None
    unsigned = _object(event.get("unsigned"))
    sticky = _object(event.get("sticky", event.get("msc4354_sticky")))
    ttl = unsigned.get("sticky_duration_ttl_ms", unsigned.get("msc4354_sticky_duration_ttl_ms"))
    redacts = event.get("redacts", content.get("redacts")) if kind == "m.room.redaction" else None
    return RoomEvent(
        type=kind,
        sender=sender,
        content=content,
        event_id=event_id,
        origin_server_ts_ms=stamp,
        received_ts_ms=received_ts_ms,
        state_key=state_key,
        sticky_duration_ms=_integer(sticky.get("duration_ms")),
        sticky_ttl_ms=_integer(ttl),
        redacts=redacts if isinstance(redacts, str) else None,
        age_ms=_integer(unsigned.get("age")),
    )


def read_sync(raw: object, received_ts_ms: int) -> SyncBatch:
    """Read a whole answer to `/sync`; never raises."""
    body = _object(raw)
    reader = _Reader(received_ts_ms)
    rooms = _object(body.get("rooms"))
    batches = [
        *(reader.room(room_id, room, "join") for room_id, room in _items(rooms.get("join"))),
        *(reader.room(room_id, room, "leave") for room_id, room in _items(rooms.get("leave"))),
        *(
            # The stripped state of an invitation has no event ids: it is for people, not for us.
            RoomBatch(room_id=room_id, membership="invite")
            for room_id, _ in _items(rooms.get("invite"))
        ),
    ]
    to_device = []
    for item in _list(_object(body.get("to_device")).get("events")):
        event = _object(item)
        kind, sender, content = event.get("type"), event.get("sender"), event.get("content")
        if is_text(kind) and is_text(sender) and is_content(content):
            to_device.append(RawToDevice(kind, sender, content))
        else:
            reader.malformed += 1
    lists = _object(body.get("device_lists"))
    changed = [
        user
        for name in ("changed", "left")
        for user in _list(lists.get(name))
        if isinstance(user, str)
    ]
    next_batch = body.get("next_batch")
    counts = body.get("device_one_time_keys_count")
    # The specification lets a server leave out a count of zero.
    left = None if counts is None else _integer(_object(counts).get("signed_curve25519", 0))
    return SyncBatch(
        next_batch=next_batch if is_text(next_batch) and next_batch else None,
        rooms=tuple(batches),
        to_device=tuple(to_device),
        devices_changed=tuple(changed),
        one_time_keys=left,
        malformed=reader.malformed,
    )


class _Reader:
    def __init__(self, received_ts_ms: int) -> None:
        self.received_ts_ms = received_ts_ms
        self.malformed = 0

    def room(self, room_id: str, raw: object, membership: RoomMembership) -> RoomBatch:
        room = _object(raw)
        timeline = _object(room.get("timeline"))
        seen: set[str] = set()
        # The timeline is read first: an event that a server repeats in `state` belongs there, in order.
        events = self._events(timeline.get("events"), seen)
        state = self._events(_object(room.get("state")).get("events"), seen)
        sticky = [
            event
            for name in ("sticky", "msc4354_sticky")
            for event in self._events(_object(room.get(name)).get("events"), seen)
        ]
        return RoomBatch(
            room_id=room_id,
            membership=membership,
            limited=timeline.get("limited") is True,
            state=tuple(event for event in state if event.state_key is not None),
            timeline=tuple(events),
            sticky=tuple(sticky),
        )

    def _events(self, raw: object, seen: set[str]) -> list[RoomEvent]:
        events = []
        for item in _list(raw):
            event = read_event(item, self.received_ts_ms)
            if event is None:
                self.malformed += 1
            elif event.event_id not in seen:
                seen.add(event.event_id)
                events.append(event)
        return events


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _items(value: object) -> Iterator[tuple[str, object]]:
    return iter((k, v) for k, v in _object(value).items() if isinstance(k, str))


def _integer(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_JSON_INT:
        return value
    return None
