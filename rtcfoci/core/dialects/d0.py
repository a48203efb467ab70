"""D0: the native group calls of MSC3401 (2021-23), recognised and refused.

In: telling them apart. Out: reading them: their full mesh has signalling of its own, and nobody is known
to send them any more.
"""

from __future__ import annotations

from rtcfoci.core.dialects import Parsed, Problems
from rtcfoci.core.dialects.state import EVENT_TYPES
from rtcfoci.core.model import RoomEvent
from rtcfoci.errors import Problem

__all__ = ["D0"]

_REFUSED = Problems(
    (
        Problem(
            "dialect_unsupported",
            "it is a native group call of MSC3401 (m.calls), which nothing here can take part in",
        ),
    )
)


class D0:
    """One event for each user, `m.calls` with `m.devices`."""

    name = "D0"
    event_types: tuple[str, ...] = EVENT_TYPES
    sticky = False

    def reads(self, event: RoomEvent) -> bool:
        """Tell whether the event is of this generation."""
        content: object = event.content
        return (
            event.type in self.event_types
            and isinstance(content, dict)
            and "m.calls" in content
            and "application" not in content
            and "memberships" not in content
        )

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Refuse the event."""
        return _REFUSED
