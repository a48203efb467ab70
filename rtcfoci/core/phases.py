"""What the lifecycle machine can be about, asked for and configured to: its words and its plain tables.

In: goals, states, inputs, which input is possible when, which rate limit a state's request counts
against, and the times, each with its reason. Out: what follows from what (`beliefs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from rtcfoci.errors import UsageError

__all__ = [
    "BUDGETS",
    "INPUTS",
    "MIN_DELAY_MS",
    "MIN_RESTART_S",
    "Budget",
    "Goal",
    "Input",
    "LifecycleConfig",
    "State",
]

MIN_RESTART_S = 1.0
"""Synapse's `rc_delayed_event_mgmt` is 1/s (burst 5)."""
MIN_DELAY_MS = 3_000
"""A shorter delay cannot survive two lost restarts at 1/s: it would only throw us out."""


class Goal(Enum):
    """What the machine is asked to bring about."""

    NONE = "none"
    """Nothing was asked yet."""
    IN = "in"
    OUT = "out"
    ENDED = "ended"
    """Out, or given up: see the state."""
    REVOKED = "revoked"
    """Without a token nothing can be asked any more."""


class State(Enum):
    """What the machine is about; the request of a duty may be waiting or under way."""

    IDLE = "idle"
    LISTING = "listing"
    """What did a crashed process, or a lost answer, leave behind?"""
    SCHEDULING = "scheduling"
    """The delayed leave."""
    RESTARTING = "restarting"
    CLEARING = "clearing"
    """Left-over leaves: cancelled if they would hit the membership we write, sent if not."""
    SENDING = "sending"
    """The membership: first, refreshed, updated or lost."""
    JOINED = "joined"
    """Nothing to do until a timer."""
    FIRING = "firing"
    """Leaving by having the delayed leave sent now: one request does both."""
    WITHDRAWING = "withdrawing"
    """Leaving by sending the leave."""
    CANCELLING = "cancelling"
    """The delayed leave of a membership that is gone or never was."""
    LEFT = "left"
    """The homeserver confirmed that we are out, or nothing was ever sent."""
    LEAVE_FAILED = "leave_failed"
    """Our membership may still be in the room; `leave` tries again."""
    REVOKED = "revoked"
    """The token is gone: only the delayed leave or expiry can withdraw us."""


class Input(Enum):
    """What can be asked or told, apart from what is always welcome (sync, connectivity, timers)."""

    JOIN = "join"
    UPDATE = "update"
    LEAVE = "leave"
    EVICTED = "evicted"
    TOKEN_REVOKED = "token_revoked"


class Budget(Enum):
    """A rate limit of the homeserver."""

    MESSAGE = "rc_message"
    MANAGE = "rc_delayed_event_mgmt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleConfig:
    """How fast a crash shows, against how long a homeserver may be away."""

    leave_delay_ms: int = 18_000
    """How long after the last restart the homeserver withdraws us.

    With a restart every 4 s a killed participant is gone 14 to 18 s later (its media is missed within
    4 s anyway), and the homeserver may be silent for 12 s (14 less one 2 s try) before it expels us:
    enough for a Synapse restart and for two lost restarts in a row. Element Call 0.26.1 has the same two
    numbers; js-sdk's own 8 s and 5 s expel after a single lost restart."""
    restart_every_s: float = 4.0
    """Scales with the delay if the homeserver allows less; 0.25/s of Synapse's 1/s."""
    lifetime_ms: int = 3_600_000
    """How long a guarded membership counts; refreshed at half. Sticky events live no longer (MSC4354)."""
    unguarded_lifetime_ms: int = 600_000
    """The same without a delayed leave: how long the ghost of a crash stays."""
    request_timeout_s: float = 5.0
    probe_timeout_s: float = 2.0
    """For restarts, which are worth nothing late, and for everything while the homeserver is silent."""
    leave_timeout_s: float = 10.0
    """No new attempt to withdraw after this long."""

    def __post_init__(self) -> None:
        times = (self.lifetime_ms, self.unguarded_lifetime_ms, self.request_timeout_s)
        if (
            min(*times, self.probe_timeout_s, self.leave_timeout_s) <= 0
            or self.leave_delay_ms < MIN_DELAY_MS
            or not MIN_RESTART_S <= self.restart_every_s <= self.leave_delay_ms / 2000
        ):
            raise UsageError(
                "these lifecycle times cannot hold a membership",
                why="a time is not positive, or the delayed leave would fire after one lost restart",
                do=f"restart at least every half leave_delay_ms, which is {MIN_DELAY_MS} or more",
            )


INPUTS: Mapping[Goal, Mapping[Input, Goal]] = MappingProxyType(
    {
        Goal.NONE: {
            Input.JOIN: Goal.IN,
            Input.LEAVE: Goal.OUT,
            Input.EVICTED: Goal.NONE,
            Input.TOKEN_REVOKED: Goal.REVOKED,
        },
        Goal.IN: {
            Input.UPDATE: Goal.IN,
            Input.LEAVE: Goal.OUT,
            Input.EVICTED: Goal.OUT,
            Input.TOKEN_REVOKED: Goal.REVOKED,
        },
        Goal.OUT: {
            Input.LEAVE: Goal.OUT,
            Input.EVICTED: Goal.OUT,
            Input.TOKEN_REVOKED: Goal.REVOKED,
        },
        Goal.ENDED: {
            Input.JOIN: Goal.IN,
            Input.LEAVE: Goal.OUT,
            Input.EVICTED: Goal.ENDED,
            Input.TOKEN_REVOKED: Goal.REVOKED,
        },
        Goal.REVOKED: {
            Input.LEAVE: Goal.REVOKED,
            Input.EVICTED: Goal.REVOKED,
            Input.TOKEN_REVOKED: Goal.REVOKED,
        },
    }
)
"""What may be asked while which goal holds, and the goal it sets."""


BUDGETS: Mapping[State, Budget] = MappingProxyType(
    {
        State.LISTING: Budget.MANAGE,
        State.SCHEDULING: Budget.MESSAGE,
        State.RESTARTING: Budget.MANAGE,
        State.CLEARING: Budget.MANAGE,
        State.SENDING: Budget.MESSAGE,
        State.FIRING: Budget.MANAGE,
        State.WITHDRAWING: Budget.MESSAGE,
        State.CANCELLING: Budget.MANAGE,
    }
)
"""What each request counts against at Synapse 1.163.2: scheduling as a message, all else as managing."""
