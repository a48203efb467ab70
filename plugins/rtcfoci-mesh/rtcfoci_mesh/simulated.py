"""The mesh with an engine that only pretends: for calls in virtual time, by the thousand.

In: the focus type, an engine whose connections come up and break as a simulated network lets them, its
descriptions, its data messages. Out: the network, which the configuration brings; everything above the
engine, which is the mesh's own (`connection`, `peer`, `signalling`).

Nothing is encoded and nothing is encrypted; what is true to a real engine is when a connection stands, what
gets through, in which order, and what each side is told of it and when.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import ConfigDict, SkipValidation

from rtcfoci.core.model import Transport
from rtcfoci.media.frames import Frame, Kind
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci.plugin import FocusType, hookimpl
from rtcfoci_mesh import MESH
from rtcfoci_mesh.backend import MeshBackend
from rtcfoci_mesh.config import MeshConfig
from rtcfoci_mesh.connection import MeshConnection
from rtcfoci_mesh.engine import (
    Diagnosis,
    EngineError,
    LocalDescription,
    MeshEngine,
    SessionEvents,
    SessionOptions,
    SessionStats,
    Totals,
)
from rtcfoci_mesh.loop import SameLoop
from rtcfoci_mesh.wire import Lines

__all__ = ["SIMULATED", "Port", "SimulatedBackend", "SimulatedConfig", "rtcfoci_focus_types"]

_DESCRIBE_S = 0.02
"""How long an engine takes to make or take in a description."""
_KNOCK_S = 0.2
"""How often a connection is tried, and a message that did not get through sent again."""

SIMULATED: FocusType = replace(
    MESH,
    type="rtcfoci.mesh.simulated",
    aliases=(),
    backend="rtcfoci_mesh.simulated:SimulatedBackend",
    transport_model="",
    config_model="rtcfoci_mesh.simulated:SimulatedConfig",
    stability="testing",
)


@hookimpl
def rtcfoci_focus_types() -> list[FocusType]:
    """Register the simulated mesh; load it with `--plugin rtcfoci_mesh.simulated`."""
    return [SIMULATED]


class Port(Protocol):
    """A participant's place in the simulated network."""

    endpoints: MutableMapping[str, Any]
    """Every connection of the network that is not closed, by its address."""

    def reaches(self, other: Port) -> bool:
        """Tell whether a packet sent now to another port arrives."""

    def delay_s(self, other: Port) -> float:
        """Give how long it is on its way."""

    def random_bytes(self, count: int) -> bytes:
        """Give random bytes, the same in every run."""

    def stands(self, other: Port, connected: bool) -> None:
        """Take note that a connection to another port stands, or is over, on this side."""


