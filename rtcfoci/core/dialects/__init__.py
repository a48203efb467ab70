"""What every wire generation of memberships has in common: the protocol, its values, careful reading.

In: `Dialect`, what it takes (`OwnMembership`), what it gives (`Leave`, `Problems`, `OwnEvent`), and
`Reading`, which takes values out of hostile JSON and notes every problem. Out: the generations
themselves, one module each (`d2`, `d3`, `superset`), and which of them are installed.

A dialect tells its events by content, because several generations share one event type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeGuard

from rtcfoci.core.model import JsonObject, Member, Membership, RoomEvent, Slot, Transport
from rtcfoci.errors import Problem, UsageError

__all__ = [
    "MAX_DEPTH",
    "MAX_ID_LENGTH",
    "MAX_PROBLEMS",
    "MAX_TRANSPORTS",
    "Dialect",
    "Leave",
    "Memberships",
    "OwnEvent",
    "OwnMembership",
    "Parsed",
    "Problems",
    "Reading",
    "checked_transports",
    "is_livekit",
    "is_shallow",
    "parse_event",
]

MAX_DEPTH = 32
"""Deeper nesting is a problem: whoever compared or wrote such a value could exhaust the stack."""
MAX_ID_LENGTH = 255
"""Matrix allows no longer identifiers."""
MAX_PROBLEMS = 16
"""More problems of one event than these are not written down."""
MAX_TRANSPORTS = 32
"""More transports than these in one membership are a problem; real ones have one or two."""
_CONTAINERS = (dict, list)
_MAX_SAFE_INTEGER = 2**53 - 1
"""Canonical JSON has no integers beyond this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """An event that says its device is no longer in the slot."""

    dialect: str
    reason: str = ""
    """The code of `leave_reason` (D7), empty where none was given."""


@dataclass(frozen=True, slots=True)
class Problems:
    """An event that cannot be used, with everything that is wrong with it."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Memberships:
    """What an event says that speaks for several devices at once (D1)."""

    memberships: tuple[Membership, ...]
    problems: tuple[Problem, ...] = ()
    """Of its parts that cannot be used."""


Parsed: TypeAlias = Membership | Memberships | Leave | Problems


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMembership:
    """What a dialect needs to know to announce us."""

    slot: Slot
    member: Member
    """With the member id of this join; state dialects write `@user:server:DEVICE` whatever it is."""
    transports: tuple[Transport, ...]
    """What we publish on, or receive on when we only receive; already rendered for the dialect, best
    first, never empty."""
    can_subscribe: tuple[str, ...] = ()
    """The transport types we can receive from."""
    application: JsonObject = field(default_factory=dict)
    """The application's own data, without `type`."""
    lifetime_ms: int = 4 * 3600 * 1000
    """How long a state membership counts without a refresh; sticky ones count an hour."""
    owned_state: bool = False
    """Whether the room version lets users own state keys (MSC3757, MSC3779)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEvent:
    """An event of ours, ready to be sent: as state, or sticky."""

    type: str
    content: JsonObject
    state_key: str | None = None
    """None for sticky events."""
    sticky_duration_ms: int | None = None
    """None for state events."""


class Dialect(Protocol):
    """One wire generation of memberships: reads everybody's, writes ours.

    Stateless, constructed without arguments. Nothing that an event contains makes `reads` or `parse`
    raise, and their work is linear in the size of the event.
    """

    name: str
    """Such as `D3`."""
    event_types: tuple[str, ...]
    """Unstable first; written is the first."""
    sticky: bool
    """Whether its events are sticky (MSC4354); otherwise they are state."""

    def reads(self, event: RoomEvent) -> bool:
        """Tell by type and content whether the event is of this generation."""

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into a membership, a leave, or all its problems."""

    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us. :raises UsageError: without any transport, or with one that has no type."""

    def refresh(self, own: OwnMembership, *, created_ts_ms: int, now_ts_ms: int) -> OwnEvent:
        """Announce us again, later or with changes, as the same join.

        :param created_ts_ms: the origin server's time of our first event of this join.
        """

    def leave(self, own: OwnMembership) -> OwnEvent:
        """Withdraw the announcement."""


def parse_event(dialects: Iterable[Dialect], event: RoomEvent, room_id: str) -> Parsed:
    """Read an event with the first dialect that knows it."""
    if not is_shallow(event.content):
        return Problems((Problem("too_deep", f"content is nested deeper than {MAX_DEPTH}"),))
    for dialect in dialects:
        if dialect.reads(event):
            return dialect.parse(event, room_id)
    return Problems((Problem("unknown_dialect", f"no dialect reads this {event.type[:80]}"),))


def is_livekit(transport: JsonObject) -> bool:
    """Tell whether deployed clients take this for a LiveKit focus (type and URL as they read them)."""
    return transport.get("type") == "livekit" and isinstance(
        transport.get("livekit_service_url"), str
    )


def checked_transports(own: OwnMembership) -> list[JsonObject]:
    """Give back what we publish on, LiveKit first; refuse what would crash deployed clients.

    Element Call 0.26.1 takes the first entry, and in every member's client it crashes when there is
    none.
    """
    raws = [dict(transport.raw) for transport in own.transports]
    if not raws or any(not isinstance(raw.get("type"), str) or not raw["type"] for raw in raws):
        raise UsageError(
            "a membership needs at least one transport, each with a type",
            why="deployed clients crash on a member without transports",
            do="list the transport you publish on, or receive on if you only receive",
        )
    return sorted(raws, key=lambda raw: not is_livekit(raw))


def is_shallow(content: JsonObject) -> bool:
    """Tell whether a decoded JSON object is nested no deeper than `MAX_DEPTH`, without recursion."""
    level: list[object] = [content]
    for _ in range(MAX_DEPTH):
        deeper: list[object] = []
        for value in level:
            items = value.values() if isinstance(value, dict) else value
            for item in items:  # type: ignore[attr-defined]
                if isinstance(item, _CONTAINERS):
                    deeper.append(item)
        if not deeper:
            return True
        level = deeper
    return False


def _is_identifier(value: object) -> TypeGuard[str]:
    """Tell whether a value can stand for something: text, not too long, of whole characters.

    JSON can hold half a surrogate pair, and whoever prints or hashes one fails.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


