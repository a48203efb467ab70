"""Notifications and declines on the wire (MSC4075, which took in MSC4310): read and written.

In: three generations of notifications: `call.notify` (2023), the plain `rtc.notification` (from 2025-08, as
Element Call 0.26.1 sends it) and the sticky one with `slot_id` (as matrix-js-sdk 43 sends it). Written is one
form that the readers of the last two understand.
Out: which of them count, and until when (`rtcfoci.core.notifications`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rtcfoci.core.dialects import OwnEvent, Problems
from rtcfoci.core.dialects.reading import Reading
from rtcfoci.core.dialects.state import slot_id_of
from rtcfoci.core.dialects.sticky import KEY_FIELDS
from rtcfoci.core.model import JsonObject, RoomEvent, Slot
from rtcfoci.core.sticky import MAX_DURATION_MS, read_sticky_key, sticky_expires_ts_ms
from rtcfoci.errors import Problem

__all__ = [
    "DECLINE_TYPES",
    "DEFAULT_LIFETIME_MS",
    "MAX_LIFETIME_MS",
    "NOTIFICATION_TYPES",
    "NOTIFY_TYPES",
    "READ_FIELDS",
    "RING_TYPES",
    "Decline",
    "Notification",
    "NotificationKind",
    "Withdrawal",
    "read_decline",
    "read_notification",
    "write_decline",
    "write_notification",
]

NOTIFICATION_TYPES = ("org.matrix.msc4075.rtc.notification", "m.rtc.notification")
"""Unstable first; written is the first."""
NOTIFY_TYPES = ("org.matrix.msc4075.call.notify", "m.call.notify")
"""Read only: no client sends them since 2025."""
DECLINE_TYPES = ("org.matrix.msc4310.rtc.decline", "m.rtc.decline")
RING_TYPES = frozenset((*NOTIFICATION_TYPES, *NOTIFY_TYPES, *DECLINE_TYPES))
READ_FIELDS = (
    "slot_id", "notification_type", "notify_type", "application", "call_id", "m.mentions", "m.relates_to",
    "sender_ts", "lifetime", "m.call.intent", *KEY_FIELDS,
)  # fmt: skip
"""All that is read of the content, of any generation."""
MAX_LIFETIME_MS = 120_000
"""No notification counts for longer (MSC4075)."""
DEFAULT_LIFETIME_MS = 90_000
"""As matrix-js-sdk 43 writes; a `call.notify`, which does not say, is given as much."""
_MAX_AHEAD_MS = 20_000
"""A `sender_ts` further ahead of the origin server's time is not believed (MSC4075)."""
_MAX_MENTIONS = 10_000
"""An event of 64 KiB holds no more real user ids."""

