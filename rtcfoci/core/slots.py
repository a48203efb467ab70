"""Slot events (MSC4143): whether a slot is open, read from and written to the wire.

In: both generations of content (2025-10: `application`, empty when closed; 2026-07: `status`), both
event types. Out: what an absent or closed slot means for members, which is the session's policy.
"""

from __future__ import annotations

from rtcfoci.core.dialects import OwnEvent
from rtcfoci.core.model import JsonObject, Slot, SlotStatus

__all__ = ["SLOT_EVENT_TYPES", "asks_encryption", "close_slot", "open_slot", "read_slot"]

SLOT_EVENT_TYPES: tuple[str, ...] = ("org.matrix.msc4143.rtc.slot", "m.rtc.slot")
"""Unstable first; written is the first."""
_PER_MEMBER = {"type": "org.matrix.msc4143.per_member"}


def read_slot(
    content: object, application: str | None = None, *, status_required: bool = False
) -> SlotStatus:
    """Read the content of a slot event that exists.

    :param application: the type that the slot id stands for; another one in the content closes it.
    :param status_required: whether the content of before 2026-07, without `status`, closes it.
    """
    found = content.get("application") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(found, dict):
        return SlotStatus.CLOSED
    kind = found.get("type")
    if not isinstance(kind, str) or application not in (None, kind):
        return SlotStatus.CLOSED
    # Before 2026-07 there was no status: an application meant open.
    status = content.get("status", None if status_required else "open")
    return SlotStatus.OPEN if status == "open" else SlotStatus.CLOSED


def asks_encryption(content: object) -> bool | None:
    """Tell whether the slot asks its members for encryption (MSC4143, from 2026-07); None if malformed."""
    if not isinstance(content, dict) or "encryption" not in content:
        return False
    asked = content["encryption"]
    return True if isinstance(asked, dict) and isinstance(asked.get("type"), str) else None


def open_slot(slot: Slot, *, room_encrypted: bool, current: JsonObject | None = None) -> OwnEvent:
    """Write the event that opens a slot; keys of the current content that we do not know stay."""
    kept = dict(current or {})
    application = kept.get("application")
    content: dict[str, object] = {
        **kept,
        "status": "open",
        "application": {
            **(application if isinstance(application, dict) else {}),
            "type": slot.application,
        },
    }
    if room_encrypted:
        content.setdefault("encryption", _PER_MEMBER)
    else:
        content.pop("encryption", None)  # forbidden in clear rooms (MSC4143)
    return OwnEvent(type=SLOT_EVENT_TYPES[0], content=content, state_key=slot.slot_id)


def close_slot(slot: Slot, *, current: JsonObject | None = None) -> OwnEvent:
    """Write the event that closes a slot."""
    content: dict[str, object] = {
        "application": {"type": slot.application},
        **(current or {}),
        "status": "closed",
    }
    return OwnEvent(type=SLOT_EVENT_TYPES[0], content=content, state_key=slot.slot_id)
