"""Who is in a session: from the memberships of keys to members, in order, with what changed.

In: memberships as they become current or cease to be (by key), who is in the room, what the room says;
out come typed diffs and the members, sorted when they are asked for.
Out: which event of a key is current, and time (`session`); the rule (`policies`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
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

__all__ = ["EntryKey", "Roster"]

EntryKey: TypeAlias = tuple[str, str] | StickyKey
"""(type, state key) of a state event, or (sender, type, sticky key)."""

_HIDDEN = Problem("superseded", "a sticky event has its state key for a sticky key")
_KEY_MISMATCH = Problem("sticky_key_mismatch", "its sticky key is not its member.id")


@dataclass(slots=True, eq=False)
class _Device:
    """A device with memberships that count; under a policy that lists them all, one of its memberships."""

    user_id: str
    name: Hashable
    """Tells it from the other devices of its user."""
    held: tuple[_Live, ...] = ()
    """What counts; what joined last is the last."""
    shown: Membership | None = None
    """The member that it is: what joined last, if its user is in the room."""


@dataclass(slots=True, eq=False)
class _Live:
    """A current membership for this slot that has not expired."""

    membership: Membership
    key: EntryKey
    number: int
    """Which of the key's memberships this is."""
    device: _Device | None
    """None when the policy does not count it."""


class Roster:
    """The members of one slot under one policy."""

    def __init__(self, policy: ReadingPolicy) -> None:
        self.policy = policy
        self.room: RoomView = RoomView()
        self._live: dict[EntryKey, tuple[_Live, ...]] = {}
        self._devices: dict[str, dict[Hashable, _Device]] = {}
        """By user and name."""
        self._in_room: set[str] = set()
        self._sticky_keys: dict[str, set[StickyKey]] = {}
        """By text, the sticky keys that hold something: where the policy lets them hide state."""
        self._size = 0
        self._members: tuple[Membership, ...] | None = ()
        """In order; None since somebody changed: a burst of events costs one sort."""

    # What it is asked

    @property
    def members(self) -> tuple[Membership, ...]:
        """Everybody, by (time of joining, user, device, member id)."""
        if self._members is None:
            shown = [
                device.held[-1]
                for devices in self._devices.values()
                for device in devices.values()
                if device.shown is not None
            ]
            shown.sort(key=_place)
            self._members = tuple([live.membership for live in shown])
        return self._members

    def __len__(self) -> int:
        return self._size

    def find(self, user_id: str, device_id: str) -> Membership | None:
        """Give back the membership of a device, None when it has none."""
        if self.policy.one_per_device:
            return self._shown(user_id, device_id)
        return next((m for m in self.of_user(user_id) if m.member.device_id == device_id), None)

    def has(self, member: Member) -> bool:
        """Tell whether exactly this member, member id included, is in."""
        if self.policy.one_per_device:
            shown = self._shown(member.user_id, member.device_id or member)
            return shown is not None and shown.member == member
        return any(m.member == member for m in self.of_user(member.user_id))

    def shows(self, key: EntryKey, number: int) -> bool:
        """Tell whether this membership of a key is a member."""
        live = self._live[key][number]
        return live.device is not None and live.device.shown is live.membership

    def live(self, key: EntryKey) -> Sequence[Membership]:
        """Give back what a key says now."""
        return [live.membership for live in self._live.get(key, ())]

    @property
    def entries(self) -> int:
        """How many keys say something now."""
        return len(self._live)

    def expires_ts_ms(self, key: EntryKey) -> int | None:
        """Say when a key loses a membership; None when it says nothing."""
        held = self._live.get(key)
        return min([live.membership.expires_ts_ms for live in held]) if held else None

    def in_room(self, user_id: str) -> bool:
        """Tell whether a user is joined to the room."""
        return user_id in self._in_room

    def of_user(self, user_id: str) -> tuple[Membership, ...]:
        """Give back every membership of a user that is a member."""
        devices = self._devices.get(user_id, {}).values()
        return tuple([device.shown for device in devices if device.shown is not None])

    def _shown(self, user_id: str, name: Hashable) -> Membership | None:
        device = self._devices.get(user_id, {}).get(name)
        return None if device is None else device.shown

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
        after: list[_Live] = []
        for live in before:
            self._drop(live)
        for membership in memberships:
            after.append(self._add(key, len(after), membership))
        if after:
            self._live[key] = tuple(after)
        for live in (*before, *after):
            if live.device is not None:
                self._show(live.device, reason, diffs)

    def set_in_room(self, user_id: str, joined: bool, diffs: list[SessionDiff]) -> None:
        """Take note that a user is joined to the room or not."""
        if joined == (user_id in self._in_room):
            return
        (self._in_room.add if joined else self._in_room.discard)(user_id)
        for device in self._devices.get(user_id, {}).values():
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
        return policy.refuses(membership, key[-2], room)

    def _judge_again(self, key: EntryKey, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        held = self._live.get(key, ())
        counts = [self.refusal(key, live.membership) is None for live in held]
        if counts != [live.device is not None for live in held]:
            self.put(key, [live.membership for live in held], reason, diffs)

    def _add(self, key: EntryKey, number: int, membership: Membership) -> _Live:
        if self.refusal(key, membership) is not None:
            return _Live(membership, key, number, None)
        device = self._device(membership.member, key, number)
        live = _Live(membership, key, number, device)
        held = device.held
        at = bisect_left(held, _newness(live), key=_newness) if held else 0
        device.held = (*held[:at], live, *held[at:])
        return live

    def _drop(self, live: _Live) -> None:
        if live.device is not None:
            held = live.device.held
            at = bisect_left(held, _newness(live), key=_newness) if len(held) > 1 else 0
            live.device.held = held[:at] + held[at + 1 :]

    def _device(self, member: Member, key: EntryKey, number: int) -> _Device:
        """Find a device, or begin one."""
        name: Hashable = (key, number)
        if self.policy.one_per_device:
            name = member.device_id or member  # not every dialect says which device it is
        devices = self._devices.setdefault(member.user_id, {})
        device = devices.get(name)
        if device is None:
            device = devices[name] = _Device(member.user_id, name)
        return device

    def _show(self, device: _Device, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        """Bring what is shown of a device in line with its newest membership, and say what changed."""
        old, new = device.shown, None
        if not device.held:
            devices = self._devices.get(device.user_id, {})
            devices.pop(device.name, None)
            if not devices:
                self._devices.pop(device.user_id, None)
        elif device.user_id in self._in_room:
            new = device.held[-1].membership
        if old is new:
            return
        device.shown = new
        if old and new and old.event_id == new.event_id and old == new:
            return
        self._members = None
        if old is not None and new is not None and old.member == new.member:
            kind = MemberRefreshed if _words(old) == _words(new) else MemberChanged
            diffs.append(kind(old, new))
            return
        if old is not None:
            self._size -= 1
            diffs.append(MemberLeft(old, reason if new is None else LeftReason.REPLACED))
        if new is not None:
            self._size += 1
            diffs.append(MemberJoined(new))


_newness = attrgetter("membership.created_ts_ms", "membership.event_id", "key", "number")
"""Sorts the memberships of one device: the last joined is the last."""
_place = attrgetter("membership.created_ts_ms", "membership.member.order", "key", "number")
"""Sorts members."""
_words = attrgetter(
    "transports", "can_subscribe", "focus_selection", "application", "created_ts_ms", "slot_id",
    "dialect", "encrypted",
)  # fmt: skip
"""What a member says, apart from who it is, in which event, and for how long."""
