"""What a pair's negotiation is told, and what it wants done.

In: inputs, past tense, and effects, imperative. Out: which input has which effect (`signalling`), who
runs the effects (`peer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rtcfoci_mesh.wire import Lines, Signal, TrackInfo

__all__ = [
    "Applied",
    "Apply",
    "Begin",
    "Close",
    "Connected",
    "Described",
    "Effect",
    "Failed",
    "Input",
    "MakeAnswer",
    "MakeOffer",
    "Open",
    "Received",
    "Restarted",
    "Send",
    "Tick",
    "TracksChanged",
    "Unreachable",
]

# What the pair is told.


@dataclass(frozen=True, slots=True)
class Begin:
    """The member is in the call."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The member came back under the same id: nothing of before is left on its side."""


@dataclass(frozen=True, slots=True)
class Received:
    """A payload came from the member."""

    payload: object


@dataclass(frozen=True, slots=True)
class Described:
    """The engine made the description asked for by `MakeOffer` or `MakeAnswer`."""

    attempt: str
    sdp: str
    tracks: tuple[TrackInfo, ...]
    lines: Lines
    """Offerer: the media sections there are. Answerer: the media sections it needs."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The engine took the answer in."""

    attempt: str


@dataclass(frozen=True, slots=True)
class Connected:
    """Media can flow."""

    attempt: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt is of no use any more."""

    attempt: str
    cause: str
    patience_s: float = 0.0
    """How long to wait at least before trying again."""


@dataclass(frozen=True, slots=True)
class TracksChanged:
    """Our own tracks changed."""

    need: Lines


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that `Negotiation.timer` named has come."""


Input: TypeAlias = (
    Begin | Restarted | Received | Described | Applied | Connected | Failed | TracksChanged | Tick
)

# What the pair wants done.


@dataclass(frozen=True, slots=True)
class Open:
    """Create a connection."""

    attempt: str


@dataclass(frozen=True, slots=True)
class Close:
    """Drop the connection."""

    attempt: str


@dataclass(frozen=True, slots=True)
class MakeOffer:
    """Describe our side, with at least these media sections; report `Described` or `Failed`."""

    attempt: str
    lines: Lines


@dataclass(frozen=True, slots=True)
class MakeAnswer:
    """Take the offer in and describe our side; report `Described` or `Failed`."""

    attempt: str
    sdp: str
    tracks: tuple[TrackInfo, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """Take the answer in; report `Applied` or `Failed`."""

    attempt: str
    sdp: str
    tracks: tuple[TrackInfo, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to the member."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An attempt came to nothing; the next one follows."""

    cause: str


Effect: TypeAlias = Open | Close | MakeOffer | MakeAnswer | Apply | Send | Unreachable
