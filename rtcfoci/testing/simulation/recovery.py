"""How soon a call recovers, watched all through a run: whatever is well for a while must be whole again.

In: since when each device's way to the homeserver and each pair's path are well, how long it then took to be
a member and to be connected, and the bounds. Out: what must hold in the end (`rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from rtcfoci.core.model import Member
from rtcfoci.matrix.cs import REQUEST_TIMEOUT_S
from rtcfoci.testing.homeserver_rooms import Event

if TYPE_CHECKING:
    from rtcfoci.testing.simulation.device import Device, Process
    from rtcfoci.testing.simulation.world import World

__all__ = ["LOOK_S", "Recovery"]

LOOK_S = 0.5
_MEMBERSHIPS = ("org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member")
MEMBER_AGAIN_S = 5.0
"""Whoever is in the call is a member again within this time after its homeserver is back."""
TOGETHER_S = 5.0
"""A pair connects within this time once all is well for it"""
AGAIN_SHARE = 0.5
"""and this share of the time that it was apart before: the longer in vain, the rarer it is tried."""

WELL_S = 25.0
"""Whoever is in the call and well for longer than its delayed leave waits (18 s) is withdrawn by nobody."""

_LIMITED_S = 8.0
"""How long whoever was told that it asks too often waits at most."""


class Recovery:
    """Since when all is well for whom, and what has not followed yet."""

    def __init__(self, world: World) -> None:
        self.member_s: float = 0.0
        """The longest that somebody was no member although its homeserver was there."""
        self.together_s: float = 0.0
        """The longest that a pair was apart although all was well for it."""
        self.gone_s: dict[Process, float] = {}
        """Since when somebody who is in the call is no member."""
        self._world = world
        self._calm_s: dict[Device, float] = {}
        """Until when what was done to a device may still be felt."""
        self._events = -1
        self._in_s: dict[Process, float] = {}
        """Since when somebody takes part."""
        self._members: set[Member] = set()
        """Who is in the session while the room has so many events."""
        self._out_s: dict[Process, float] = {}
        self._apart_s: dict[tuple[Process, Process], tuple[float, float]] = {}
        """Since when a pair is apart, and since when although all is well."""

    def begins(self, device: Device) -> None:
        """Take note that something is done to a device: it may be over before the next look."""
        if self.troubled(device):
            self._disturb(device)

    def look(self) -> None:
        """See who is well, who is in, and who is connected."""
        world = self._world
        for device in world.devices:
            if self.troubled(device):
                self._disturb(device)
        processes = [p for p in map(_process, world.devices) if p is not None]
        self._look_at_members(processes)
        self._look_at_pairs(processes)

    def _look_at_members(self, processes: list[Process]) -> None:
        world = self._world
        for process in processes:
            self._in_s.setdefault(process, world.now_s)
        events = world.homeserver.rooms[world.room_id].events
        if len(events) != self._events:
            self._look_at_leaves(events[max(0, self._events) :], processes)
            self._events, self._members = len(events), set(world.rules.session())
        now_s, out_s = world.now_s, self._out_s
        self._out_s = {}
        gone_s, self.gone_s = self.gone_s, {}
        for process in processes:
            assert process.call is not None
            if process.call.member in self._members:
                continue
            self.gone_s[process] = gone_s.get(process, now_s)
            if self._calm_s.get(process.device, 0.0) > now_s:
                continue
            since_s = self._out_s[process] = out_s.get(process, now_s)
            self.member_s = max(self.member_s, now_s - since_s)
            if now_s - since_s > MEMBER_AGAIN_S:
                detail = f"{process.device.name} for {now_s - since_s:.1f} s"
                world.rules.break_("not a member again", detail)

    def _look_at_leaves(self, events: Sequence[Event], processes: list[Process]) -> None:
        """A delayed leave that fires for somebody who could restart it has not been restarted."""
        leaving = {
            event.sender for event in events if event.type in _MEMBERSHIPS and _leaves(event)
        }
        for process in processes:
            device = process.device
            well_s = max(self._calm_s.get(device, 0.0), self._in_s[process])
            if device.person.user_id in leaving and self._world.now_s - well_s > WELL_S:
                self._world.rules.break_("withdrawn although well", device.name)

    def _look_at_pairs(self, processes: list[Process]) -> None:
        world = self._world
        now_s, apart_s = world.now_s, self._apart_s
        self._apart_s = {}
        if len(world.devices) > world.script.seats:
            return
        for pair in combinations(processes, 2):
            one, other = pair
            if not (_sees(one, other) and _sees(other, one)) or world.rules.connected(one, other):
                continue
            since_s, well_s = apart_s.get(pair, (now_s, now_s))
            calm_s = max(self._calm_s.get(p.device, 0.0) for p in pair)
            if self._cut(one, other) or calm_s > now_s:
                well_s = now_s
            self._apart_s[pair] = since_s, well_s
            took_s = now_s - well_s
            self.together_s = max(self.together_s, took_s)
            if took_s > TOGETHER_S + AGAIN_SHARE * (well_s - since_s):
                names = f"{one.device.name} and {other.device.name}"
                world.rules.break_("apart for too long", f"{names} for {took_s:.1f} s")

    def _cut(self, one: Process, other: Process) -> bool:
        return not (one.port.reaches(other.port) and other.port.reaches(one.port))

    def troubled(self, device: Device) -> bool:
        """Tell whether something is done now to what a device hears from its homeserver."""
        weather, mail = device.weather, self._world.mail
        return bool(
            self._world.outages
            or weather.refused
            or weather.silent
            or weather.limited
            or weather.lost
            or weather.late_s
            or mail.steps.get(device.number)
            or mail.held.get(device.number)
        )

    def _disturb(self, device: Device) -> None:
        weather = device.weather
        felt_s = 2 * weather.late_s
        if weather.limited:
            felt_s += _LIMITED_S
        if weather.lost and weather.lost_silently:
            felt_s += REQUEST_TIMEOUT_S
        until_s = self._world.now_s + LOOK_S + felt_s
        self._calm_s[device] = max(self._calm_s.get(device, 0.0), until_s)


def _leaves(event: Event) -> bool:
    member = event.content.get("member")
    return not event.content or (isinstance(member, dict) and member.get("membership") == "leave")


def _process(device: Device) -> Process | None:
    process = device.process
    return process if process is not None and process.stays and process.call is not None else None


def _sees(one: Process, other: Process) -> bool:
    assert one.call is not None
    assert other.call is not None
    member: Member = other.call.member
    return any(p.member == member for p in one.call.participants)
