"""Sticky events (MSC4354): which event of a key is current, and until when.

In: the map with its winner rule, tombstones, redaction and expiry, and the fields of an event that
it needs. Out: what the events mean (`dialects`), and the room, of which there is one per map.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from rtcfoci.core.model import JsonObject, Now, RoomEvent
from rtcfoci.errors import Problem

__all__ = [
    "MAX_DURATION_MS",
    "MAX_HISTORY",
    "StickyEntry",
    "StickyKey",
    "StickyMap",
    "filing_key",
    "read_sticky_key",
    "sticky_expires_ts_ms",
]

MAX_DURATION_MS = 3_600_000
"""No event is sticky for longer (MSC4354); servers store longer values as sent."""
MAX_HISTORY = 16
"""How many live events of one key are kept for when the current one is redacted."""
_MAX_KEY_LENGTH = 255

_V = TypeVar("_V")
StickyKey: TypeAlias = tuple[str, str, str]
"""Sender, event type, sticky key; the room is the map's."""


def read_sticky_key(content: JsonObject) -> str | Problem:
    """Take the sticky key, unstable or stable name; both must agree."""
    key = content.get("msc4354_sticky_key", content.get("sticky_key"))
    if not isinstance(key, str):
        if key is None and not content.keys() & {"msc4354_sticky_key", "sticky_key"}:
            return Problem("missing_sticky_key", "sticky_key is missing")
        return Problem("wrong_type", "sticky_key is not a string")
    if content.get("sticky_key", key) != key:
        return Problem("sticky_keys_differ", "msc4354_sticky_key and sticky_key differ")
    if len(key) > _MAX_KEY_LENGTH:
        return Problem("too_long", f"sticky_key is longer than {_MAX_KEY_LENGTH} characters")
    return key


def filing_key(content: object) -> str | None:
    """Take the key that an event is filed under, valid or not; None when it has none.

    The unstable name, where there is one, is what deployed readers file by.
    """
    if not isinstance(content, dict):
        return None
    key = content.get("msc4354_sticky_key", content.get("sticky_key"))
    return key if isinstance(key, str) and len(key) <= _MAX_KEY_LENGTH else None


def _duration_ms(event: RoomEvent) -> int:
    duration_ms = event.sticky_duration_ms or 0
    return min(duration_ms, MAX_DURATION_MS) if duration_ms > 0 else 0


def sticky_expires_ts_ms(event: RoomEvent) -> int:
    """Say when the event stops being sticky, by our wall clock.

    The server's remaining time is preferred, because it knows nothing of our clock. Otherwise it
    starts at the earlier of receipt and the origin's time, so that a clock running ahead gains
    nothing. Without a duration an event is not sticky, whatever the server says of the rest.
    """
    duration_ms = _duration_ms(event)
    if event.sticky_ttl_ms is not None and duration_ms:
        return event.received_ts_ms + max(0, min(event.sticky_ttl_ms, MAX_DURATION_MS))
    return min(event.received_ts_ms, event.origin_server_ts_ms) + duration_ms


class StickyEntry(NamedTuple, Generic[_V]):
    """One event of a key, with what it was read as; of two, the greater is current."""

    rank_ts_ms: int
    """Origin's time plus duration: the latest to expire wins."""
    event_id: str
    """Breaks ties: the higher wins."""
    origin_server_ts_ms: int
    expires_ts_ms: int
    value: _V


class StickyMap(Generic[_V]):
    """The sticky events of one room that have not expired, leaves (tombstones) included."""

    def __init__(self) -> None:
        self._history: dict[StickyKey, tuple[StickyEntry[_V], ...]] = {}
        """The greatest first."""
        self._key_of: dict[str, StickyKey] = {}
        self._expiries: list[tuple[int, str]] = []
        self._types: dict[str, str] = {}
        """One text of each event type for all keys: each event brings a copy of its own."""

    def __len__(self) -> int:
        return len(self._history)

    def __iter__(self) -> Iterator[StickyKey]:
        return iter(tuple(self._history))

    def current(self, key: StickyKey) -> StickyEntry[_V] | None:
        """Give back the winner of a key."""
        history = self._history.get(key)
        return history[0] if history else None

    def history(self, key: StickyKey) -> tuple[StickyEntry[_V], ...]:
        """Give back the live events of a key, the current one first."""
        return self._history.get(key, ())

    def add(self, event: RoomEvent, key: str, value: _V, now: Now) -> StickyKey | None:
        """File an event; give back its key, or None when nothing changed (known, or expired)."""
        expires_ts_ms = sticky_expires_ts_ms(event)
        if event.event_id in self._key_of or expires_ts_ms <= now.ts_ms:
            return None
        full_key = (event.sender, self._types.setdefault(event.type, event.type), key)
        entry = StickyEntry(
            event.origin_server_ts_ms + _duration_ms(event),
            event.event_id,
            event.origin_server_ts_ms,
            expires_ts_ms,
            value,
        )
        history = sorted((*self._history.get(full_key, ()), entry), reverse=True)
        self._key_of[event.event_id] = full_key
        if len(history) > MAX_HISTORY:
            del self._key_of[history.pop().event_id]
        self._history[full_key] = tuple(history)
        if len(self._expiries) > 2 * len(self._key_of) + 64:
            # What was dropped would lie here for an hour: without this a member could pile it up.
            self._expiries = [entry for entry in self._expiries if entry[1] in self._key_of]
            heapq.heapify(self._expiries)
        heapq.heappush(self._expiries, (expires_ts_ms, event.event_id))
        return full_key

    def redact(self, event_id: str) -> StickyKey | None:
        """Forget an event, so that its predecessor counts again; None when it is not known."""
        key = self._key_of.pop(event_id, None)
        if key is None:
            return None
        history = [entry for entry in self._history[key] if entry.event_id != event_id]
        if history:
            self._history[key] = tuple(history)
        else:
            del self._history[key]
        return key

    def expire(self, now: Now) -> list[StickyKey]:
        """Forget what has expired; give back the keys that lost an event."""
        keys = []
        while self._expiries and self._expiries[0][0] <= now.ts_ms:
            key = self.redact(heapq.heappop(self._expiries)[1])
            if key is not None:
                keys.append(key)
        return keys

    @property
    def next_expiry_ts_ms(self) -> int | None:
        """When `expire` has something to do next."""
        while self._expiries and self._expiries[0][1] not in self._key_of:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None
