"""Who is in a session: from the memberships of keys to members, in order, with what changed.

In: memberships as they become current or cease to be (by key), who is in the room, what the room says;
out come typed diffs and the members, sorted when they are asked for.
Out: which event of a key is current, and time (`session`); the rule (`policies`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from rtcfoci.core.diffs import (
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SessionDiff,
)
from rtcfoci.core.model import Member, Membership, SlotStatus
from rtcfoci.core.policies import STATE_TYPE, STICKY_TYPE, ReadingPolicy, RoomView
from rtcfoci.core.sticky import StickyKey
from rtcfoci.errors import Problem

__all__ = ["EntryKey", "Roster", "event_type_of"]

EntryKey: TypeAlias = tuple[str, str] | StickyKey
"""(type, state key) of a state event, or the key of a sticky one."""
_DeviceKey: TypeAlias = tuple[object, ...]
"""User id, device id, and the member id when the device is not known; under a policy that lists every
membership of a device, user id, key and number."""
_Place: TypeAlias = tuple[int, str, str, str]
"""Time of joining, then `Member.order`."""
_Newness: TypeAlias = tuple[int, str, EntryKey, int]
"""Sorts the memberships of one device: the last joined is the last. Ends with key and number."""


_HIDDEN = Problem("superseded", "a sticky event has its state key for a sticky key")
_KEY_MISMATCH = Problem("sticky_key_mismatch", "its sticky key is not its member.id")


@dataclass(frozen=True, slots=True)
class _Live:
    """A current membership for this slot that has not expired."""

    membership: Membership
    key: EntryKey
    number: int
    """Which of the key's memberships this is."""
    device: _DeviceKey
    refused: Problem | None
    """Why the policy does not count it."""


