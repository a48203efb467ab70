"""What the mesh needs of a WebRTC implementation, so that aiortc is not welded in.

In: the protocols, and what goes over them. Out: the implementation (`aiortc_engine`), when it is asked
for what (`signalling`, `peer`).

Everything here is called on the media loop. A session takes tracks as the rest of the house knows them
and places them on media sections; it hands what it receives to the hub that its owner names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from rtcfoci.errors import RtcfociError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import PathStats
from rtcfoci_mesh.config import IceServer
from rtcfoci_mesh.wire import Lines

__all__ = [
    "Diagnosis",
    "EngineError",
    "LocalDescription",
    "MeshEngine",
    "PeerSession",
    "SessionEvents",
    "SessionOptions",
    "SessionStats",
    "Totals",
]


class EngineError(RtcfociError):
    """The engine cannot go on with a session.

    :param code: the condition this leads to.
    """

    def __init__(self, what: str, *, code: str = "peer_unreachable", why: str = "") -> None:
        super().__init__(what, why=why)
        self.code = code


@dataclass(frozen=True, slots=True)
class LocalDescription:
    """Our side of a negotiation."""

    sdp: str
    placed: Mapping[TrackId, str]
    """The media section (mid) of each of our tracks that found one."""
    lines: Lines
    """How many media sections there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session reaches the other side."""

    ice_servers: Sequence[IceServer] = field(repr=False)
    loopback: bool
    gather_timeout_s: float
    relay_only: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a session knows about its path to the member."""

    cause: str = ""
    """The path, or what was tried and why none worked; addresses, but no credentials."""
    remedy: str = ""
    refused: bool = False
    """Whether a server refused our credentials: fresh ones are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts since a session began."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    """Media packets."""
    packets_sent: int = 0
    packets_received_lost: int = 0
    packets_sent_lost: int = 0
    """As the other side reports them."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in _COUNTS})

    def __sub__(self, other: Totals) -> Totals:
        return Totals(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in _COUNTS})


_COUNTS = fields(Totals)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStats:
    """What an engine knows of one session; None where it does not."""

    totals: Totals = Totals()
    rtt_ms: float | None = None
    jitter_ms: float | None = None
    path: PathStats | None = None
    audio_codec: str | None = None
    video_codec: str | None = None


class SessionEvents(Protocol):
    """What a session tells its owner."""

    def connected(self) -> None:
        """Media can flow."""

    def lost(self, cause: str, *, closed: bool) -> None:
        """The session is of no use any more; `closed` when the other side ended it."""

    def opened(self) -> None:
        """Both data channels can be used."""

    def message(self, data: bytes, *, reliable: bool) -> None:
        """A data message came."""

    def sink(self, mid: str, kind: Kind) -> FrameHub | None:
        """Name the hub for the next frame of a media section; None: nobody wants it."""

    def received(self, mid: str) -> None:
        """Something came on a media section, wanted or not."""

    def handed(self, *, concealed: bool = False) -> None:
        """A frame was given to a hub; concealed when it was made up for one that did not come."""


class PeerSession(Protocol):
    """One connection to one member; of no more use after an error."""

    async def offer(self, tracks: Sequence[LocalTrack], lines: Lines) -> LocalDescription:
        """Place tracks on at least that many media sections. :raises EngineError:"""

    async def answer(self, sdp: str, tracks: Sequence[LocalTrack]) -> LocalDescription:
        """Take an offer in and place tracks on its media sections. :raises EngineError:"""

    async def apply(self, sdp: str) -> None:
        """Take the answer in. :raises EngineError:"""

    def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Stop or resume sending a track."""

    def drop(self, track_id: TrackId) -> None:
        """Stop sending a track for good; its media section is free for another."""

    def send(self, data: bytes, *, reliable: bool) -> None:
        """Queue a data message. :raises EngineError: when the channels are not open."""

    def buffered(self, *, reliable: bool) -> int:
        """Bytes of data messages that still wait."""

    @property
    def packets_received(self) -> int:
        """Packets of media, control and data so far: while the other side lives it grows."""

    def explain(self) -> Diagnosis:
        """Say which path there is to the member, or why there is none."""

    async def stats(self) -> SessionStats:
        """What was counted so far; asked twice a second."""

    def suspend(self, suspended: bool) -> None:
        """Send nothing at all while suspended, as if the network were cut: for tests and drills."""

    async def close(self) -> None:
        """Let go of everything; idempotent, never raises."""


class MeshEngine(Protocol):
    """A WebRTC implementation."""

    @property
    def conceals(self) -> bool:
        """Whether it makes up sound for what is lost, and not only silence."""

    def open(self, options: SessionOptions, events: SessionEvents) -> PeerSession:
        """Begin a connection. :raises EngineError:"""

    def watch(self, troubled: Callable[[TrackId, str | None], None]) -> None:
        """Say from now on which of our tracks cannot be encoded, and why; None: again it can be."""
