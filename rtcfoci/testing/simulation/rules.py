"""What must hold in every run: while it goes on, once all is well, and after everybody left.

In: the rules, each with a name, and what broke them. Out: the course of a run (`world`).
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtcfoci.call import events as ev
from rtcfoci.call.call import Call
from rtcfoci.call.sessions import installed_dialects
from rtcfoci.core.conditions import Condition
from rtcfoci.core.model import Member, Membership, Slot
from rtcfoci.core.session import Session
from rtcfoci.matrix.sync import read_event
from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.tracks import TrackId

if TYPE_CHECKING:
    from rtcfoci.testing.simulation.device import Process
    from rtcfoci.testing.simulation.world import World

__all__ = ["SETTLE_S", "Broken", "Rules"]

SETTLE_S = 75.0
"""Within this time after the last fault all is well: the delayed leave of a killed member fires (18 s),
a pair's longest pause between attempts passes (30 s), and the attempt succeeds (12 s)."""
_KEPT_S = 28.0
"""So long at least a member that was withdrawn is kept while it is heard."""
_FULL = "mesh_full"


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that did not hold."""

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


class Rules:
    """The judge of one run."""

    def __init__(self, world: World) -> None:
        self._world = world

    def break_(self, rule: str, detail: str) -> None:
        """Note that a rule did not hold."""
        self._world.note("", "BROKEN", f"{rule}: {detail}")
        self._world.outcome.broken.append(Broken(rule, detail))

    # While it goes on

    def failed(self, what: str, error: BaseException | None) -> None:
        """Take note of an error that nobody expected."""
        where = "".join(traceback.format_exception(error)[-3:]) if error is not None else ""
        self.break_("unhandled error", f"{what}: {where}".strip())

    def ended(self, process: Process, condition: Condition) -> None:
        """Take note of a call that ended without being told to."""
        self.break_("call ended", f"{process.device.name}: {condition.code}: {condition.cause}")

    def told(self, process: Process, call: Call, event: ev.CallEvent) -> None:
        """Look at what a call tells its application."""
        name, note = process.device.name, self._world.note
        match event:
            case ev.ParticipantJoined(participant):
                note(name, "sees", self._name(participant.member))
                self._one_each(name, call)
            case ev.ParticipantLeft(participant, reason):
                note(name, "misses", f"{self._name(participant.member)} {reason}")
                process.missed_s[participant.member] = self._world.now_s
                self._not_dropped(process, participant.member, reason)
            case ev.TrackAdded(track) | ev.TrackRemoved(track) | ev.TrackMuted(track):
                track_id = track.track_id
                what = {ev.TrackAdded: "hears", ev.TrackRemoved: "loses"}.get(type(event), "muted")
                if isinstance(event, ev.TrackRemoved):
                    process.lost_s[track_id.member] = self._world.now_s
                note(name, what, f"{self._name(track_id.member)} {track_id.source}")
            case ev.ConditionRaised(condition):
                note(name, "condition", f"{condition.code} {condition.subject} {condition.cause}")
            case ev.ConditionCleared(condition):
                note(name, "cleared", f"{condition.code} {condition.subject}")
            case ev.DataReceived(member, payload):
                note(name, "receives", f"{payload.decode()} of {self._name(member)}")
            case _:
                note(name, type(event).__name__)

    def _one_each(self, name: str, call: Call) -> None:
        devices = Counter((p.user_id, p.device_id) for p in call.participants)
        for (user_id, _), count in devices.items():
            if count > 1:
                self.break_("one device shows as two", f"{name} sees {user_id} {count} times")

    def _not_dropped(self, process: Process, member: Member, reason: str) -> None:
        recovery = self._world.recovery
        if recovery.troubled(process.device):
            return  # that the member is back it cannot know
        for other in self._processes():
            if (
                other.stays
                and process.stays
                and other.call is not None
                and other.call.member == member
                and other.tracks
                and process.lost_s.get(member) == self._world.now_s  # it was heard until now
                and self.connected(process, other)
                and self._world.now_s - recovery.gone_s.get(other, self._world.now_s) < _KEPT_S
            ):
                names = f"{process.device.name} dropped {other.device.name}"
                self.break_("dropped while connected", f"{names}: {reason}")

    # Once all is well

    def _processes(self) -> Iterator[Process]:
        for device in self._world.devices:
            if device.process is not None:
                yield device.process

    def connected(self, one: Process, other: Process) -> bool:
        """Tell whether a connection stands between two processes, on both sides."""
        ends: dict[str, Any] = self._world.network.endpoints
        for end in ends.values():
            if end.port is one.port and end.connected:
                far = ends.get(end.remote)
                if far is not None and far.port is other.port and far.connected:
                    return True
        return False

    def amiss(self) -> list[Broken]:
        """List what is not as it should be now."""
        found: list[Broken] = []
        processes = list(self._processes())
        for process in processes:
            if process.call is None:
                found.append(Broken("not in the call", process.device.name))
        members = self.session()
        present = {p.call.member: p for p in processes if p.call is not None}
        for member in members:
            if member not in present:
                found.append(Broken("ghost on the homeserver", self._name(member)))
        for member in present:
            if member not in members:
                found.append(Broken("missing on the homeserver", self._name(member)))
        if found:
            return found
        seated = self.seated(members)
        for process in processes:
            found += self._sees(process, present)
            found += self._conditions(process, present, seated)
        for one in processes:
            for other in processes:
                if one is not other and self._both(one, other) <= seated:
                    if self.connected(one, other):
                        found += self._tracks(one, other)
                    else:
                        names = f"{one.device.name} and {other.device.name}"
                        found.append(Broken("not connected", names))
        return found

    @staticmethod
    def _both(one: Process, other: Process) -> set[Member]:
        assert one.call is not None
        assert other.call is not None
        return {one.call.member, other.call.member}

    def session(self) -> dict[Member, Membership]:
        """Read who is in the session from the homeserver itself, by its own clock."""
        world = self._world
        now = world.clock.now()
        room = world.homeserver.rooms[world.room_id]
        session = Session(Slot(room_id=world.room_id), installed_dialects(world.plugins))
        for event in room.events:
            read = read_event(event.render(now.ts_ms, "", ""), now.ts_ms)
            if read is not None:
                session.receive(read, now)
        session.handle_timer(now)
        return {m.member: m for m in session.members}

    def seated(self, members: dict[Member, Membership] | None = None) -> set[Member]:
        """Say who fits: in order of joining, as many as there are seats."""
        world = self._world
        members = self.session() if members is None else members

        def order(membership: Membership) -> tuple[int, tuple[str, str, str]]:
            claimed = membership.transports[0].raw.get("joined_ts_ms")
            created = membership.created_ts_ms
            at_ms = min(claimed, created) if isinstance(claimed, int) else created
            return at_ms, membership.member.order

        taken: list[Member] = []
        cap = world.script.seats
        for membership in sorted(members.values(), key=order):
            if membership.transports[0].raw.get("video") is True:
                cap = min(cap, 8)
            if len(taken) >= cap:
                break
            taken.append(membership.member)
        return set(taken)

    def _sees(self, process: Process, present: dict[Member, Process]) -> Iterator[Broken]:
        assert process.call is not None
        name = process.device.name
        seen = {p.member for p in process.call.participants}
        for member in sorted(seen - set(present), key=str):
            yield Broken("ghost", f"{name} sees {self._name(member)}")
        for member in sorted(set(present) - seen - {process.call.member}, key=str):
            yield Broken("missing member", f"{name} does not see {self._name(member)}")

    def _conditions(
        self, process: Process, present: dict[Member, Process], seated: set[Member]
    ) -> Iterator[Broken]:
        assert process.call is not None
        for condition in process.call.conditions:
            if condition.code == _FULL and not set(present) <= seated:
                continue
            detail = f"{process.device.name}: {condition.code} {condition.subject}"
            yield Broken("condition not cleared", f"{detail} {condition.cause}")

    def _tracks(self, one: Process, other: Process) -> Iterator[Broken]:
        """Look at what one knows of the other's tracks."""
        assert one.call is not None
        assert other.call is not None
        names = f"{one.device.name} of {other.device.name}"
        known = {
            t.track_id: t.muted for t in one.call.tracks if t.track_id.member == other.call.member
        }
        right = {t.track_id: t.muted for t in other.tracks.values()}
        if set(known) != set(right):
            told = sorted(t.source for t in known), sorted(t.source for t in right)
            yield Broken("wrong tracks", f"{names}: {told[0]}, published {told[1]}")
        elif known != right:
            yield Broken("wrong mute", names)

    # A close look

    async def probe(self) -> None:
        """Send data and a frame of every track to everybody: each must come, once, from where it is."""
        processes = [p for p in self._processes() if p.call is not None]
        seated = self.seated()
        stops = []
        heard: Counter[tuple[str, str]] = Counter()
        for process in processes:
            assert process.call is not None
            for remote in process.call.tracks:
                ear = _Ear(heard, process.device.name, remote.track_id)
                stops.append(remote.consume(ear))
        for process in processes:
            await self._world.messages.say(process)
        ends: dict[str, Any] = self._world.network.endpoints
        for end in tuple(ends.values()):
            end.push(_tagged)
        await asyncio.sleep(1.0)
        for stop in stops:
            stop()
        for rule, detail in self._world.messages.broken():
            self.break_(rule, detail)
        for one in processes:
            for other in processes:
                if one is other or not self._both(one, other) <= seated:
                    continue
                for track in other.tracks.values():
                    wanted = 0 if track.muted else 1
                    if heard[one.device.name, str(track.track_id)] != wanted:
                        names = f"{one.device.name} of {other.device.name}"
                        self.break_("media at the wrong place", f"{names} {track.track_id.source}")

    # After everybody left

    def empty(self, own: asyncio.Task[Any] | None) -> None:
        """See that nothing is left of the call."""
        world = self._world
        for member in self.session():
            self.break_("left on the homeserver", self._name(member))
        for device in world.devices:
            if world.homeserver.held(device.person.user_id):
                self.break_("delayed event left", device.name)
        for address in world.network.endpoints:
            self.break_("connection left", str(world.network.endpoints[address]))
        for task in sorted(map(_task, asyncio.all_tasks(world.loop) - {own})):
            self.break_("task left", task)
        for handle in world.loop.timers():
            self.break_("timer left", str(handle))

    def _name(self, member: Member) -> str:
        return member.user_id[1:].partition(":")[0]


class _Ear:
    """Counts frames of one track that are what they claim to be."""

    def __init__(self, heard: Counter[tuple[str, str]], who: str, track_id: TrackId) -> None:
        self._heard = heard
        self._key = who, str(track_id)
        self._tag = _tag(track_id)

    def __call__(self, frame: Frame | None) -> None:
        if frame is not None:
            data = frame.pcm if isinstance(frame, AudioFrame) else frame.data
            self._heard[self._key] += 1 if data.startswith(self._tag) else 1000


def _tag(track_id: TrackId) -> bytes:
    return (str(track_id).encode() + bytes(96))[:96]


def _tagged(track_id: TrackId, kind: Kind) -> Frame:
    """Make a frame that says whose it is."""
    if kind is Kind.AUDIO:
        return AudioFrame(pcm=_tag(track_id), timestamp_ns=0)
    return VideoFrame(data=_tag(track_id), width=8, height=8, timestamp_ns=0)


def _task(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[-1].f_code.co_qualname}:{frames[-1].f_lineno}" if frames else "not started"
