"""What a job does on what it learns, as tables, and how long it waits, as numbers.

In: the original's table, what each setting changes in it, and the backoff. Out: the machine that follows
them (`job`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from rtcfoci_livekit_auth.delegation.model import DelegationSettings

__all__ = [
    "CONFIRM_S",
    "FINAL",
    "INTENT_GRACE_S",
    "LONGEST_S",
    "RESTART_AT",
    "URGENT_AT",
    "Given",
    "Rules",
    "State",
    "backoff_s",
]

LONGEST_S = 3600.0
"""Nothing is waited for or tried longer than this, however long the delay (lk-jwt-service)."""
CONFIRM_S = 10.0
"""How long an SFU that does not answer can put off a leave that it reported itself."""
INTENT_GRACE_S = 2.0
"""livekit-client takes leave by intent before it reconnects in full; it is back within a second."""
RESTART_AT = 0.8
"""The part of the delay after which it is restarted (lk-jwt-service)."""
URGENT_AT = 0.9
"""The part of the delay after which a restart goes before every leave."""

_BACKOFF_S, _BACKOFF_FACTOR, _BACKOFF_MOST_S = 1.0, 1.5, 60.0


class State(Enum):
    """What a job is about."""

    WAITING = "waiting"
    """Its participant is still to connect."""
    CONNECTED = "connected"
    """Its participant is there: the delayed event is kept from firing."""
    CHECKING = "checking"
    """Its participant is said to be gone: the SFU is asked, the delayed event kept from firing."""
    LEAVING = "leaving"
    """The leave is being sent."""
    LEFT = "left"
    """The leave was sent."""
    LAPSED = "lapsed"
    """Nothing more is done: the homeserver sends the leave when its delay is over, or already has."""
    REPLACED = "replaced"
    """Somebody else sees to this participant: a newer job here, or another replica."""


FINAL = frozenset({State.LEFT, State.LAPSED, State.REPLACED})
"""States that a job ends in."""


class Given(Enum):
    """What a job learns."""

    SEEN = "seen"
    """The participant is on the SFU."""
    LEFT_BY_INTENT = "left by intent"
    LOST = "lost"
    """The participant's session ended in any other way, or never came about."""
    ABSENT = "absent"
    """The SFU does not know the participant."""
    WAITED = "waited"
    """The time to connect is over."""
    CONFIRMED = "confirmed"
    """A check ended: the participant is gone."""
    MISSING = "missing"
    """The homeserver has no such delayed event."""
    NOWHERE = "nowhere"
    """The homeserver's client-server address cannot be found."""
    LATE = "late"
    """The delay passed without a restart, so the homeserver has sent the leave."""
    SENT = "sent"
    SPENT = "spent"
    """Sending failed until its time was over."""


Table = Mapping[State, Mapping[Given, State]]

ORIGINAL: Table = {
    State.WAITING: {
        Given.SEEN: State.CONNECTED,
        Given.LOST: State.LAPSED,
        Given.WAITED: State.LEAVING,
    },
    State.CONNECTED: {
        Given.LEFT_BY_INTENT: State.LEAVING,
        Given.LOST: State.LEAVING,
        Given.ABSENT: State.LEAVING,
        Given.MISSING: State.LAPSED,
        Given.NOWHERE: State.LAPSED,
        Given.LATE: State.LAPSED,
    },
    State.LEAVING: {
        Given.SENT: State.LEFT,
        Given.SPENT: State.LAPSED,
    },
}
"""What lk-jwt-service does; what a state does not name changes nothing."""

CHANGES: Mapping[str, Table] = {
    "leave_while_waiting": {State.WAITING: {Given.LEFT_BY_INTENT: State.LEAVING}},
    "restart_while_waiting": {
        State.WAITING: {Given.MISSING: State.LAPSED, Given.LATE: State.LAPSED},
    },
    "confirm_leaves": {
        State.WAITING: {
            Given.LEFT_BY_INTENT: State.CHECKING,
            Given.LOST: State.WAITING,
            Given.WAITED: State.CHECKING,
        },
        State.CONNECTED: {
            Given.LEFT_BY_INTENT: State.CHECKING,
            Given.LOST: State.CHECKING,
            Given.ABSENT: State.CHECKING,
        },
        State.CHECKING: {
            Given.SEEN: State.CONNECTED,
            Given.LEFT_BY_INTENT: State.CHECKING,
            Given.LOST: State.CHECKING,
            Given.CONFIRMED: State.LEAVING,
            Given.MISSING: State.LAPSED,
            Given.LATE: State.LAPSED,
        },
        State.LEAVING: {Given.SEEN: State.CONNECTED},
    },
}
"""What a setting changes in the table, in this order."""


class Rules:
    """The table and the numbers that all jobs of one service share."""

    __slots__ = ("settings", "table")

    def __init__(self, settings: DelegationSettings) -> None:
        table = {state: dict(row) for state, row in ORIGINAL.items()}
        for name, change in CHANGES.items():
            if getattr(settings, name):
                for state, row in change.items():
                    table.setdefault(state, {}).update(row)
        if not settings.leave_while_waiting:
            table[State.WAITING].pop(Given.LEFT_BY_INTENT, None)
        if settings.doubt_answers:
            table[State.CONNECTED].pop(Given.NOWHERE, None)
        self.settings: DelegationSettings = settings
        self.table: Table = table

    def __repr__(self) -> str:
        return f"Rules({self.settings!r})"


def backoff_s(tries: int, chance: float) -> float:
    """Give the wait after so many failures in a row: 1 s, half as much again each time, up to a minute.

    :param chance: from 0 to 1, spreads the wait by half of it to either side.
    """
    wait_s = _BACKOFF_MOST_S if tries > 12 else _BACKOFF_S * _BACKOFF_FACTOR ** max(0, tries - 1)
    return min(_BACKOFF_MOST_S, wait_s) * (0.5 + chance)
