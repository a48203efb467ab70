"""D5: sticky memberships with `rtc_transports` (2025-10 to 2026-08), of Element Call up to 0.22.

In: reading and writing. Out: what it shares with D6 and D7 (`sticky`).

Identity is named in two ways: `user_id` and `device_id` by deployed clients, `claimed_user_id` and
`claimed_device_id` by the text of MSC4143 at the time.
"""

from __future__ import annotations

from rtcfoci.core.dialects import OwnEvent, OwnMembership, checked_transports
from rtcfoci.core.dialects.reading import Known, Reading
from rtcfoci.core.dialects.sticky import KEY_FIELDS, Said, StickyDialect
from rtcfoci.core.model import JsonObject, RoomEvent

__all__ = ["D5"]

_KNOWN = Known(
    "slot_id", "application", "versions", "rtc_transports", *KEY_FIELDS,
    "transports",  # D6 by itself, so never written
    member=("id", "user_id", "device_id", "claimed_user_id", "claimed_device_id"),
)  # fmt: skip


class D5(StickyDialect):
    """Sticky memberships, `rtc_transports`."""

    name = "D5"
    bare_leave = "D5"
    known = _KNOWN

    def tells(self, content: JsonObject) -> bool:
        """Tell by content whether an event is of this generation."""
        return "rtc_transports" in content and "transports" not in content

    def said(self, event: RoomEvent, member: JsonObject | None, reading: Reading) -> Said:
        """Read what is this generation's own."""
        device_id = None
        if member is not None:
            if _claimed(member, "user_id", reading) not in (None, event.sender):
                reading.problem("foreign_user", "member.user_id is not the sender")
            device_id = _claimed(member, "device_id", reading)
        reading.strings(event.content, "versions")
        transports = reading.transports(event.content, "rtc_transports")
        return Said(self.name, device_id, transports, None)

    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us."""
        # The stable key is left out: clients of the time know only the other.
        rest: dict[str, object] = {
            "rtc_transports": checked_transports(own),
            KEY_FIELDS[0]: own.member.member_id,
        }
        return self._joined(own, {}, rest)


def _claimed(member: JsonObject, name: str, reading: Reading) -> str | None:
    if name not in member and f"claimed_{name}" in member:
        name = f"claimed_{name}"
    return reading.string(member, name, f"member.{name}")
