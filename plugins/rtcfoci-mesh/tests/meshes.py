"""A context that passes signals straight to the other side, and what the tests measure with it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import threading
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field

from rtcfoci_mesh.backend import MeshBackend
from rtcfoci_mesh.config import MeshConfig
from rtcfoci_mesh.connection import MeshConnection

from rtcfoci.core.model import FocusSelection, JsonObject, Member, Membership, Now, Slot, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import ConnectionEvent, Role, TrackAdded

CONFIG = MeshConfig(loopback=True, connect_timeout_s=3.0, resend_s=0.5)


class Wire:
    """Carries signals between the contexts of one process, as badly as it is told to."""

    def __init__(self) -> None:
        self.ends: dict[Member, MeshConnection] = {}
        self.sent: list[tuple[Member, Member, JsonObject]] = []
        self.mangle: Callable[[Member, Member, JsonObject], int] = lambda a, b, payload: 1
        """How often a signal arrives: 0 is lost, 2 comes twice."""

    async def carry(self, sender: Member, to: Member, payload: JsonObject) -> None:
        self.sent.append((sender, to, payload))
        for _ in range(self.mangle(sender, to, payload)):
            await asyncio.sleep(0.002)
            end = self.ends.get(to)
            if end is not None:
                with contextlib.suppress(BackendError):
                    await end.on_signal(sender, payload, "bound")


class FakeContext:
    """`rtcfoci.plugin.Context` without Matrix."""

    def __init__(self, member: Member, wire: Wire) -> None:
        self.slot = Slot(room_id="!room:test")
        self.member = member
        self.encrypted = True
        self.announced = frozenset(Kind)
        self.log = logging.LoggerAdapter(logging.getLogger("rtcfoci.test"), {})
        self.counts: Counter[str] = Counter()
        self.turn: JsonObject = {}
        self.asked = 0
        self._wire = wire
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> Now:
        return Now(time.monotonic(), int(time.time() * 1000))

    async def send_signal(self, member: Member, payload: JsonObject) -> None:
        await self._wire.carry(self.member, member, payload)

    async def homeserver(
        self, method: str, path: str, body: JsonObject | None = None
    ) -> JsonObject:
        assert (method, path) == ("GET", "/_matrix/client/v3/voip/turnServer")
        self.asked += 1
        return self.turn

    async def http(self, method: str, url: str, **_: object) -> object:
        raise AssertionError("the mesh fetches nothing")

    async def websocket(self, url: str, *, timeout_s: float = 10.0) -> object:
        raise AssertionError("the mesh opens no WebSocket")

    def check_url(self, url: str, *, trusted: bool = False) -> None:
        raise AssertionError("the mesh has no URLs")

    def spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(delay_s, callback).cancel

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] += amount

    async def aclose(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def member(name: str, member_id: str = "") -> Member:
    return Member(
        user_id=f"@{name}:test", device_id=name.upper(), member_id=member_id or f"{name}-1"
    )


def membership(who: Member, joined_ts_ms: int = 1000, video: bool = True) -> Membership:
    raw = {"type": "rtcfoci.mesh", "joined_ts_ms": joined_ts_ms, "video": video}
    return Membership(
        member=who,
        slot_id="m.call#ROOM",
        transports=(Transport("rtcfoci.mesh", raw),),
        can_subscribe=None,
        focus_selection=FocusSelection.OWN,
        application={"type": "m.call"},
        created_ts_ms=2**52,
        expires_ts_ms=2**53,
        dialect="D3",
        event_id="$event",
        room_id="!room:test",
    )


class Source:
    """A thread that pushes frames: a tone of its own, a picture that carries a number."""

    def __init__(self, kind: Kind, hz: float = 440.0) -> None:
        self.hub = FrameHub(kind)
        self._hz = hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        start_s, count = time.monotonic(), 0
        period_s = 0.02 if self.hub.kind is Kind.AUDIO else 1 / 15
        while not self._stop.wait(max(0.0, start_s + count * period_s - time.monotonic())):
            now_ns = time.monotonic_ns()
            if self.hub.kind is Kind.AUDIO:
                first = count * 960
                wave = (
                    int(8000 * math.sin(2 * math.pi * self._hz * i / 48_000))
                    for i in range(first, first + 960)
                )
                self.hub.push(AudioFrame(pcm=array("h", wave).tobytes(), timestamp_ns=now_ns))
            else:
                grey = bytes([40 + count % 160]) * (64 * 48) + bytes([128]) * (64 * 24)
                self.hub.push(VideoFrame(data=grey, width=64, height=48, timestamp_ns=now_ns))
            count += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Station:
    """One participant: its connection, what it was told, what it hears."""

    member: Member
    context: FakeContext
    connection: MeshConnection
    events: list[ConnectionEvent] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    frames: Counter[TrackId] = field(default_factory=Counter)
    last: dict[TrackId, AudioFrame | VideoFrame] = field(default_factory=dict)
    first_s: dict[TrackId, float] = field(default_factory=dict)
    hubs: dict[TrackId, FrameHub] = field(default_factory=dict)
    _reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        async for event in self.connection.events():
            self.events.append(event)
            self.times_s.append(time.monotonic())
            if isinstance(event, TrackAdded) and self.hubs.get(event.track_id) is not event.hub:
                self.hubs[event.track_id] = event.hub
                event.hub.consume(self._taker(event.track_id))

    def _taker(self, track_id: TrackId) -> Callable[[object], None]:
        def take(frame: object) -> None:
            if isinstance(frame, AudioFrame | VideoFrame):
                self.frames[track_id] += 1
                self.last[track_id] = frame
                self.first_s.setdefault(track_id, time.monotonic())

        return take

    async def publish(self, source: str, kind: Kind, hz: float = 440.0) -> LocalTrack:
        made = Source(kind, hz)
        self.sources.append(made)
        track = LocalTrack(TrackId(self.member, source, "0"), made.hub)
        await self.connection.publish(track)
        return track

    def reaches(self) -> bool:
        """Whether there is a connection to every member it knows, and there is one."""
        peers = tuple(self.connection._peers.values())
        return bool(peers) and all(peer.connected for peer in peers)

    def saw(self, kind: type) -> list[ConnectionEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def meet(self, *others: Station) -> None:
        await self.connection.set_members([membership(o.member) for o in others], [], [])

    async def part(self, *others: Station) -> None:
        await self.connection.set_members([], [], [membership(o.member) for o in others])


async def open_station(wire: Wire, who: Member, config: MeshConfig = CONFIG) -> Station:
    context = FakeContext(who, wire)
    backend = MeshBackend(context, config)
    (transport,) = await backend.local_transports(())
    connection = await backend.connect("all", transport, frozenset(Role))
    assert isinstance(connection, MeshConnection)
    station = Station(who, context, connection)
    wire.ends[who] = connection
    station._reader = asyncio.create_task(station.read())
    return station


async def close_station(station: Station) -> None:
    await station.connection.aclose()
    assert station._reader is not None
    await station._reader
    for source in station.sources:
        source.stop()
    await station.context.aclose()


@contextlib.asynccontextmanager
async def stations(
    *names: str, wire: Wire | None = None, config: MeshConfig = CONFIG
) -> AsyncIterator[list[Station]]:
    """Participants that know each other, all closed at the end."""
    carrier = wire or Wire()
    opened: list[Station] = []
    try:
        for name in names:
            opened.append(await open_station(carrier, member(name), config))
        yield opened
    finally:
        for station in opened:
            await close_station(station)


async def until(condition: Callable[[], object], timeout_s: float = 8.0) -> float:
    """Wait until something holds; give back how long it took."""
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > timeout_s:
            raise AssertionError(f"did not come true within {timeout_s} s")
        await asyncio.sleep(0.01)
    return time.monotonic() - start_s


def frequency_hz(frame: AudioFrame) -> float:
    """The pitch of a tone, from its zero crossings."""
    samples = array("h", frame.pcm)
    crossings = sum(a < 0 <= b for a, b in itertools.pairwise(samples))
    return crossings * frame.sample_rate / len(samples)


def pairs(opened: list[Station]) -> Iterator[tuple[Station, Station]]:
    for a in opened:
        for b in opened:
            if a is not b:
                yield a, b
