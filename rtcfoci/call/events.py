"""What a call reports to its application: one stream of typed events, in the past tense.

In: the events. Out: who raises them (`rtcfoci.call.call`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from rtcfoci.core.conditions import Condition
from rtcfoci.core.model import Member
from rtcfoci.media.tracks import RemoteTrack

if TYPE_CHECKING:
    from rtcfoci.call.call import Participant

__all__ = [
    "CallDeclined",
    "CallEnded",
    "CallEvent",
    "ConditionCleared",
    "ConditionRaised",
    "DataReceived",
    "FocusChanged",
    "ParticipantChanged",
    "ParticipantJoined",
    "ParticipantLeft",
    "SpeakingChanged",
    "TrackAdded",
    "TrackMuted",
    "TrackRemoved",
]


@dataclass(frozen=True, slots=True)
class ParticipantJoined:
    """Another device joined the session, or was in it when we joined."""

    participant: Participant


@dataclass(frozen=True, slots=True)
class ParticipantChanged:
    """A participant's membership changed: other transports, or other application data."""

    participant: Participant


@dataclass(frozen=True, slots=True)
class ParticipantLeft:
    """A participant is no longer in the session."""

    participant: Participant
    reason: str


@dataclass(frozen=True, slots=True)
class TrackAdded:
    """A participant publishes a track; the same object lives through changes of focus."""

    track: RemoteTrack


@dataclass(frozen=True, slots=True)
class TrackRemoved:
    """A participant stopped publishing a track, or left."""

    track: RemoteTrack


@dataclass(frozen=True, slots=True)
class TrackMuted:
    """A participant muted or unmuted a track; `track.muted` says which."""

    track: RemoteTrack


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A participant sent data; untrusted."""

    member: Member
    payload: bytes = field(repr=False)
    topic: str
    reliable: bool


@dataclass(frozen=True, slots=True)
class SpeakingChanged:
    """Loudness of a participant's microphone, 0 to 1."""

    member: Member
    level: float


@dataclass(frozen=True, slots=True)
class FocusChanged:
    """Our own publishing moved to another focus."""

    focus_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConditionRaised:
    """Something about the call's health changed for the worse, or its cause did."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class ConditionCleared:
    """A condition no longer holds."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class CallDeclined:
    """Somebody whom we rang (`Call.ring`) will not come."""

    user_id: str
    event_id: str
    """Of our notification."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is over for us: the last event. `condition` is the terminal one, None after leaving."""

    condition: Condition | None


CallEvent: TypeAlias = (
    ParticipantJoined | ParticipantChanged | ParticipantLeft | TrackAdded | TrackRemoved
    | TrackMuted | DataReceived | SpeakingChanged | FocusChanged | ConditionRaised
    | ConditionCleared | CallDeclined | CallEnded
)  # fmt: skip
