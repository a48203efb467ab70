"""What a session goes by of a room's events, and what its notifications go by beside that: all that a
recording needs to keep of them.

In: `essence` and `ring_essence`, which leave out what nobody looks at. Out: the looking itself (`session`,
`notifications`), and what is done with what is left (`rtcfoci.call.trace`, `rtcfoci.lab.saving`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from rtcfoci.core.dialects.notification import READ_FIELDS, RING_TYPES
from rtcfoci.core.dialects.sticky import KEY_FIELDS
from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.core.slots import SLOT_EVENT_TYPES

__all__ = ["essence", "ring_essence"]

_POWER = {
    "m.room.power_levels": ("users", "users_default", "notifications"),
    "m.room.create": ("room_version", "additional_creators"),
}
_DEEP = 4
"""What is read of such an event is nested less than this."""


def essence(event: RoomEvent, membership_types: Collection[str]) -> RoomEvent | None:
    """Give an event without what does not bear on who is in a session; None when nothing of it does.

    A session that is given this instead, and time in place of None, finds the same.

    :param membership_types: the event types of all dialects that are read.
    """
    content: object = event.content
    kept: JsonObject = {}
    if event.redacts is not None:
        pass
    elif event.type in membership_types:
        kept = event.content
    elif event.state_key is None:
        return None
    elif event.type == "m.room.member":
        # No name and no picture of anybody.
        membership = content.get("membership") if isinstance(content, dict) else None
        kept = {"membership": membership} if isinstance(membership, str) else {}
    elif event.type in SLOT_EVENT_TYPES:
        kept = event.content
    elif event.type != "m.room.encryption":
        return None
    return replace(event, content=kept, age_ms=None)


def ring_essence(event: RoomEvent) -> RoomEvent | None:
    """Give an event without what does not bear on who calls us; None when nothing of it does.

    For what is no `essence` of the session: notifications, declines, and the power to call everybody.
    """
    content: object = event.content
    if event.state_key is None and event.type in RING_TYPES:
        fields: tuple[str, ...] = READ_FIELDS
    elif event.state_key == "" and event.type in _POWER:
        fields = _POWER[event.type]
    else:
        return None
    kept: Any = None
    if isinstance(content, dict):
        kept = {name: _shallow(content[name], _DEEP) for name in fields if name in content}
        if content.keys() - kept.keys() and kept.keys() <= set(KEY_FIELDS):
            kept = {**kept, "more": True}  # it says something, if nothing that we read
    return replace(event, content=kept, age_ms=None)


def _shallow(value: object, depth: int) -> object:
    """Cut off what is nested deeper than anybody reads."""
    if isinstance(value, Mapping):
        return {name: _shallow(each, depth - 1) for name, each in value.items()} if depth else {}
    if isinstance(value, list | tuple):
        return [_shallow(each, depth - 1) for each in value] if depth else []
    return value
