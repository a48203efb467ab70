"""The members joined to one slot now, folded from events one at a time.

In: room events and time; out come typed diffs. Each event costs its own size, the logarithm of the
number of members, and the size of what changed. Out: the diffs themselves (`diffs`), how events are
read (`dialects`), which sticky event is current (`sticky`), and which focus to use (`selection`).

Which of a device's memberships counts is decided in three steps:

1. of one key (a state key, or a sticky key) one event is current: of state the last to arrive, since
   that is the homeserver's order, of sticky events the winner of MSC4354, whatever came first;
2. a current membership counts when it is for this slot, has not expired, its sender is joined to the
   room, and the policy lets it;
3. of one device the membership that joined last is the member.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TypeAlias

from rtcfoci.core.dialects import Dialect, Leave, Parsed, Problems, parse_event
from rtcfoci.core.diffs import (
    EventIgnored,
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SessionDiff,
    SlotChanged,
)
from rtcfoci.core.model import Member, Membership, Now, RoomEvent, Slot, SlotStatus
from rtcfoci.core.slots import SLOT_EVENT_TYPES, asks_encryption, read_slot
from rtcfoci.core.sticky import StickyKey, StickyMap, read_sticky_key
from rtcfoci.errors import Problem

__all__ = [
    "Counts",
    "EventIgnored",
    "LeftReason",
    "MemberChanged",
    "MemberJoined",
    "MemberLeft",
    "MemberRefreshed",
    "RoomView",
    "Session",
    "SessionDiff",
    "SlotChanged",
    "as_deployed",
]

_MAX_EARLY_REDACTIONS = 256
"""How many redactions are remembered for events that may still come, or come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomView:
    """What the room says that bears on who counts."""

    slot_status: SlotStatus = SlotStatus.ABSENT
    slot_encrypted: bool = False
    """Whether the slot asks its members for encryption."""
    room_encrypted: bool = False


Counts: TypeAlias = Callable[[Membership, bool, RoomView], bool]
"""The replaceable rule (membership, whether it is sticky, room): a pure function that never raises."""


def as_deployed(membership: Membership, sticky: bool, room: RoomView) -> bool:
    """Count as deployed clients do: a closed slot hides sticky members, an absent one nobody."""
    return not sticky or room.slot_status is not SlotStatus.CLOSED


_REDACTED = Leave(dialect="")
"""What a redacted event says: the server empties it."""
_EntryKey: TypeAlias = tuple[str, str] | StickyKey
"""(type, state key) of a state event, or the key of a sticky one."""
_DeviceKey: TypeAlias = tuple[str, str | None, str]
"""User id and device id; the member id when the device is not known."""
_Rank: TypeAlias = tuple[int, str]
"""Origin's time and event id."""
_Place: TypeAlias = tuple[int, bytes, bytes, bytes]
"""Time of joining, then `Member.order`."""
_Newness: TypeAlias = tuple[int, str, _EntryKey]
"""Sorts the memberships of one device: the last joined is the last."""


@dataclass(frozen=True, slots=True)
class _Live:
    """A current membership for this slot that has not expired."""

    membership: Membership
    device: _DeviceKey
    newness: _Newness
    counted: bool