NotificationKind: TypeAlias = Literal["ring", "notification"]
_KINDS: dict[object, NotificationKind] = {
    "ring": "ring",
    "notification": "notification",
    "notify": "notification",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A member tells others of a call."""

    event_id: str
    sender: str
    room_id: str
    slot_id: str | None
    """The slot of the call; None as long as it hangs on a membership that is not known (`membership_id`)."""
    kind: NotificationKind | None
    """How the sender would have it shown; None: that is left to us (MSC4075, from 2026-09)."""
    mentions_us: bool
    mentions_room: bool
    """Whether everybody is meant; heard only of a sender with the power to."""
    origin_server_ts_ms: int
    expires_ts_ms: int
    """When it is over: by its lifetime, by our receipt, and by its stickiness, whichever is first."""
    membership_id: str = ""
    """The event by which its sender is in the call, where it refers to one."""
    sticky_key: str | None = None
    intent: str = ""
    """`audio`, `video`, or whatever the sender means to use."""
    device_id: str | None = None
    """The device of its sender that encrypted it, checked; None when it came in clear, or is nobody's."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A sticky event that says nothing any more: its predecessor was taken back."""


@dataclass(frozen=True, slots=True)
class Decline:
    """Somebody will not come."""

    event_id: str
    """Of the notification that is declined."""


def read_notification(
    event: RoomEvent, room_id: str, user_id: str
) -> Notification | Withdrawal | Problems:
    """Read a notification as `user_id` receives it; every problem is told.

    Times are bounded by `received_ts_ms`, so it has to be of the clock by which the result is judged.
    """
    content: object = event.content
    if not isinstance(content, dict):
        return Problems((Problem("wrong_type", "content is not an object"),))
    if content.keys() <= set(KEY_FIELDS):
        return Withdrawal()
    reading = Reading()
    room, us = _mentions(content, user_id, reading)
    slot_id: str | None
    if event.type in NOTIFY_TYPES:
        slot_id, membership_id, sticky_key = _call_of(content, reading), "", None
        kind = reading.string(content, "notify_type")
        begin_ts_ms, lifetime_ms = event.origin_server_ts_ms, DEFAULT_LIFETIME_MS
    else:
        slot_id = reading.string(content, "slot_id", required="slot_id" in content)
        membership_id = _reference(content, reading, required="slot_id" not in content)
        sticky_key = _sticky_key(content, slot_id, "slot_id", reading)
        kind = reading.string(content, "notification_type", required=False)
        begin_ts_ms, lifetime_ms = _times(event, content, reading)
    intent = reading.string(content, "m.call.intent", required=False, empty=True)
    if reading.problems:
        return Problems(tuple(reading.problems))
    return Notification(
        event_id=event.event_id,
        sender=event.sender,
        room_id=room_id,
        slot_id=slot_id,
        kind=_KINDS.get(kind),
        mentions_us=us,
        mentions_room=room,
        origin_server_ts_ms=event.origin_server_ts_ms,
        expires_ts_ms=_expires_ts_ms(event, begin_ts_ms + lifetime_ms),
        membership_id=membership_id,
        sticky_key=sticky_key,
        intent=intent or "",
        device_id=event.encrypted_by_device_id,
    )


def read_decline(event: RoomEvent) -> Decline | Problems:
    """Read a decline: a reference to the notification."""
    content: object = event.content
    if not isinstance(content, dict):
        return Problems((Problem("wrong_type", "content is not an object"),))
    reading = Reading()
    event_id = _reference(content, reading, required=True)
    _sticky_key(content, event_id or None, "the event declined", reading)
    return Problems(tuple(reading.problems)) if reading.problems else Decline(event_id)


def write_notification(
    slot: Slot,
    *,
    membership_id: str,
    user_ids: Sequence[str],
    room: bool,
    kind: NotificationKind,
    sender_ts_ms: int,
    lifetime_ms: int,
    intent: str = "",
) -> OwnEvent:
    """Tell the users, or the whole room, of the call in a slot.

    `slot_id` and the sticky keys are for readers of the present text, `notification_type` and `m.relates_to`
    for those before it; Element X drops an event without `notification_type`, `sender_ts` or `lifetime`.

    :param membership_id: the event by which we are in the call.
    """
    content: dict[str, object] = {
        "slot_id": slot.slot_id,
        "m.mentions": {"user_ids": list(user_ids), "room": room},
        "notification_type": kind,
        "m.relates_to": {"rel_type": "m.reference", "event_id": membership_id},
        "sender_ts": sender_ts_ms,
        "lifetime": lifetime_ms,
        **dict.fromkeys(KEY_FIELDS, slot.slot_id),
    }
    if intent:
        content["m.call.intent"] = intent
    # It must be sticky for as long as it can count.
    sticky_ms = min(lifetime_ms + _MAX_AHEAD_MS, MAX_DURATION_MS)
    return OwnEvent(type=NOTIFICATION_TYPES[0], content=content, sticky_duration_ms=sticky_ms)


def write_decline(event_id: str) -> OwnEvent:
    """Say that we will not come; the id is that of the notification."""
    content: dict[str, object] = {
        "m.relates_to": {"rel_type": "m.reference", "event_id": event_id},
        **dict.fromkeys(KEY_FIELDS, event_id),
    }
    return OwnEvent(type=DECLINE_TYPES[0], content=content, sticky_duration_ms=MAX_LIFETIME_MS)


def _mentions(content: JsonObject, user_id: str, reading: Reading) -> tuple[bool, bool]:
    """Tell whether the room is mentioned, and whether we are."""
    mentions = reading.mapping(content, "m.mentions")
    if mentions is None:
        return False, False
    room = mentions.get("room", False)
    if not isinstance(room, bool):
        reading.problem("wrong_type", "m.mentions.room is neither true nor false")
        room = False
    users = reading.items(mentions, "user_ids", "m.mentions.user_ids", most=_MAX_MENTIONS)
    if not all(isinstance(user, str) for user in users):
        reading.problem("wrong_type", "m.mentions.user_ids has an item that is not a string")
    if not room and not users and not reading.problems:
        reading.problem("bad_value", "m.mentions names neither a user nor the room")
    return room, user_id in users


def _call_of(content: JsonObject, reading: Reading) -> str | None:
    application = reading.string(content, "application")
    call_id = reading.string(content, "call_id", empty=True)
    return slot_id_of(application, call_id) if application and call_id is not None else None


def _reference(content: JsonObject, reading: Reading, *, required: bool) -> str:
    """Take the event that is referred to; where another field says the same it may be anything."""
    if not required:
        reading = Reading()
    relation = reading.mapping(content, "m.relates_to")
    if relation is None:
        return ""
    if relation.get("rel_type") != "m.reference":
        reading.problem("bad_value", "m.relates_to.rel_type is not m.reference")
        return ""
    return reading.string(relation, "event_id", "m.relates_to.event_id") or ""


def _sticky_key(
    content: JsonObject, expected: str | None, field: str, reading: Reading
) -> str | None:
    """Take the sticky key, which is optional, and has to be the same as something else."""
    key = read_sticky_key(content)
    if isinstance(key, Problem):
        if key.code != "missing_sticky_key":
            reading.problem(key.code, key.message)
        return None
    if expected is not None and key != expected:
        reading.problem("sticky_key_mismatch", f"the sticky key is not {field}")
    return key


def _times(event: RoomEvent, content: JsonObject, reading: Reading) -> tuple[int, int]:
    """Take when the lifetime begins, and how long it is."""
    for name in ("sender_ts", "lifetime"):
        if name not in content:
            reading.missing(name)
    sender_ts_ms = reading.integer(content, "sender_ts") or 0
    lifetime_ms = reading.integer(content, "lifetime") or 0
    ahead_ms = sender_ts_ms - event.origin_server_ts_ms
    begin_ts_ms = event.origin_server_ts_ms if ahead_ms > _MAX_AHEAD_MS else sender_ts_ms
    return begin_ts_ms, min(lifetime_ms, MAX_LIFETIME_MS)


def _expires_ts_ms(event: RoomEvent, said_ts_ms: int) -> int:
    """Bound what is said of the end, since the sender's server may claim any time as well.

    Our own server's word on how long an event is still sticky tells when it came there, so that none
    comes back from the dead on a device that starts anew.
    """
    heard_ts_ms = event.received_ts_ms
    if event.sticky_duration_ms is None:
        return min(said_ts_ms, heard_ts_ms + MAX_LIFETIME_MS)
    sticky_ts_ms = sticky_expires_ts_ms(event)
    if event.sticky_ttl_ms is not None:
        duration_ms = max(0, min(event.sticky_duration_ms, MAX_DURATION_MS))
        heard_ts_ms = min(heard_ts_ms, sticky_ts_ms - duration_ms)
    return min(said_ts_ms, heard_ts_ms + MAX_LIFETIME_MS, sticky_ts_ms)