class Reading:
    """Takes values out of one hostile JSON object and notes every problem on the way.

    The methods give an empty value where there is a problem: ask `problems` before believing any.
    """

    __slots__ = ("problems",)

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def problem(self, code: str, message: str) -> None:
        """Note one problem; the first `MAX_PROBLEMS` are kept."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, message))

    def result(self) -> Problems:
        """Give the problems back as a value."""
        return Problems(tuple(self.problems))

    def string(
        self, source: JsonObject, key: str, name: str = "", *, required: bool = True
    ) -> str | None:
        """Take a string that is an identifier; None when absent or wrong."""
        value = source.get(key)
        if _is_identifier(value):
            return value
        name = name or key
        if value is None or value == "":
            if required:
                self.problem("missing_field", f"{name} is missing")
        elif isinstance(value, str):
            if len(value) > MAX_ID_LENGTH:
                self.problem("too_long", f"{name} is longer than {MAX_ID_LENGTH} characters")
            else:
                self.problem("bad_unicode", f"{name} is not valid Unicode")
        else:
            self.problem("wrong_type", f"{name} is not a string")
        return None

    def integer(self, source: JsonObject, key: str) -> int | None:
        """Take an optional integer from 0 to 2**53 - 1."""
        value = source.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem("wrong_type", f"{key} is not an integer")
        elif not 0 <= value <= _MAX_SAFE_INTEGER:
            self.problem("out_of_range", f"{key} is not within 0 and 2^53 - 1")
        else:
            return value
        return None

    def mapping(
        self, source: JsonObject, key: str, name: str = "", *, required: bool = True
    ) -> JsonObject | None:
        """Take an object; None when absent or wrong."""
        value = source.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.problem("wrong_type", f"{name or key} is not an object")
        elif required:
            self.problem("missing_field", f"{name or key} is missing")
        return None

    def transports(self, source: JsonObject, key: str, name: str = "") -> tuple[Transport, ...]:
        """Take an optional array of transports: objects with a `type`; other keys are kept."""
        found = []
        for item in self._items(source, key, name or key):
            if isinstance(item, dict):
                kind = item.get("type")
                if _is_identifier(kind):
                    found.append(Transport(kind, item))
                    continue
            self.problem("bad_transport", f"{name or key} has an item without a type")
        return tuple(found)

    def strings(self, source: JsonObject, key: str, name: str) -> tuple[str, ...] | None:
        """Take an optional array of short strings; None when absent."""
        if source.get(key) is None:
            return None
        found = []
        for item in self._items(source, key, name):
            if _is_identifier(item):
                found.append(item)
            else:
                self.problem("wrong_type", f"{name} has an item that is not a short string")
        return tuple(found)

    def _items(self, source: JsonObject, key: str, name: str) -> Sequence[object]:
        value = source.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.problem("wrong_type", f"{name} is not an array")
            return ()
        if len(value) > MAX_TRANSPORTS:
            self.problem("too_many_items", f"{name} has more than {MAX_TRANSPORTS} items")
            return ()
        return value