class Session:
    """The members of one slot.

    :param dialects: every generation to be read; the first that knows an event reads it.
    :param counts: which memberships count; by default as deployed clients do.
    """

    def __init__(
        self, slot: Slot, dialects: Sequence[Dialect], *, counts: Counts = as_deployed
    ) -> None:
        self.slot = slot
        self.room: RoomView = RoomView()
        """What the room says that bears on who counts."""
        self._counts = counts
        self._readers: dict[str, list[Dialect]] = {}
        for dialect in dialects:
            for event_type in dialect.event_types:
                self._readers.setdefault(event_type, []).append(dialect)
        self._sticky_types = {t for d in dialects if d.sticky for t in d.event_types}
        self._state: dict[_EntryKey, _Rank] = {}
        """The current state event of each key."""
        self._state_key_of: dict[str, _EntryKey] = {}
        """Of current state events only: for redactions."""
        self._sticky: StickyMap[Parsed] = StickyMap()
        self._chain_ts_ms: dict[StickyKey, int] = {}
        """When the present join of a sticky key began."""
        self._expiries: list[tuple[int, _EntryKey]] = []
        self._live: dict[_EntryKey, _Live] = {}
        self._of_device: dict[_DeviceKey, list[_Newness]] = {}
        self._of_user: dict[str, dict[_DeviceKey, None]] = {}
        self._in_room: set[str] = set()
        self._early_redactions: dict[str, None] = {}
        self._shown: dict[_DeviceKey, Membership] = {}
        self._order: list[tuple[_Place, _DeviceKey]] = []
        """Who is shown, in order; up to date once `members` was asked for."""
        self._moved: dict[_DeviceKey, None] = {}
        """Whose place changed since: a burst of events costs one sort."""

    @property
    def members(self) -> tuple[Membership, ...]:
        """Everybody in the session, ourselves included, by (time of joining, user, device, member id)."""
        if self._moved:
            stay = [placed for placed in self._order if placed[1] not in self._moved]
            stay.extend(
                (_place(membership), device)
                for device in self._moved
                if (membership := self._shown.get(device)) is not None
            )
            stay.sort()  # linear where little moved
            self._order, self._moved = stay, {}
        return tuple(self._shown[device] for _, device in self._order)

    def __len__(self) -> int:
        return len(self._shown)

    @property
    def slot_status(self) -> SlotStatus:
        """What the slot event says."""
        return self.room.slot_status

    @property
    def next_timer_ts_ms(self) -> int | None:
        """Wall clock at which `handle_timer` has something to do next; None for never."""
        while self._expiries and not self._is_due(*self._expiries[0]):
            heapq.heappop(self._expiries)
        state = self._expiries[0][0] if self._expiries else None
        sticky = self._sticky.next_expiry_ts_ms
        if state is None or sticky is None:
            return sticky if state is None else state
        return min(state, sticky)

    def find(self, user_id: str, device_id: str) -> Membership | None:
        """Give back the membership of a device, None when it is not in the session."""
        return self._shown.get((user_id, device_id, ""))

    def has(self, member: Member) -> bool:
        """Tell whether exactly this member, member id included, is in the session."""
        shown = self._shown.get(_device_key(member))
        return shown is not None and shown.member == member

    def handle_timer(self, now: Now) -> tuple[SessionDiff, ...]:
        """Let go of what has expired."""
        diffs: list[SessionDiff] = []
        self._expire(now, diffs)
        return tuple(diffs)

    def receive(self, event: RoomEvent, now: Now) -> tuple[SessionDiff, ...]:
        """Take one event of the room: state, sticky or redaction; others cost nothing."""
        diffs: list[SessionDiff] = []
        self._expire(now, diffs)
        readers = self._readers.get(event.type)
        if event.redacts is not None:
            self._redact(event.redacts, diffs)
        elif readers is not None:
            self._membership_event(readers, event, now, diffs)
        elif event.state_key is None:
            pass
        elif event.type == "m.room.member":
            self._room_member(event.state_key, event, diffs)
        elif event.type in SLOT_EVENT_TYPES and event.state_key == self.slot.slot_id:
            if self._supersede((event.type, event.state_key), event):
                self._slot_event(event.type, event.content, diffs)
        elif event.type == "m.room.encryption" and event.state_key == "":
            # Encryption is never switched off again (Matrix, m.room.encryption).
            self._look(replace(self.room, room_encrypted=True), diffs)
        return tuple(diffs)

    # One event at a time.

    def _membership_event(
        self, readers: list[Dialect], event: RoomEvent, now: Now, diffs: list[SessionDiff]
    ) -> None:
        content: object = event.content
        if event.event_id in self._early_redactions:
            parsed: Parsed = _REDACTED
            content = None
        elif not isinstance(content, dict):
            parsed = Problems((Problem("wrong_type", "content is not an object"),))
        else:
            parsed = parse_event(readers, event, self.slot.room_id)
        if isinstance(parsed, Problems):
            diffs.append(EventIgnored(event.event_id, event.sender, parsed.problems))
        if event.type in self._sticky_types:
            sticky_key = read_sticky_key(content) if isinstance(content, dict) else None
            if isinstance(sticky_key, str):
                key = self._sticky.add(event, sticky_key, parsed, now)
                if key is not None:
                    self._follow_sticky(key, _why(parsed), diffs)
        elif event.state_key is not None:
            self._state_event((event.type, event.state_key), event, parsed, now, diffs)

    def _state_event(
        self,
        key: _EntryKey,
        event: RoomEvent,
        parsed: Parsed,
        now: Now,
        diffs: list[SessionDiff],
    ) -> None:
        if not self._supersede(key, event):
            return
        membership = parsed if isinstance(parsed, Membership) else None
        if membership is not None:
            if membership.expires_ts_ms <= now.ts_ms:
                membership = None
            elif membership.slot_id == self.slot.slot_id:
                self._await_expiry(membership.expires_ts_ms, key)
        reason = LeftReason.EXPIRED if isinstance(parsed, Membership) else _why(parsed)
        self._put(key, membership, reason, diffs)

    def _supersede(self, key: _EntryKey, event: RoomEvent) -> bool:
        """Make an event the current one of its state key; False when it is that already.

        State follows the order of arrival, which is the homeserver's: a delayed leave that fires
        while its server restarts can be older than the membership it empties.
        """
        _, current_id = self._state.get(key, (0, None))
        if current_id == event.event_id:
            return False
        if current_id is not None:
            self._state_key_of.pop(current_id, None)
        self._state[key] = event.origin_server_ts_ms, event.event_id
        self._state_key_of[event.event_id] = key
        return True

    def _follow_sticky(self, key: StickyKey, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        """Bring a sticky key's membership in line with its winner.

        Refreshes repeat the membership: it began with the first of them since the last leave. What
        has expired since is remembered in `_chain_ts_ms`.
        """
        history = self._sticky.history(key)
        if not history:
            self._chain_ts_ms.pop(key, None)
            self._put(key, None, reason, diffs)
            return
        winner = history[0].value
        if not isinstance(winner, Membership):
            if isinstance(winner, Leave):
                self._chain_ts_ms.pop(key, None)
            self._put(key, None, reason, diffs)
            return
        began = [winner.created_ts_ms]
        for entry in history:
            if isinstance(entry.value, Membership) and entry.value.member == winner.member:
                began.append(entry.origin_server_ts_ms)
            elif not isinstance(entry.value, Problems):
                break  # a leave, or another member under the same key: another join
        else:
            began.append(self._chain_ts_ms.get(key, began[0]))
        created_ts_ms = self._chain_ts_ms[key] = min(began)
        if created_ts_ms != winner.created_ts_ms:
            winner = replace(winner, created_ts_ms=created_ts_ms)
        self._put(key, winner, reason, diffs)

    def _redact(self, event_id: str, diffs: list[SessionDiff]) -> None:
        self._early_redactions[event_id] = None
        if len(self._early_redactions) > _MAX_EARLY_REDACTIONS:
            del self._early_redactions[next(iter(self._early_redactions))]
        state_key = self._state_key_of.get(event_id)
        if state_key is not None and state_key[0] in SLOT_EVENT_TYPES:
            self._slot_event(state_key[0], {}, diffs)
        elif state_key is not None:
            # Redacted state is empty, which is a leave; there is no way back to its predecessor.
            self._put(state_key, None, LeftReason.REDACTED, diffs)
        sticky_key = self._sticky.redact(event_id)
        if sticky_key is not None:
            self._follow_sticky(sticky_key, LeftReason.REDACTED, diffs)

    def _room_member(self, user_id: str, event: RoomEvent, diffs: list[SessionDiff]) -> None:
        content: object = event.content
        joined = isinstance(content, dict) and content.get("membership") == "join"
        if joined == (user_id in self._in_room):
            return
        if joined:
            self._in_room.add(user_id)
        else:
            self._in_room.discard(user_id)
        for device in tuple(self._of_user.get(user_id, ())):
            self._show(device, LeftReason.NOT_IN_ROOM, diffs)

    def _slot_event(self, event_type: str, content: object, diffs: list[SessionDiff]) -> None:
        # The stable and the unstable type may both be there: the newer one counts.
        ranks = {
            kind: rank
            for kind in SLOT_EVENT_TYPES
            if (rank := self._state.get((kind, self.slot.slot_id))) is not None
        }
        if max(ranks, key=ranks.__getitem__) != event_type:
            return
        status = read_slot(content, self.slot.application)
        if status is not self.room.slot_status:
            diffs.append(SlotChanged(status))
        encrypted = asks_encryption(content)
        self._look(replace(self.room, slot_status=status, slot_encrypted=encrypted), diffs)

    def _look(self, room: RoomView, diffs: list[SessionDiff]) -> None:
        """Judge everybody anew after the room changed."""
        if room == self.room:
            return
        self.room = room
        for key, live in tuple(self._live.items()):
            if live.counted != self._counts(live.membership, len(key) == 3, room):
                self._put(key, live.membership, LeftReason.SLOT, diffs)

    # Time.

    def _await_expiry(self, expires_ts_ms: int, key: _EntryKey) -> None:
        if len(self._expiries) > 2 * len(self._live) + 64:
            # Superseded expiries may lie far ahead: without this a member could pile them up.
            self._expiries = [entry for entry in self._expiries if self._is_due(*entry)]
            heapq.heapify(self._expiries)
        heapq.heappush(self._expiries, (expires_ts_ms, key))

    def _is_due(self, expires_ts_ms: int, key: _EntryKey) -> bool:
        live = self._live.get(key)
        return live is not None and live.membership.expires_ts_ms == expires_ts_ms

    def _expire(self, now: Now, diffs: list[SessionDiff]) -> None:
        while self._expiries and self._expiries[0][0] <= now.ts_ms:
            expires_ts_ms, state_key = heapq.heappop(self._expiries)
            if self._is_due(expires_ts_ms, state_key):
                self._put(state_key, None, LeftReason.EXPIRED, diffs)
        for sticky_key in self._sticky.expire(now):
            self._follow_sticky(sticky_key, LeftReason.EXPIRED, diffs)

    # Memberships, devices, members.

    def _put(
        self,
        key: _EntryKey,
        membership: Membership | None,
        reason: LeftReason,
        diffs: list[SessionDiff],
    ) -> None:
        """Set what a key says now; memberships of other slots say nothing here."""
        if membership is not None and membership.slot_id != self.slot.slot_id:
            membership, reason = None, LeftReason.LEFT
        before = self._live.pop(key, None)
        if before is not None and before.counted:
            self._drop(before)
        device = None
        if membership is not None:
            device = _device_key(membership.member)
            counted = self._counts(membership, len(key) == 3, self.room)
            newness = (membership.created_ts_ms, membership.event_id, key)
            self._live[key] = _Live(membership, device, newness, counted)
            if counted:
                insort(self._of_device.setdefault(device, []), newness)
                self._of_user.setdefault(device[0], {})[device] = None
        if before is not None and before.device != device:
            self._show(before.device, reason, diffs)
        if device is not None:
            self._show(device, reason, diffs)

    def _drop(self, live: _Live) -> None:
        newnesses = self._of_device[live.device]
        del newnesses[bisect_left(newnesses, live.newness)]
        if not newnesses:
            del self._of_device[live.device]
            devices = self._of_user[live.device[0]]
            del devices[live.device]
            if not devices:
                del self._of_user[live.device[0]]

    def _show(self, device: _DeviceKey, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        """Bring what is shown of a device in line with its newest membership, and say what changed."""
        old = self._shown.get(device)
        newnesses = self._of_device.get(device)
        new = None
        if newnesses and device[0] in self._in_room:
            new = self._live[newnesses[-1][2]].membership
        if old == new:
            return
        if new is not None:
            self._shown[device] = new
        else:
            del self._shown[device]
        if old is None or new is None or old.member != new.member:
            self._moved[device] = None
            if old is not None:
                diffs.append(MemberLeft(old, reason if new is None else LeftReason.REPLACED))
            if new is not None:
                diffs.append(MemberJoined(new))
            return
        if old.created_ts_ms != new.created_ts_ms:
            self._moved[device] = None
        kind = MemberRefreshed if _words(old) == _words(new) else MemberChanged
        diffs.append(kind(old, new))


def _why(parsed: Parsed) -> LeftReason:
    return LeftReason.INVALID if isinstance(parsed, Problems) else LeftReason.LEFT


def _device_key(member: Member) -> _DeviceKey:
    return member.user_id, member.device_id, "" if member.device_id else member.member_id


def _place(membership: Membership) -> _Place:
    return (membership.created_ts_ms, *membership.member.order)


_words = attrgetter(
    "transports", "can_subscribe", "focus_selection", "application", "created_ts_ms", "slot_id",
    "dialect", "encrypted",
)  # fmt: skip
"""What a member says, apart from who it is, in which event, and for how long."""
