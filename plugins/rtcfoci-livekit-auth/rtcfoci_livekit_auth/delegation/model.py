"""The values of delegation: a leave, where its job stands, answers, and what an operator may set.

In: frozen data and the two errors. Out: anything that acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = [
    "Answer",
    "DelegationRefused",
    "DelegationSettings",
    "Key",
    "Leave",
    "NotStored",
    "Phase",
    "Record",
    "ShuttingDown",
    "Verdict",
]

Key = tuple[str, str]
"""Room and identity on the SFU: one job at a time for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """A delayed leave (MSC4140) that a client handed to us."""

    room: str
    """The room's name on the SFU."""
    identity: str
    """The participant's identity on the SFU."""
    delay_id: str = field(repr=False)
    """A secret: whoever knows it can make the user leave."""
    delay_ms: int
    """How long after a restart the homeserver sends it by itself."""
    server_name: str
    """The homeserver that holds it."""
    user_id: str | None = None
    """Whose it is; None where a store of the original service did not say."""

    @property
    def key(self) -> Key:
        """What the job is known by."""
        return self.room, self.identity

    @property
    def delay_s(self) -> float:
        """The delay in seconds."""
        return self.delay_ms / 1000


class Phase(Enum):
    """What a restart has to know of a job's state."""

    WAITING = "waiting"
    """The participant has not been seen yet."""
    CONNECTED = "connected"
    """The participant was there."""
    LEAVING = "leaving"
    """The participant is gone; the leave is to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A job at rest."""

    leave: Leave
    restarted_ts_ms: int
    """When the homeserver's timer was last set to the whole delay."""
    created_ts_ms: int
    """When the leave was handed to us."""
    phase: Phase = Phase.WAITING


class Verdict(Enum):
    """What the homeserver's answer to a restart or a send means."""

    DONE = "done"
    MISSING = "missing"
    """It has no such event any more: it was sent or cancelled."""
    NOWHERE = "nowhere"
    """The client-server address of the homeserver cannot be found."""
    LATER = "later"
    """Anything else: ask again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the homeserver, or its silence."""

    verdict: Verdict
    retry_after_s: float | None = None
    """What the homeserver asks to wait, where it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationSettings:
    """What an operator may set. The defaults are the original's behaviour; see `careful`."""

    sanity_interval_s: float = 0.0
    """How often the SFU is asked whether a connected participant is still there; 0 never."""
    confirm_leaves: bool = False
    """Ask the SFU before a leave is sent, so that the end of a session which another one superseded is
    no leave, and somebody who reconnects stays."""
    reconnect_grace_s: float = 10.0
    """With `confirm_leaves`, how long somebody whose session was lost may take to come back."""
    leave_while_waiting: bool = False
    """Somebody who leaves by intent before we saw them connect has left."""
    restart_while_waiting: bool = False
    """Keep the delayed event from firing while its owner is still connecting."""
    remember: bool = False
    """A restored job goes on where it was, with the time that remains; otherwise it waits anew."""
    rooms_finish: bool = False
    """The end of a room on the SFU is the end of everybody in it."""
    doubt_answers: bool = False
    """A 404 that is no Matrix error is a proxy's, a `Retry-After` cannot make a deadline pass, and an
    address that cannot be found now may be found later."""
    most_leaves: int = 0
    """How many leaves are watched over at a time; 0 is no limit. Ten thousand take some 15 MB."""
    refuse_unstored: bool = False
    """Refuse a delegation that the store did not take, instead of holding it in memory alone."""
    calls_per_s: float = 0.0
    """How many unauthenticated calls a second a homeserver takes from us; 0 is no limit. Synapse's own
    default is 1 (`rc_delayed_event_mgmt`)."""
    calls_burst: int = 5
    """How many of them may come at once."""
    call_timeout_s: float = 5.0
    """How long one call to a homeserver or look-up on the SFU may take."""

    @classmethod
    def careful(cls, *, sanity_interval_s: float = 60.0) -> DelegationSettings:
        """Give the settings with everything that is better than the original."""
        return cls(
            sanity_interval_s=sanity_interval_s,
            confirm_leaves=True,
            leave_while_waiting=True,
            restart_while_waiting=True,
            remember=True,
            rooms_finish=True,
            doubt_answers=True,
            most_leaves=100_000,
            refuse_unstored=True,
            calls_per_s=1.0,
        )


class DelegationRefused(Exception):
    """A leave cannot be watched over; the message is for the client."""


class NotStored(Exception):
    """The store did not take a leave, so it would not survive us; the client may try again."""


class ShuttingDown(Exception):
    """No more leaves are taken."""