class Roster:
    """The members of one slot under one policy."""

    def __init__(self, policy: ReadingPolicy) -> None:
        self.policy = policy
        self.room: RoomView = RoomView()
        self._live: dict[EntryKey, Sequence[_Live]] = {}
        self._of_device: dict[_DeviceKey, tuple[_Live, ...]] = {}
        """What counts of a device; what joined last is the last."""
        self._of_user: dict[str, dict[_DeviceKey, None]] = {}
        self._in_room: set[str] = set()
        self._sticky_keys: dict[str, set[StickyKey]] = {}
        """By text, the sticky keys that hold something: where the policy lets them hide state."""
        self._shown: dict[_DeviceKey, Membership] = {}
        self._order: list[tuple[_Place, _DeviceKey]] = []
        """Who is shown, in order; up to date once `members` was asked for."""
        self._moved: dict[_DeviceKey, None] = {}
        """Whose place changed since: a burst of events costs one sort."""

    # What it is asked

    @property
    def members(self) -> tuple[Membership, ...]:
        """Everybody, by (time of joining, user, device, member id)."""
        if self._moved:
            placed = [entry for entry in self._order if entry[1] not in self._moved]
            placed.extend(
                (_place(membership), device)
                for device in self._moved
                if (membership := self._shown.get(device)) is not None
            )
            placed.sort()  # linear where little moved
            self._order, self._moved = placed, {}
        return tuple(self._shown[device] for _, device in self._order)

    def __len__(self) -> int:
        return len(self._shown)

    def find(self, user_id: str, device_id: str) -> Membership | None:
        """Give back the membership of a device, None when it has none."""
        if self.policy.one_per_device:
            return self._shown.get((user_id, device_id, ""))
        return next((m for m in self.of_user(user_id) if m.member.device_id == device_id), None)

    def has(self, member: Member) -> bool:
        """Tell whether exactly this member, member id included, is in."""
        if self.policy.one_per_device:
            shown = self._shown.get(_device_key(member))
            return shown is not None and shown.member == member
        return any(m.member == member for m in self.of_user(member.user_id))

    def shows(self, key: EntryKey, number: int) -> bool:
        """Tell whether this membership of a key is a member."""
        live = self._live[key][number]
        shown = self._shown.get(live.device)
        return shown is not None and self._of_device[live.device][-1] is live

    def live(self, key: EntryKey) -> Sequence[Membership]:
        """Give back what a key says now."""
        return [live.membership for live in self._live.get(key, ())]

    def in_room(self, user_id: str) -> bool:
        """Tell whether a user is joined to the room."""
        return user_id in self._in_room

    @property
    def entries(self) -> int:
        """How many keys say something now."""
        return len(self._live)

    def of_user(self, user_id: str) -> tuple[Membership, ...]:
        """Give back every membership of a user that is a member."""
        devices = self._of_user.get(user_id, ())
        return tuple(self._shown[device] for device in devices if device in self._shown)

    # What it is told

    def put(
        self,
        key: EntryKey,
        memberships: Sequence[Membership],
        reason: LeftReason,
        diffs: list[SessionDiff],
    ) -> None:
        """Set what a key says now: memberships for this slot that have not expired.

        :param reason: why, if somebody is no longer a member for it.
        """
        before = self._live.pop(key, ())
        for live in before:
            if live.refused is None:
                self._drop(live)
        now = [self._judge(key, n, membership) for n, membership in enumerate(memberships)]
        if now:
            self._live[key] = now
        for live in now:
            if live.refused is None:
                others = self._of_device.get(live.device, ())
                at = bisect_left(others, _newness(live), key=_newness)
                self._of_device[live.device] = (*others[:at], live, *others[at:])
                self._of_user.setdefault(live.membership.member.user_id, {})[live.device] = None
        kept = [live.device for live in now]
        for live in before:
            if live.device not in kept:
                self._show(live.device, reason, diffs)
        for device in kept:
            self._show(device, reason, diffs)

    def set_in_room(self, user_id: str, joined: bool, diffs: list[SessionDiff]) -> None:
        """Take note that a user is joined to the room or not."""
        if joined == (user_id in self._in_room):
            return
        (self._in_room.add if joined else self._in_room.discard)(user_id)
        for device in tuple(self._of_user.get(user_id, ())):
            self._show(device, LeftReason.NOT_IN_ROOM, diffs)

    def look(self, room: RoomView, diffs: list[SessionDiff]) -> None:
        """Judge everybody anew after the room changed."""
        if room == self.room:
            return
        self.room = room
        for key in tuple(self._live):
            self._judge_again(key, LeftReason.SLOT, diffs)

    def set_sticky(self, key: StickyKey, holds: bool, diffs: list[SessionDiff]) -> None:
        """Take note that a sticky key holds something or not, under a policy by which it hides state."""
        if key[1] != STICKY_TYPE:
            return
        same = self._sticky_keys.setdefault(key[2], set())
        (same.add if holds else same.discard)(key)
        if not same:
            del self._sticky_keys[key[2]]
        self._judge_again((STATE_TYPE, key[2]), LeftReason.REPLACED, diffs)

    def refusal(self, key: EntryKey, membership: Membership) -> Problem | None:
        """Say why a membership does not count here, whatever else it says; None when it does."""
        policy, room = self.policy, self.room
        if len(key) == 3:
            if policy.key_is_member_id and key[2] != membership.member.member_id:
                return _KEY_MISMATCH
        elif (
            policy.sticky_hides_state
            and key[1] in self._sticky_keys
            and room.slot_status is not SlotStatus.CLOSED
        ):
            return _HIDDEN
        return policy.refuses(membership, event_type_of(key), room)

    def _judge_again(self, key: EntryKey, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        held = self._live.get(key, ())
        if any(live.refused != self.refusal(key, live.membership) for live in held):
            self.put(key, [live.membership for live in held], reason, diffs)

    def _judge(self, key: EntryKey, number: int, membership: Membership) -> _Live:
        member = membership.member
        return _Live(
            membership,
            key,
            number,
            _device_key(member) if self.policy.one_per_device else (member.user_id, *key, number),
            self.refusal(key, membership),
        )

    def _drop(self, live: _Live) -> None:
        held = self._of_device[live.device]
        at = bisect_left(held, _newness(live), key=_newness)
        if len(held) > 1:
            self._of_device[live.device] = held[:at] + held[at + 1 :]
        else:
            del self._of_device[live.device]
            user_id = live.membership.member.user_id
            devices = self._of_user[user_id]
            del devices[live.device]
            if not devices:
                del self._of_user[user_id]

    def _show(self, device: _DeviceKey, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        """Bring what is shown of a device in line with its newest membership, and say what changed."""
        old = self._shown.get(device)
        held = self._of_device.get(device)
        new = held[-1].membership if held and device[0] in self._in_room else None
        if old is new or (old and new and old.event_id == new.event_id and old == new):
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


def event_type_of(key: EntryKey) -> str:
    """Give the event type of a key."""
    return key[1] if len(key) == 3 else key[0]


def _device_key(member: Member) -> _DeviceKey:
    return member.user_id, member.device_id, "" if member.device_id else member.member_id


def _newness(live: _Live) -> _Newness:
    membership = live.membership
    return membership.created_ts_ms, membership.event_id, live.key, live.number


def _place(membership: Membership) -> _Place:
    return (membership.created_ts_ms, *membership.member.order)


_words = attrgetter(
    "transports", "can_subscribe", "focus_selection", "application", "created_ts_ms", "slot_id",
    "dialect", "encrypted",
)  # fmt: skip
"""What a member says, apart from who it is, in which event, and for how long."""
