"""Who calls us, in one slot, and who declines: notifications by the receiving rules of MSC4075.

In: room events beside what they change in the session, and time; out come typed diffs. A notification starts
once, if ever, and ends with a reason; each that does not count is given the reason by a published code.
Out: how they are read and written (`dialects.notification`), who is in the call (`session`), sounds.

A notification counts when all of this holds (MSC4075, Receiving; matrix-js-sdk 43 does the same):

- it is not our own, its time is not over, and its sender is in the room;
- if it is sticky: it is the current one of its sender for this slot, and not withdrawn;
- the slot is not closed (or open, where `requires_slot` asks for that); without a `slot_id`, the membership
  of the sender that it refers to is in this slot;
- it mentions us, or, with the power to do that, the room;
- we are not in the call, did not leave it since, and did not decline.

Everything is judged anew when something changes, so that it does not matter in which order events come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias, TypeVar

from rtcfoci.core.dialects import Problems
from rtcfoci.core.dialects.notification import (
    DECLINE_TYPES,
    NOTIFICATION_TYPES,
    NOTIFY_TYPES,
    Notification,
    Withdrawal,
    read_decline,
    read_notification,
)
from rtcfoci.core.diffs import (
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SessionDiff,
)
from rtcfoci.core.model import Membership, Now, RoomEvent, SlotStatus
from rtcfoci.core.power import RoomPower
from rtcfoci.core.session import Session
from rtcfoci.core.sticky import StickyMap, read_sticky_key
from rtcfoci.errors import Problem

__all__ = [
    "Notification",
    "NotificationDeclined",
    "NotificationDiff",
    "NotificationEnd",
    "NotificationEnded",
    "NotificationIgnored",
    "NotificationStarted",
    "Notifications",
]

_K = TypeVar("_K")
_MAX_HELD = 64
"""Notifications kept at a time, whether they count or not."""
_MAX_HELD_PER_USER = 4
_MAX_DECLINERS = 1024
"""Of one notification, more declines than these are not told."""
_MAX_REMEMBERED = 256
"""Own declines, early declines of others, and early redactions: so many of each."""


class NotificationEnd(Enum):
    """Why a notification that counted no longer does."""

    ANSWERED = "answered"
    """We are in the call, with this device."""
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    """We are in the call, with another device."""
    DECLINED = "declined"
    """We declined, here or elsewhere."""
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    """Its sender took it back, or it was redacted."""
    REPLACED = "replaced"
    """By a later notification of its sender."""
    CALL_OVER = "call_over"
    """Nobody is in the call any more."""
    SLOT = "slot"
    """The slot was closed."""
    REFUSED = "refused"
    """Its sender left the room, or may no longer mention it."""


@dataclass(frozen=True, slots=True)
class NotificationStarted:
    """Somebody calls us."""

    notification: Notification


@dataclass(frozen=True, slots=True)
class NotificationEnded:
    """It is over; it does not start again."""

    notification: Notification
    reason: NotificationEnd


@dataclass(frozen=True, slots=True)
class NotificationDeclined:
    """A user declined a notification, which may be one of ours, or for others."""

    notification: Notification
    user_id: str


@dataclass(frozen=True, slots=True)
class NotificationIgnored:
    """A notification or decline does not count, or not yet."""

    event_id: str
    sender: str
    problems: tuple[Problem, ...]


NotificationDiff: TypeAlias = (
    NotificationStarted | NotificationEnded | NotificationDeclined | NotificationIgnored
)

_OWN = Problem("own_event", "we sent it ourselves")
_OTHER_SLOT = Problem("other_slot", "it is for another slot")
_NO_MEMBERSHIP = Problem(
    "unknown_membership", "the membership that it refers to is not its sender's in this slot"
)
_WRONG_KEY = Problem("sticky_key_mismatch", "the sticky key is not the slot's id")
_NOT_MENTIONED = Problem("not_mentioned", "it is not for us")
_NO_POWER = Problem("not_mentioned", "its sender may not mention the whole room")
_TOO_MANY = Problem("too_many", "more notifications are current than are kept")
_NOT_JOINED = Problem("sender_not_joined", "its sender is not joined to the room")
_JOINED = Problem("already_joined", "we are in the call")
_LEFT_SINCE = Problem("left_since", "we left the call after it was sent")
_DECLINED = Problem("declined", "we declined it")
_CLOSED = Problem("slot_closed", "the slot is closed")
_ABSENT = Problem("slot_absent", "the room has no such slot")
_SUPERSEDED = Problem("superseded", "its sender sent a later one")
_WITHDRAWN = Problem("withdrawn", "its sender took it back")
_EXPIRED = Problem("expired", "its time is over")

_ENDS = {
    "declined": NotificationEnd.DECLINED,
    "expired": NotificationEnd.EXPIRED,
    "left_since": NotificationEnd.ANSWERED,
    "slot_absent": NotificationEnd.SLOT,
    "slot_closed": NotificationEnd.SLOT,
    "superseded": NotificationEnd.REPLACED,
    "withdrawn": NotificationEnd.WITHDRAWN,
}


class _Held:
    """A notification whose time is not over."""

    __slots__ = ("decliners", "notification", "over", "shown", "sticky")

    def __init__(self, notification: Notification, sticky: tuple[str, str, str] | None) -> None:
        self.notification = notification
        self.sticky = sticky
        """Its key in the sticky map; None when it is not sticky, or of another key."""
        self.shown = False
        self.over = False
        self.decliners: set[str] = set()


class Notifications:
    """The notifications of one slot, as one device of one user receives them.

    :param session: the same slot's; it is given every event first.
    :param requires_slot: whether a room without this slot is silent, as the MSC and matrix-js-sdk 43 have it.
        No client creates slots yet, so by default an absent slot is as good as an open one.
    """

    def __init__(
        self, session: Session, *, user_id: str, device_id: str, requires_slot: bool = False
    ) -> None:
        self._session = session
        self._user_id = user_id
        self._device_id = device_id
        self._requires_slot = requires_slot
        self._power = RoomPower()
        self._held: dict[str, _Held] = {}
        self._of_sender: Counter[str] = Counter()
        self._sticky: StickyMap[bool] = StickyMap()
        """The sticky notifications for this slot, malformed ones too; True: a withdrawal."""
        self._declined: dict[str, None] = {}
        """What we declined."""
        self._early_declines: dict[tuple[str, str], None] = {}
        self._early_redactions: dict[str, None] = {}
        self._left_ts_ms: int | None = None
        """The origin's time of our latest leave from the slot."""

    @property
    def current(self) -> tuple[Notification, ...]:
        """Those that count now, oldest first."""
        return tuple(held.notification for held in self._held.values() if _counts(held))

    @property
    def power(self) -> RoomPower:
        """Who may do what in the room."""
        return self._power

    @property
    def next_timer_ts_ms(self) -> int | None:
        """Wall clock at which `handle_timer` has something to do next; None for never."""
        return min((held.notification.expires_ts_ms for held in self._held.values()), default=None)

    def handle_timer(
        self, now: Now, changes: Sequence[SessionDiff] = ()
    ) -> tuple[NotificationDiff, ...]:
        """Let go of what has expired.

        :param changes: what the same moment changed in the session.
        """
        diffs: list[NotificationDiff] = []
        self._expire(now, diffs)
        if changes:
            self._look(changes, None, now, diffs)
        return tuple(diffs)

    def receive(
        self, event: RoomEvent, changes: Sequence[SessionDiff], now: Now
    ) -> tuple[NotificationDiff, ...]:
        """Take one event of the room, and what it changed in the session; most events cost nothing."""
        diffs: list[NotificationDiff] = []
        self._expire(now, diffs)
        matters = bool(changes)
        if event.redacts is not None:
            self._redact(event.redacts, diffs)
            matters = True
        elif event.state_key is not None:
            power = self._power.after(event)
            matters |= power is not self._power or event.type == "m.room.member"
            self._power = power
        elif event.type in NOTIFICATION_TYPES or event.type in NOTIFY_TYPES:
            self._notification(event, now, diffs)
            matters = True
        elif event.type in DECLINE_TYPES:
            self._decline(event, diffs)
            matters = True
        elif event.sender == self._user_id and event.sticky_duration_ms is not None:
            self._own_leave(event, now)
        if matters:
            self._look(changes, event, now, diffs)
        return tuple(diffs)

    # One event at a time.

    def _notification(self, event: RoomEvent, now: Now, diffs: list[NotificationDiff]) -> None:
        if event.event_id in self._held or event.event_id in self._early_redactions:
            return
        found = read_notification(event, self._session.slot.room_id, self._user_id)
        sticky = self._file(event, isinstance(found, Withdrawal), now)
        if isinstance(found, Withdrawal):
            return
        if isinstance(found, Problems):
            diffs.append(NotificationIgnored(event.event_id, event.sender, found.problems))
            return
        held = _Held(self._resolved(found), sticky)
        slot_id = held.notification.slot_id
        problem: Problem | None
        if slot_id not in (None, self._session.slot.slot_id):
            problem = _OTHER_SLOT
        elif found.expires_ts_ms <= now.ts_ms:
            problem = _EXPIRED
        else:
            problem = self._why_not(held) if self._hold(held, diffs) else _TOO_MANY
        if problem is not None:
            diffs.append(NotificationIgnored(event.event_id, event.sender, (problem,)))
        # Declines may have overtaken it.
        for user_id in [user for of, user in self._early_declines if of == event.event_id]:
            del self._early_declines[event.event_id, user_id]
            self._tell_decline(held, user_id, diffs)

    def _file(self, event: RoomEvent, withdraws: bool, now: Now) -> tuple[str, str, str] | None:
        """File what is sticky for this slot, whatever it says, since it takes its predecessor's place."""
        if event.sticky_duration_ms is None:
            return None
        content: object = event.content
        key = read_sticky_key(content) if isinstance(content, dict) else None
        if key != self._session.slot.slot_id:
            return None
        self._sticky.expire(now)
        self._sticky.add(event, key, withdraws, now)
        return event.sender, event.type, key

    def _hold(self, held: _Held, diffs: list[NotificationDiff]) -> bool:
        """Keep a notification; False when there is no room for it."""
        notification = held.notification
        if self._of_sender[notification.sender] >= _MAX_HELD_PER_USER:
            self._drop(
                next(
                    event_id
                    for event_id, other in self._held.items()
                    if other.notification.sender == notification.sender
                ),
                NotificationEnd.REPLACED,
                diffs,
            )
        elif len(self._held) >= _MAX_HELD:
            idle = next((id_ for id_, other in self._held.items() if not _counts(other)), None)
            if idle is None:
                return False
            self._drop(idle, NotificationEnd.REPLACED, diffs)
        self._held[notification.event_id] = held
        self._of_sender[notification.sender] += 1
        return True

    def _drop(self, event_id: str, reason: NotificationEnd, diffs: list[NotificationDiff]) -> None:
        held = self._held.pop(event_id)
        sender = held.notification.sender
        self._of_sender[sender] -= 1
        if not self._of_sender[sender]:
            del self._of_sender[sender]
        self._end(held, reason, diffs)

    def _end(self, held: _Held, reason: NotificationEnd, diffs: list[NotificationDiff]) -> None:
        if _counts(held):
            held.over = True
            diffs.append(NotificationEnded(held.notification, reason))

    def _decline(self, event: RoomEvent, diffs: list[NotificationDiff]) -> None:
        found = read_decline(event)
        if isinstance(found, Problems):
            diffs.append(NotificationIgnored(event.event_id, event.sender, found.problems))
            return
        if event.sender == self._user_id:
            _remember(self._declined, found.event_id)
        held = self._held.get(found.event_id)
        if held is not None:
            self._tell_decline(held, event.sender, diffs)
        else:
            _remember(self._early_declines, (found.event_id, event.sender))

    def _tell_decline(self, held: _Held, user_id: str, diffs: list[NotificationDiff]) -> None:
        if user_id not in held.decliners and len(held.decliners) < _MAX_DECLINERS:
            held.decliners.add(user_id)
            diffs.append(NotificationDeclined(held.notification, user_id))

    def _redact(self, event_id: str, diffs: list[NotificationDiff]) -> None:
        _remember(self._early_redactions, event_id)
        self._sticky.redact(event_id)
        if event_id in self._held:
            self._drop(event_id, NotificationEnd.WITHDRAWN, diffs)

    def _own_leave(self, event: RoomEvent, now: Now) -> None:
        """Note a leave of ours that took nobody out of the session: we were not here to see who left."""
        content: object = event.content
        slot_id = content.get("slot_id") if isinstance(content, dict) else None
        if slot_id == self._session.slot.slot_id and any(
            problem.code == "left" for problem in self._session.explain(event, now)
        ):
            self._note_leave(event.origin_server_ts_ms)

    def _note_leave(self, ts_ms: int) -> None:
        self._left_ts_ms = max(ts_ms, self._left_ts_ms or ts_ms)

    # What the session says.

    def _look(
        self,
        changes: Sequence[SessionDiff],
        event: RoomEvent | None,
        now: Now,
        diffs: list[NotificationDiff],
    ) -> None:
        """Take from the session's changes what it will not say again, and judge anew."""
        for change in changes:
            match change:
                case MemberLeft(membership, LeftReason.LEFT):
                    if membership.member.user_id == self._user_id:
                        self._note_leave(event.origin_server_ts_ms if event else now.ts_ms)
                case (
                    MemberJoined(membership)
                    | MemberChanged(_, membership)
                    | MemberRefreshed(_, membership)
                ):
                    for held in self._held.values():
                        held.notification = self._tied(held.notification, (membership,))
        if self._held:
            left = any(isinstance(change, MemberLeft) for change in changes)
            self._judge_all(left and not self._others, diffs)

    def _resolved(self, notification: Notification) -> Notification:
        if notification.slot_id is not None:
            return notification
        return self._tied(notification, self._session.of_user(notification.sender))

    def _tied(self, notification: Notification, known: Iterable[Membership]) -> Notification:
        """Give a notification without a slot that of its sender's membership, if it is one of these."""
        if notification.slot_id is None and any(
            m.event_id == notification.membership_id and m.member.user_id == notification.sender
            for m in known
        ):
            return replace(notification, slot_id=self._session.slot.slot_id)
        return notification

    @property
    def _others(self) -> int:
        """How many members are not ours."""
        return len(self._session) - len(self._session.of_user(self._user_id))

    # The rules.

    def _judge_all(self, call_over: bool, diffs: list[NotificationDiff]) -> None:
        for held in self._held.values():
            if held.over:
                continue
            problem = self._why_not(held)
            if problem is not None and held.shown:
                self._end(held, self._reason(problem), diffs)
            elif call_over:
                self._end(held, NotificationEnd.CALL_OVER, diffs)
                held.over = True
            elif problem is None and not held.shown:
                held.shown = True
                diffs.append(NotificationStarted(held.notification))

    def _why_not(self, held: _Held) -> Problem | None:
        """Say why a notification whose time is not over does not count."""
        notification = held.notification
        sender = notification.sender
        if sender == self._user_id:
            return _OWN
        if held.sticky is not None:
            current = self._sticky.current(held.sticky)
            if current is None or current.event_id != notification.event_id:
                return _WITHDRAWN if current is not None and current.value else _SUPERSEDED
        if notification.slot_id is None:
            return _NO_MEMBERSHIP
        if notification.sticky_key not in (None, notification.slot_id):
            return _WRONG_KEY
        status = self._session.slot_status
        if status is SlotStatus.CLOSED:
            return _CLOSED
        if status is SlotStatus.ABSENT and self._requires_slot:
            return _ABSENT
        if not notification.mentions_us:
            if not notification.mentions_room:
                return _NOT_MENTIONED
            if not self._power.may_mention_room(sender):
                return _NO_POWER
        if not self._session.in_room(sender):
            return _NOT_JOINED
        if self._session.of_user(self._user_id):
            return _JOINED
        if self._left_ts_ms is not None and self._left_ts_ms >= notification.origin_server_ts_ms:
            return _LEFT_SINCE
        return _DECLINED if notification.event_id in self._declined else None

    def _reason(self, problem: Problem) -> NotificationEnd:
        if problem is _JOINED:
            here = self._session.find(self._user_id, self._device_id) is not None
            return NotificationEnd.ANSWERED if here else NotificationEnd.ANSWERED_ELSEWHERE
        return _ENDS.get(problem.code, NotificationEnd.REFUSED)

    def _expire(self, now: Now, diffs: list[NotificationDiff]) -> None:
        due_ts_ms = self.next_timer_ts_ms
        if due_ts_ms is not None and due_ts_ms <= now.ts_ms:
            for event_id, held in list(self._held.items()):
                if held.notification.expires_ts_ms <= now.ts_ms:
                    self._drop(event_id, NotificationEnd.EXPIRED, diffs)


def _counts(held: _Held) -> bool:
    return held.shown and not held.over


def _remember(seen: dict[_K, None], key: _K) -> None:
    seen[key] = None
    if len(seen) > _MAX_REMEMBERED:
        del seen[next(iter(seen))]
