"""What a connection reports: one typed event for each thing that can happen on a focus.

In: the events. Out: how they are carried (`stream`) and what the call makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from rtcfoci.core.model import Member
    from rtcfoci.media.tracks import FrameHub, TrackId

__all__ = [
    "ConditionCleared",
    "ConditionRaised",
    "ConnectionEvent",
    "DataReceived",
    "FirstMedia",
    "KeyProblem",
    "Speaking",
    "TrackAdded",
    "TrackMuted",
    "TrackRemoved",
]


@dataclass(frozen=True, slots=True)
class TrackAdded:
    """A remote track can be read; its frames come out of `hub`."""

    track_id: TrackId
    hub: FrameHub


@dataclass(frozen=True, slots=True)
class TrackRemoved:
    """A remote track is gone; it may come back, here or on another connection, under the same id.

    Where its member ended it, end its hub first: then the call gives it up after a second. While the
    hub has not ended the track is expected back, as after a lost connection, and readers wait 30 s.
    """

    track_id: TrackId


@dataclass(frozen=True, slots=True)
class TrackMuted:
    """A remote track was muted or unmuted by its sender."""

    track_id: TrackId
    muted: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A data message of a member; at most the type's limit in size, untrusted."""

    member: Member
    payload: bytes
    topic: str
    reliable: bool


@dataclass(frozen=True, slots=True)
class Speaking:
    """Loudness of a member's microphone, 0 to 1."""

    member: Member
    level: float


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """Frames of a member cannot be decrypted: no key of that index (`missing`), or it failed."""

    member: Member
    index: int
    problem: Literal["missing", "failed"]


@dataclass(frozen=True, slots=True)
class FirstMedia:
    """The first frame or message of a member came through this connection."""

    member: Member


@dataclass(frozen=True, slots=True)
class ConditionRaised:
    """A condition holds (`rtcfoci.core.conditions`)."""

    code: str
    cause: str
    subject: str = ""
    what: str = ""
    remedy: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class ConditionCleared:
    """A condition no longer holds."""

    code: str
    subject: str = ""


ConnectionEvent: TypeAlias = (
    TrackAdded | TrackRemoved | TrackMuted | DataReceived | Speaking | KeyProblem | FirstMedia
    | ConditionRaised | ConditionCleared
)  # fmt: skip
