"""Who may do what in a room, by its power levels (client-server API, m.room.power_levels).

In: the levels as they are now, folded from state events, and the questions that are asked of them.
Out: fetching and changing them (`rtcfoci.matrix.rooms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rtcfoci.core.model import JsonObject, RoomEvent

__all__ = ["RoomPower", "required_power", "user_power"]

_MAX_LEVEL = 2**53 - 1
"""JSON in Matrix holds no number beyond it; what old rooms hold beyond it means the same."""
_MENTION_ROOM = 50
"""What mentioning the whole room needs where `notifications.room` says nothing."""


def user_power(levels: JsonObject, user_id: str) -> int:
    """Read a user's power; creators of rooms of version 12 have more than any number, not said here."""
    return _level(
        _mapping(levels.get("users")).get(user_id), _level(levels.get("users_default"), 0)
    )


def required_power(levels: JsonObject, event_type: str, *, state: bool) -> int:
    """Read the power that sending this type needs; without levels anybody in the room may."""
    if state:
        default = _level(levels.get("state_default"), 50 if levels else 0)
    else:
        default = _level(levels.get("events_default"), 0)
    return _level(_mapping(levels.get("events")).get(event_type), default)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPower:
    """The power levels of a room and who created it."""

    levels: JsonObject = field(default_factory=dict)
    """The content of `m.room.power_levels`; empty when the room has none."""
    creators: frozenset[str] = frozenset()
    above_all: bool = False
    """Whether creators stand above every level: from room version 12 on (MSC4289)."""

    def after(self, event: RoomEvent) -> RoomPower:
        """Give the power after a state event; others change nothing."""
        content: object = event.content
        if event.state_key != "" or not isinstance(content, dict):
            return self
        if event.type == "m.room.power_levels":
            return replace(self, levels=content)
        if event.type == "m.room.create":
            version, more = content.get("room_version"), content.get("additional_creators")
            listed = more if isinstance(more, list | tuple) else ()
            return replace(
                self,
                creators=frozenset({event.sender, *(c for c in listed if isinstance(c, str))}),
                above_all=isinstance(version, str) and _is_from_12_on(version),
            )
        return self

    def of(self, user_id: str) -> float:
        """Read a user's power."""
        if user_id in self.creators:
            if self.above_all:
                return float("inf")
            if not self.levels:
                return 100  # without power levels the creator has 100
        return user_power(self.levels, user_id)

    def may_mention_room(self, user_id: str) -> bool:
        """Tell whether a user's mention of the whole room is heard."""
        needed = _mapping(self.levels.get("notifications")).get("room")
        return self.of(user_id) >= _level(needed, _MENTION_ROOM)


def _is_from_12_on(version: str) -> bool:
    return version.isascii() and version.isdecimal() and len(version) < 10 and int(version) >= 12


def _level(value: object, default: int) -> int:
    """Read a level; old room versions allow integers as strings."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return default
    try:
        return max(-_MAX_LEVEL, min(int(value), _MAX_LEVEL))
    except ValueError:
        return default


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
