"""What a session goes by of a room's events: all that a recording needs to keep of them.

In: `essence`, which leaves out what no session looks at. Out: the looking itself (`session`), and what is
done with what is left (`rtcfoci.call.trace`, `rtcfoci.lab.saving`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.core.slots import SLOT_EVENT_TYPES

__all__ = ["essence"]


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