class SimulatedConfig(MeshConfig):
    """The mesh's configuration, and our place in the network."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True
    )

    port: Annotated[Any, SkipValidation]


class SimulatedBackend(MeshBackend):
    """The mesh over a pretending engine, on the loop of the call."""

    focus_type: ClassVar[FocusType] = SIMULATED

    @property
    def _port(self) -> Port:
        assert isinstance(self._config, SimulatedConfig)
        port: Port = self._config.port
        return port

    async def _engine(self) -> MeshEngine:
        return _Engine(self._port)

    def _open(self, engine: MeshEngine, own: Transport) -> MeshConnection:
        return MeshConnection(
            self.context,
            self._config,
            engine,
            self._ice,
            own,
            types=self._types,
            media_loop=SameLoop,
            random_bytes=self._port.random_bytes,
        )


class _Engine:
    conceals = True  # there is no sound

    def __init__(self, port: Port) -> None:
        self._port = port

    def open(self, options: SessionOptions, events: SessionEvents) -> Session:
        return Session(self._port, events)

    def watch(self, troubled: Callable[[TrackId, str | None], None]) -> None:
        """Nothing is encoded here."""


class Session:
    """One pretended connection.

    It stands once both sides have applied each other's description and packets pass both ways, and is
    told so on each side by itself; a cut shows as silence alone, like a real one.
    """

    def __init__(self, port: Port, events: SessionEvents) -> None:
        self.port = port
        self.address: str = port.random_bytes(8).hex()
        self.remote: str = ""
        """Address of the other side, from its description."""
        self.far_port: Port = port
        """The other side's, once it was met."""
        self.connected: bool = False
        self.open: bool = False
        """Whether the data channels can be used."""
        self._events: SessionEvents | None = events
        self._loop = asyncio.get_running_loop()
        self._sections: list[Kind] = []
        self._placed: dict[int, TrackId] = {}
        self._muted: set[TrackId] = set()
        self._offered = False
        self._version = 0
        self._packets = 0
        self._suspended = False
        self._knock: asyncio.TimerHandle | None = None
        self._unsent: deque[bytes] = deque()
        self._flush: asyncio.TimerHandle | None = None
        self._last_due_s = 0.0
        port.endpoints[self.address] = self

    def __repr__(self) -> str:
        return f"<Session {self.address} to {self.remote or 'nobody'}>"

    # Descriptions

    async def offer(self, tracks: Sequence[LocalTrack], lines: Lines) -> LocalDescription:
        """Place tracks on at least that many media sections."""
        for kind, wanted in ((Kind.AUDIO, lines.audio), (Kind.VIDEO, lines.video)):
            ours = sum(track.kind is kind for track in tracks)
            missing = max(wanted, ours) - self._sections.count(kind)
            self._sections += [kind] * missing
        self._place(tracks)
        await asyncio.sleep(_DESCRIBE_S)
        self._offered = True
        return self._described()

    async def answer(self, sdp: str, tracks: Sequence[LocalTrack]) -> LocalDescription:
        """Take an offer in and place tracks on its media sections."""
        await asyncio.sleep(_DESCRIBE_S)
        address, kinds = _read(sdp)
        self._take_address(address)
        if kinds[: len(self._sections)] != self._sections:
            raise EngineError("the member's offer changes media sections that there were")
        self._sections = kinds
        self._place(tracks)
        return self._described()

    async def apply(self, sdp: str) -> None:
        """Take the answer in."""
        await asyncio.sleep(_DESCRIBE_S)
        address, kinds = _read(sdp)
        if not self._offered:
            raise EngineError("an answer came to no offer")
        if kinds != self._sections:
            raise EngineError("the member's answer has other media sections than our offer")
        self._offered = False
        self._take_address(address)

    def _take_address(self, address: str) -> None:
        if self.remote not in ("", address):
            raise EngineError("the member's description is of another connection")
        self.remote = address
        if self._knock is None and self._events is not None:
            self._try()

    def _place(self, tracks: Sequence[LocalTrack]) -> None:
        wanted = {track.track_id: track for track in tracks}
        for place, track_id in tuple(self._placed.items()):
            if wanted.pop(track_id, None) is None:
                del self._placed[place]
        for track in wanted.values():
            for place, kind in enumerate(self._sections):
                if kind is track.kind and place not in self._placed:
                    self._placed[place] = track.track_id
                    break

    def _described(self) -> LocalDescription:
        self._version += 1
        return LocalDescription(
            _write(self.address, self._version, self._sections, set(self._placed)),
            {track_id: str(place) for place, track_id in self._placed.items()},
            Lines(self._sections.count(Kind.AUDIO), self._sections.count(Kind.VIDEO)),
        )

    # The network

    def reaches(self, other: Session) -> bool:
        """Whether what is sent now to the other side arrives there."""
        return not self._suspended and self.port.reaches(other.port)

    def _other(self) -> Session | None:
        """The other side, while it is there and means us."""
        other: Session | None = self.port.endpoints.get(self.remote)
        return other if other is not None and other.remote == self.address else None

    def _try(self) -> None:
        """Knock until we stand, and then until the data channels are open."""
        self._knock = None
        events, other = self._events, self._other()
        if events is None:
            return
        wait_s = _KNOCK_S
        if other is not None and self.reaches(other) and other.reaches(self):
            wait_s = self.port.delay_s(other.port) + other.port.delay_s(self.port)
            if not self.connected:
                self.far_port = other.port
                self._later(wait_s, self._stand)
            elif other.connected:
                self._later(wait_s, self._can_send)
                return
        self._knock = self._loop.call_later(max(wait_s, _KNOCK_S), self._try)

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, callback)

    def _stand(self) -> None:
        if self._events is not None and not self.connected:
            self.connected = True
            self.port.stands(self.far_port, True)
            self._events.connected()

    def _can_send(self) -> None:
        if self._events is not None and not self.open:
            self.open = True
            self._events.opened()

    @property
    def packets_received(self) -> int:
        """Packets so far: of one that sends, more each time one looks."""
        other = self._other()
        if self.connected and other is not None and other.connected and other.reaches(self):
            self._packets += 1
        return self._packets

    # Tracks and data

    def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Stop or resume sending a track."""
        (self._muted.add if muted else self._muted.discard)(track_id)

    def drop(self, track_id: TrackId) -> None:
        """Stop sending a track for good."""
        for place, held in tuple(self._placed.items()):
            if held == track_id:
                del self._placed[place]

    def push(self, make: Callable[[TrackId, Kind], Frame]) -> None:
        """Send a frame of every track that is not muted, at once: for who wants to see where it ends."""
        other = self._other()
        if other is None or not (self.connected and other.connected and self.reaches(other)):
            return
        for place, track_id in self._placed.items():
            if track_id not in self._muted and other._events is not None:
                kind = self._sections[place]
                other._events.received(str(place))
                hub = other._events.sink(str(place), kind)
                if hub is not None:
                    other._events.handed()
                    hub.push(make(track_id, kind))

    def send(self, data: bytes, *, reliable: bool) -> None:
        """Queue a data message."""
        if not self.open:
            raise EngineError("the data channels are not open yet")
        if reliable:
            self._unsent.append(data)
            if self._flush is None:
                self._send_on()
            return
        other = self._other()
        if other is not None and self.reaches(other):
            delay_s = self.port.delay_s(other.port)
            self._loop.call_later(delay_s, other._take, data, False)

    def _send_on(self) -> None:
        """Send what is queued, in order; what does not get through is tried again."""
        self._flush, other = None, self._other()
        if self._events is None:
            return
        if other is not None and self.reaches(other):  # though its word that it came may not return
            due_s = self._loop.time() + self.port.delay_s(other.port)
            while self._unsent:
                self._last_due_s = max(due_s, self._last_due_s + 1e-6)
                self._loop.call_at(self._last_due_s, other._take, self._unsent.popleft(), True)
        else:
            self._flush = self._loop.call_later(_KNOCK_S, self._send_on)

    def _take(self, data: bytes, reliable: bool) -> None:
        if self._events is not None:
            self._packets += 1
            self._events.message(data, reliable=reliable)

    def buffered(self, *, reliable: bool) -> int:
        """Bytes that still wait."""
        return sum(map(len, self._unsent)) if reliable else 0

    def explain(self) -> Diagnosis:
        """Say nothing: a simulated network has no addresses."""
        return Diagnosis()

    async def stats(self) -> SessionStats:
        """What was counted so far."""
        return SessionStats(totals=Totals(packets_received=self._packets))

    def suspend(self, suspended: bool) -> None:
        """Send nothing at all while suspended."""
        self._suspended = suspended

    async def close(self) -> None:
        """Let go of everything, and tell the other side if that gets through."""
        if self._events is None:
            return
        self._events = None
        for timer in (self._knock, self._flush):
            if timer is not None:
                timer.cancel()
        other = self._other()
        self.port.endpoints.pop(self.address, None)
        if self.connected:
            self.port.stands(self.far_port, False)
        if other is not None and self.connected and self.reaches(other):
            self._loop.call_later(self.port.delay_s(other.port), other._end)

    def _end(self) -> None:
        if self._events is not None:
            self._events.lost("the connection closed", closed=True)


def _write(address: str, version: int, sections: Sequence[Kind], sending: set[int]) -> str:
    lines = [
        "v=0",
        f"o=- {address} {version} IN IP4 0.0.0.0",
        f"a=fingerprint:sha-256 {address}",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "a=max-message-size:65536",
        f"a=candidate:{address}",
    ]
    for place, kind in enumerate(sections):
        direction = "sendrecv" if place in sending else "recvonly"
        lines += [f"m={kind.value} 9 UDP/TLS/RTP/SAVPF 0", f"a=mid:{place}", f"a={direction}"]
    return "\r\n".join(lines) + "\r\n"


def _read(sdp: str) -> tuple[str, list[Kind]]:
    """Read the address of the connection and the kinds of its media sections."""
    found = re.search(r"^o=- ([0-9a-f]+) ", sdp, re.MULTILINE)
    if found is None:
        raise EngineError("the member's description names no connection")
    return found[1], [Kind(kind) for kind in re.findall(r"^m=(audio|video) ", sdp, re.MULTILINE)]
