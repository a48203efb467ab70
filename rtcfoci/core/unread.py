"""Sticky events of a room that cannot be read yet, any of which may be a membership: told as a condition.

In: the room's events and time; what comes out is the condition `memberships_unread`.
Out: decrypting them (`rtcfoci.matrix.megolm`), and what they say once they are read (`session`).
"""

from __future__ import annotations

from collections.abc import Callable

from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.model import Now, RoomEvent
from rtcfoci.core.sticky import sticky_expires_ts_ms

__all__ = ["Unread"]

_GRACE_MS = 5_000
"""A key is a moment behind its event as often as before it; and how often the count is told."""
_MAX_HELD = 500
_MAX_NAMED = 3
_MAX_NAME = 100


class Unread:
    """Counts what the members of one room have sent and we cannot read.

    :param in_room: tells whether a user is joined to the room.
    """

    def __init__(self, in_room: Callable[[str], bool]) -> None:
        self._in_room = in_room
        self._held: dict[str, tuple[str, int]] = {}
        """Sender, and when it is no longer sticky, by event id."""
        self._raised = False
        self.next_timer_ts_ms: int | None = None
        """Wall clock at which `timer` has something to do next; None for never."""

    def receive(self, event: RoomEvent, now: Now) -> tuple[RaiseCondition | ClearCondition, ...]:
        """Take one event of the room; one that was read late comes again, as what it says."""
        sealed = event.type == "m.room.encrypted" and event.sticky_duration_ms is not None
        if event.encrypted or event.redacts is not None:
            known = self._held.pop(event.redacts or event.event_id, None)
            if not self._held:
                return self._clear()
            if known is not None:
                self._look_by(now.ts_ms + _GRACE_MS)
        elif sealed and len(self._held) < _MAX_HELD:
            expires_ts_ms = sticky_expires_ts_ms(event)
            if expires_ts_ms > now.ts_ms:
                self._held[event.event_id] = (event.sender, expires_ts_ms)
                self._look_by(now.ts_ms + _GRACE_MS)
        elif event.type == "m.room.member" and self._held:
            self._look_by(now.ts_ms + _GRACE_MS)
        return ()

    def timer(self, now: Now) -> tuple[RaiseCondition | ClearCondition, ...]:
        """Say how it stands."""
        if self.next_timer_ts_ms is None or now.ts_ms < self.next_timer_ts_ms:
            return ()
        self._held = {id_: held for id_, held in self._held.items() if held[1] > now.ts_ms}
        self.next_timer_ts_ms = min((until for _, until in self._held.values()), default=None)
        senders = [sender for sender, _ in self._held.values() if self._in_room(sender)]
        if not senders:
            return self._clear()
        self._raised = True
        users = sorted(set(senders))
        named = ", ".join(user[:_MAX_NAME] for user in users[:_MAX_NAMED])
        more = ", ..." if len(users) > _MAX_NAMED else ""
        cause = f"events without a key: {len(senders)}, of {named}{more}"
        return (RaiseCondition(code="memberships_unread", cause=cause),)

    def _look_by(self, ts_ms: int) -> None:
        due_ts_ms = self.next_timer_ts_ms
        self.next_timer_ts_ms = ts_ms if due_ts_ms is None else min(due_ts_ms, ts_ms)

    def _clear(self) -> tuple[ClearCondition, ...]:
        if not self._raised:
            return ()
        self._raised = False
        return (ClearCondition(code="memberships_unread"),)
