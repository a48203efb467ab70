"""Notifications as `rtcfoci watch` shows them: in words, and as JSON.

In: one diff, one line. Out: which of them count (`rtcfoci.core.notifications`).
"""

from __future__ import annotations

from rtcfoci.core.notifications import (
    Notification,
    NotificationDeclined,
    NotificationDiff,
    NotificationEnded,
    NotificationIgnored,
    NotificationStarted,
)

__all__ = ["notification_json", "notification_words"]


def notification_words(news: NotificationDiff) -> str:
    """Say it in words; whatever strangers wrote is in it as it is."""
    match news:
        case NotificationStarted(notification):
            calls = "rings" if notification.kind == "ring" else "tells of a call"
            whom = "the room" if not notification.mentions_us else "us"
            return f"{notification.sender} {calls}: {whom}"
        case NotificationEnded(notification, reason):
            return f"the call of {notification.sender} counts no more: {reason.value}"
        case NotificationDeclined(notification, user_id):
            return f"{user_id} declined the call of {notification.sender}"
        case NotificationIgnored(_, sender, problems):
            why = "; ".join(f"{problem.code}: {problem.message}" for problem in problems)
            return f"a notification of {sender} does not count: {why}"


def notification_json(news: NotificationDiff) -> dict[str, object]:
    """Give it as JSON."""
    match news:
        case NotificationStarted(notification):
            return {"change": "started", **_fields(notification)}
        case NotificationEnded(notification, reason):
            return {"change": "ended", **_fields(notification), "reason": reason.value}
        case NotificationDeclined(notification, user_id):
            return {"change": "declined", **_fields(notification), "user_id": user_id}
        case NotificationIgnored(event_id, sender, problems):
            return {
                "change": "ignored",
                "event_id": event_id,
                "sender": sender,
                "problems": [{"code": p.code, "message": p.message} for p in problems],
            }


def _fields(notification: Notification) -> dict[str, object]:
    return {
        "event_id": notification.event_id,
        "sender": notification.sender,
        "slot_id": notification.slot_id,
        "kind": notification.kind,
        "mentions_us": notification.mentions_us,
        "mentions_room": notification.mentions_room,
        "expires_ts_ms": notification.expires_ts_ms,
        "intent": notification.intent,
    }
