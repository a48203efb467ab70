"""Reading policies: which memberships count, and what of them is believed.

In: the rule as a value, and the three that are always there. Out: what is the same under every policy,
which is the session's (`rtcfoci.core.session`): one event of a key is current, and its member must be
joined to the room, in the slot, and not expired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rtcfoci.core.model import Membership, SlotStatus
from rtcfoci.core.slots import SLOT_EVENT_TYPES
from rtcfoci.errors import Problem

__all__ = [
    "DEPLOYED",
    "POLICIES",
    "STATE_TYPE",
    "STICKY_TYPE",
    "STRICT",
    "TOLERANT",
    "ReadingPolicy",
    "Refuses",
    "RoomView",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomView:
    """What the room says that bears on who counts."""

    slot_status: SlotStatus = SlotStatus.ABSENT
    slot_encrypted: bool | None = False
    """Whether the slot asks its members for encryption; None when what it says of it is malformed."""
    room_encrypted: bool = False


Refuses: TypeAlias = Callable[[Membership, str, RoomView], Problem | None]
"""Why a membership (its event type, the room) does not count; None when it does. Pure, never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPolicy:
    """One way of reading a slot."""

    name: str
    refuses: Refuses
    one_per_device: bool = True
    """Of one device the membership that joined last is the member; else each is one."""
    keeps_first_time: bool = True
    """A sticky member joined with the first event of its chain; else with the current one."""
    believes_claims: bool = False
    """`created_ts`, `expires` and `membershipID` of state count as claimed, whatever they say."""
    reads_otherwise: bool = False
    """An event counts as what deployed readers take it for (`Leave.otherwise`, `Problems.otherwise`)."""
    keeps_redactions: bool = True
    """An event that was redacted before it came, or that comes again, stays redacted."""
    key_is_member_id: bool = False
    """A sticky member counts only under its own member id as sticky key."""
    sticky_hides_state: bool = False
    """A current sticky event, whoever sent it, hides the state that has its sticky key for a state key."""
    slot_types: tuple[str, ...] = SLOT_EVENT_TYPES
    """The event types in which a slot is looked for."""
    slot_status_required: bool = True
    """Whether a slot event without `status`, as they were before 2026-07, is of a closed slot."""


_SLOT_CLOSED = Problem("slot_closed", "the slot is closed")
_SLOT_ABSENT = Problem("slot_absent", "the room has no such slot")
_SLOT_IN_CLEAR = Problem("slot_closed", "the room is encrypted, and the slot does not ask for it")
_NOT_ENCRYPTED = Problem(
    "not_encrypted", "the room is encrypted, and no device of its sender encrypted the membership"
)


def _not_counted(name: str) -> Problem:
    return Problem("dialect_not_counted", f"this policy does not count {name[:80]}")


def _refuses_nobody(membership: Membership, event_type: str, room: RoomView) -> Problem | None:
    return None


_DEPLOYED_STATE = ("D2", "D3")
_DEPLOYED_STICKY = ("D6", "D6/D7")
STATE_TYPE, STICKY_TYPE = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
"""The event types of deployed clients: the stable names are read by nobody yet."""


def _as_deployed(membership: Membership, event_type: str, room: RoomView) -> Problem | None:
    if event_type not in (STATE_TYPE, STICKY_TYPE):
        return _not_counted(event_type)
    if membership.dialect in _DEPLOYED_STICKY:
        return _SLOT_CLOSED if room.slot_status is SlotStatus.CLOSED else None
    return None if membership.dialect in _DEPLOYED_STATE else _not_counted(membership.dialect)


def _as_written(membership: Membership, event_type: str, room: RoomView) -> Problem | None:
    if membership.dialect not in ("D7", "D6/D7"):
        return _not_counted(membership.dialect)
    if room.slot_status is not SlotStatus.OPEN or room.slot_encrypted is None:
        return _SLOT_ABSENT if room.slot_status is SlotStatus.ABSENT else _SLOT_CLOSED
    if room.room_encrypted:
        if not room.slot_encrypted:
            return _SLOT_IN_CLEAR
        return None if membership.encrypted else _NOT_ENCRYPTED
    return None


DEPLOYED = ReadingPolicy(
    name="deployed",
    refuses=_as_deployed,
    one_per_device=False,
    keeps_first_time=False,
    believes_claims=True,
    reads_otherwise=True,
    keeps_redactions=False,
    sticky_hides_state=True,
    slot_types=SLOT_EVENT_TYPES[:1],
)
"""As matrix-js-sdk 43 reads: D2, D3, D6 and the superset; an absent slot is open, a closed one hides
sticky members only."""
STRICT = ReadingPolicy(name="strict", refuses=_as_written, key_is_member_id=True)
"""As MSC4143 says (text of 2026-07-24): D7 and the superset, in an open slot, encrypted as the room is."""
TOLERANT = ReadingPolicy(name="tolerant", refuses=_refuses_nobody, slot_status_required=False)
"""Every dialect, whatever the slot says: what a participant goes by, so as to miss nobody."""
POLICIES: tuple[ReadingPolicy, ...] = (DEPLOYED, STRICT, TOLERANT)
