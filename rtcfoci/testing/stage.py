"""A call reduced to what a backend sees of it: contexts, rosters and connections, without Matrix.

In: participants that meet over one focus type, their connections and what those report.
Out: what must hold then (`conformance`).
"""

from __future__ import annotations

import array
import asyncio
import math
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TypeVar

from rtcfoci.core.model import FocusSelection, JsonObject, Member, Membership, Slot, Transport
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin.backend import Backend, Connection, Role
from rtcfoci.plugin.events import ConnectionEvent, TrackAdded
from rtcfoci.plugin.hookspecs import FocusType, Security, Topology
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.testing.context import FakeContext, FakeNetwork

__all__ = ["Participant", "Stage", "TestSource"]

_E = TypeVar("_E", bound=ConnectionEvent)
_BOTH = frozenset(Role)
_GRACE_S = 5.0
"""How long threads and tasks may take to end after everything was closed."""
_WIDTH, _HEIGHT = 160, 120


class TestSource:
    """A local track that somebody feeds: a tone or a moving picture, in real or virtual time."""

    __test__ = False  # pytest: no test, in spite of its name

    def __init__(self, member: Member, kind: Kind, name: str = "1") -> None:
        self.hub: FrameHub = FrameHub(kind)
        source = "microphone" if kind is Kind.AUDIO else "camera"
        self.track: LocalTrack = LocalTrack(TrackId(member, source, name), self.hub)

    async def feed(self) -> None:
        """Push frames until cancelled."""
        loop = asyncio.get_running_loop()
        step_s = FRAME_MS / 1000 if self.hub.kind is Kind.AUDIO else 0.1
        start_s, count = loop.time(), 0
        while True:
            self.hub.push(self._frame(count, round(loop.time() * 1e9)))
            count += 1
            await asyncio.sleep(max(0.0, start_s + count * step_s - loop.time()))

    def _frame(self, count: int, timestamp_ns: int) -> Frame:
        if self.hub.kind is Kind.AUDIO:
            length = SAMPLE_RATE * FRAME_MS // 1000
            turn = 2 * math.pi * 440 / SAMPLE_RATE
            first = count * length
            tone = [round(9000 * math.sin(turn * (first + index))) for index in range(length)]
            return AudioFrame(pcm=array.array("h", tone).tobytes(), timestamp_ns=timestamp_ns)
        row = bytes((x + 8 * count) % 256 for x in range(_WIDTH))
        grey = bytes([128]) * (_WIDTH * _HEIGHT // 2)
        return VideoFrame(
            data=row * _HEIGHT + grey, width=_WIDTH, height=_HEIGHT, timestamp_ns=timestamp_ns
        )


class Participant:
    """One member: its backend, its connections by key, everything they reported."""

    def __init__(self, name: str, backend: Backend, context: FakeContext) -> None:
        self.name = name
        self.backend = backend
        self.context = context
        self.transport: Transport = Transport("", {})
        self.local: tuple[Transport, ...] = ()
        self.connections: dict[str, Connection] = {}
        self.events: list[ConnectionEvent] = []
        self.frames: dict[TrackId, list[Frame]] = {}
        self.own_key = ""
        self._readers: list[asyncio.Task[None]] = []

    @property
    def member(self) -> Member:
        return self.context.member

    @property
    def membership(self) -> Membership:
        """What the others see of this participant."""
        return Membership(
            member=self.member,
            slot_id=self.context.slot.slot_id,
            transports=(self.transport,),
            can_subscribe=(self.transport.type,),
            focus_selection=FocusSelection.OWN,
            application={"type": self.context.slot.application},
            created_ts_ms=self.context.now().ts_ms,
            expires_ts_ms=self.context.now().ts_ms + 3_600_000,
            dialect="D6/D7",
            event_id=f"$membership-of-{self.name}",
            room_id=self.context.slot.room_id,
        )

    @property
    def connection(self) -> Connection:
        """Where this participant publishes."""
        return self.connections[self.own_key]

    def told(self, kind: type[_E]) -> list[_E]:
        """Every event of a class so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def heard(self, track_id: TrackId) -> int:
        """How many frames of a track have come so far."""
        return len(self.frames.get(track_id, ()))

    def watch(self, connection: Connection) -> None:
        """Collect what a connection reports, and the frames of every track it adds."""
        self._readers.append(asyncio.create_task(self._read(connection)))

    async def finished(self) -> None:
        """Wait until every event stream has ended. :raises AssertionError: when one does not."""
        readers, self._readers = self._readers, []
        if readers:
            _, endless = await asyncio.wait(readers, timeout=_GRACE_S)
            for reader in endless:
                reader.cancel()
            assert not endless, "events() goes on after the connection was closed"

    async def aclose(self) -> None:
        """Leave; idempotent."""
        for connection in self.connections.values():
            await connection.aclose()
        await self.backend.aclose()
        await self.context.aclose()
        await self.finished()

    async def _read(self, connection: Connection) -> None:
        async for event in connection.events():
            self.events.append(event)
            if isinstance(event, TrackAdded):
                self.frames.setdefault(event.track_id, [])
                event.hub.consume(self._collector(event.track_id))

    def _collector(self, track_id: TrackId) -> Callable[[Frame | None], None]:
        collected = self.frames[track_id]

        def collect(frame: Frame | None) -> None:
            if frame is not None:
                collected.append(frame)

        return collect


class Stage:
    """Where participants meet over one focus type.

    :param configure: gives each participant's configuration, by name.
    :param wait_s: how long `until` waits.
    """

    def __init__(
        self,
        focus_type: FocusType,
        configure: Callable[[str], JsonObject],
        *,
        encrypted: bool = False,
        wait_s: float = 10.0,
        answers: Mapping[tuple[str, str], JsonObject] | None = None,
        slot: Slot | None = None,
    ) -> None:
        self.focus_type = focus_type
        self.configure = configure
        self.encrypted = encrypted
        self.wait_s = wait_s
        self.slot: Slot = slot or Slot(room_id="!room:test")
        self.network: FakeNetwork = FakeNetwork(answers)
        self.participants: dict[str, Participant] = {}
        self.sources: list[asyncio.Task[None]] = []
        self._manager = PluginManager()
        self._threads = set(threading.enumerate())
        self._tasks: set[asyncio.Task[object]] = asyncio.all_tasks()

    def backend(self, name: str) -> Participant:
        """Create a participant's backend, and nothing more yet."""
        context = FakeContext(
            Member(user_id=f"@{name}:test", device_id=name.upper(), member_id=f"member-{name}"),
            slot=self.slot,
            network=self.network,
            encrypted=self.encrypted,
            announced=frozenset(self.kinds()),
        )
        backend = self._manager.create_backend(self.focus_type, context, self.configure(name))
        self.participants[name] = participant = Participant(name, backend, context)
        return participant

    def kinds(self) -> list[Kind]:
        """What the focus type carries as tracks."""
        can = self.focus_type.capabilities
        return [kind for kind, able in ((Kind.AUDIO, can.audio), (Kind.VIDEO, can.video)) if able]

    async def prepare(self, name: str) -> Participant:
        """Create a participant's backend and choose its transport: a call's steps before connecting."""
        participant = self.backend(name)
        local = tuple(await participant.backend.local_transports(()))
        assert local, "local_transports(()) offers nothing: configure one"
        participant.local = local
        others = [p for p in self.participants.values() if p.own_key]
        elected = self.focus_type.topology is Topology.ELECTED and others
        participant.transport = others[0].transport if elected else local[0]
        return participant

    async def connect(self, name: str, roles: frozenset[Role] = _BOTH) -> Participant:
        """Bring a participant onto its own focus, without any other member yet."""
        participant = await self.prepare(name)
        participant.own_key = self.key(participant, participant)
        await participant.backend.prepare(participant.transport)
        await self._open(participant, participant.own_key, participant.transport, roles)
        return participant

    async def join(self, *names: str) -> list[Participant]:
        """Connect participants and make everybody on stage know everybody."""
        joined = [await self.connect(name) for name in names]
        await self.meet(*self.participants.values())
        return joined

    async def meet(self, *participants: Participant) -> None:
        """Put each on the roster of the others, as a call does when memberships arrive."""
        for one in participants:
            for other in participants:
                if one is not other:
                    await self.introduce(one, other)

    async def introduce(self, one: Participant, other: Participant) -> None:
        """Tell `one` that `other` is there; opens a connection where that takes one."""
        key = self.key(one, other)
        if key not in one.connections:
            roles = frozenset({Role.SUBSCRIBE})
            await self._open(one, key, other.transport, roles)
        await one.connections[key].set_members([other.membership], [], [])

    async def part(self, one: Participant, other: Participant) -> None:
        """Tell `one` that `other` has left."""
        await one.connections[self.key(one, other)].set_members([], [], [other.membership])

    def key(self, one: Participant, other: Participant) -> str:
        """Name the connection on which `one` reaches `other`."""
        if self.focus_type.topology is Topology.ELECTED:
            other = one
        key = one.backend.connection_key(other.transport, other.member, one.local)
        assert key is not None, "connection_key() does not know the type's own transport"
        return key

    def source(self, participant: Participant, kind: Kind, name: str = "1") -> LocalTrack:
        """Make a track of a participant that is fed until the end."""
        source = TestSource(participant.member, kind, name)
        self.sources.append(asyncio.create_task(source.feed()))
        return source.track

    async def exchange_keys(self, *participants: Participant, index: int = 0) -> None:
        """Give everybody everybody's key, before anything is published; does nothing without keys."""
        if self.focus_type.media_security is not Security.FRAME:
            return
        for one in participants:
            for connection in one.connections.values():
                for other in participants:
                    await connection.set_key(other.member, index, self.media_key(other))
                await connection.use_key(index)

    @staticmethod
    def media_key(participant: Participant) -> bytes:
        """A participant's media key: 16 bytes that differ between members."""
        return participant.name.encode().ljust(16, b"-")[:16]

    async def until(self, holds: Callable[[], object], what: str, wait_s: float = 0.0) -> None:
        """Wait until something holds. :raises AssertionError: saying what did not."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + (wait_s or self.wait_s)
        while not holds():
            if loop.time() > end_s:
                told = {p.name: p.events[-8:] for p in self.participants.values()}
                raise AssertionError(f"after {wait_s or self.wait_s} s still not: {what}; {told}")
            await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        """Close everything. :raises AssertionError: when something is left behind."""
        for source in self.sources:
            source.cancel()
        await asyncio.gather(*self.sources, return_exceptions=True)
        for participant in self.participants.values():
            await participant.aclose()
        await self._nothing_left()
        for participant in self.participants.values():
            problems = [*participant.context.failures, *participant.context.refused]
            assert not problems, f"work in the background of {participant.name} raised {problems}"

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.aclose()
            return
        try:  # the first failure is the one to tell
            await self.aclose()
        except AssertionError as second:
            error.add_note(f"and then: {second}")

    async def _open(
        self, participant: Participant, key: str, transport: Transport, roles: frozenset[Role]
    ) -> None:
        connection = await participant.backend.connect(key, transport, roles)
        participant.connections[key] = connection
        participant.watch(connection)
        if self.focus_type.capabilities.needs_signalling:
            participant.context.on_signal(connection.on_signal)

    async def _nothing_left(self) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _GRACE_S
        while (left := self._left()) and loop.time() < end_s:  # noqa: ASYNC110 - they tell nobody
            await asyncio.sleep(0.05)
        assert not left, f"left behind after closing: {left}"

    def _left(self) -> list[object]:
        mine = {*self._tasks, asyncio.current_task()}
        threads = [
            thread
            for thread in threading.enumerate()
            # The event loop keeps workers of its own, for looking up names and such.
            if thread not in self._threads and not thread.name.startswith("asyncio_")
        ]
        return [*(task for task in asyncio.all_tasks() if task not in mine), *threads]
