"""What changes in a session: one typed value for each thing that can happen to it.

In: the diffs. Out: how they come about (`rtcfoci.core.session`), what a call makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from rtcfoci.core.model import Membership, SlotStatus
from rtcfoci.errors import Problem

__all__ = [
    "EventIgnored",
    "LeftReason",
    "MemberChanged",
    "MemberJoined",
    "MemberLeft",
    "MemberRefreshed",
    "SessionDiff",
    "SlotChanged",
]


class LeftReason(Enum):
    """Why a member is no longer in the session."""

    LEFT = "left"
    """It said so."""
    EXPIRED = "expired"
    REPLACED = "replaced"
    """The same device is in the session under another member id."""
    REDACTED = "redacted"
    NOT_IN_ROOM = "not_in_room"
    """Left, kicked or banned."""
    SLOT = "slot"
    """The slot's or room's state no longer lets it count."""
    INVALID = "invalid"
    """Its latest event cannot be read."""


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A device is in the session that was not."""

    membership: Membership


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """The same member says something else: transports, application data, time of joining."""

    old: Membership
    new: Membership


@dataclass(frozen=True, slots=True)
class MemberRefreshed:
    """The same member says the same again, for longer."""

    old: Membership
    new: Membership


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member is no longer in the session."""

    membership: Membership
    """As it was last."""
    reason: LeftReason


@dataclass(frozen=True, slots=True)
class SlotChanged:
    """The slot event says something else."""

    status: SlotStatus


@dataclass(frozen=True, slots=True)
class EventIgnored:
    """An event that should have been a membership is not."""

    event_id: str
    sender: str
    problems: tuple[Problem, ...]


SessionDiff: TypeAlias = (
    MemberJoined | MemberChanged | MemberRefreshed | MemberLeft | SlotChanged | EventIgnored
)
