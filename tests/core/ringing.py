"""A room with people who ring each other, for tests of notifications."""

from __future__ import annotations

from rtcfoci.core.dialects.notification import NOTIFICATION_TYPES, write_decline, write_notification
from rtcfoci.core.notifications import (
    NotificationEnded,
    NotificationIgnored,
    Notifications,
    NotificationStarted,
)
from rtcfoci.core.session import Session

US, ANN, BOB = "@us:hs", "@ann:hs", "@bob:hs"
T = 1_750_000_000_000


class House:
    """A room with everybody in it, and what one of us is told of its calls."""

    def __init__(self, room, **options):
        self.room, self.at_ms, self.told = room, T, []
        self.session = Session(room.slot, room.dialects)
        self.bell = Notifications(self.session, user_id=US, device_id="US", **options)
        for user in (US, ANN, BOB):
            self.take(room.presence(user, T))
        self.told.clear()

    def take(self, event, at_ms=None):
        self.at_ms = max(self.at_ms, at_ms or event.received_ts_ms)
        now = self.room.now(self.at_ms)
        news = self.bell.receive(event, self.session.receive(event, now), now)
        self.told += news
        return list(news)

    def wait(self, at_ms):
        self.at_ms = at_ms
        now = self.room.now(at_ms)
        news = self.bell.handle_timer(now, self.session.handle_timer(now))
        self.told += news
        return list(news)

    def state(self, kind, content, key="", sender=ANN, ts_ms=T):
        return self.take(self.room.event(kind, content, ts_ms, sender, state_key=key))

    def joins(self, user, device="DEV", ts_ms=T, **more):
        own = self.room.own(user, device, f"{user}{device}")
        event = self.room.write(self.room.superset, "join", ts_ms, own, **more)
        self.take(event)
        return event

    def leaves(self, user, device="DEV", ts_ms=T):
        own = self.room.own(user, device, f"{user}{device}")
        return self.take(self.room.write(self.room.superset, "leave", ts_ms, own))

    def event(self, content, ts_ms=T, sender=ANN, kind=NOTIFICATION_TYPES[0], **more):
        return self.room.event(kind, content, ts_ms, sender, **more)

    def ring(self, ts_ms=T, sender=ANN, *, users=(US,), sticky=True, **changes):
        """The notification as we write it ourselves; a change to None leaves a field out."""
        written = write_notification(
            self.room.slot,
            membership_id="$member",
            user_ids=users,
            room=not users,
            kind="ring",
            sender_ts_ms=ts_ms,
            lifetime_ms=90_000,
        )
        content = {**written.content, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        duration_ms = written.sticky_duration_ms if sticky else None
        return self.event(content, ts_ms, sender, sticky_duration_ms=duration_ms)

    def decline(self, notification, sender=US, ts_ms=T, **more):
        written = write_decline(notification.event_id)
        return self.room.event(
            written.type, {**written.content, **more}, ts_ms, sender,
            sticky_duration_ms=written.sticky_duration_ms,
        )  # fmt: skip


def codes(news):
    """The codes of what was ignored; nothing else may have been told."""
    assert all(isinstance(item, NotificationIgnored) for item in news), news
    return [problem.code for item in news for problem in item.problems]


def ends(news):
    return [item.reason for item in news if isinstance(item, NotificationEnded)]


def started(news):
    assert [type(item) for item in news] == [NotificationStarted], news
    return news[0].notification
