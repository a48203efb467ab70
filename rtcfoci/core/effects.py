"""What the lifecycle machine asks of its driver, and what the driver answers.

In: effects (imperative), their results, the classification of a homeserver's refusals, and the two small
protocols through which the machine sees the events it sends and finds without reading their content.
Out: when which effect is due (`lifecycle`), what the events contain (`dialects`), who runs them.

Every effect is answered exactly once, at the latest after its `timeout_s`: a request that was aborted,
timed out or cancelled is `Outcome.UNREACHABLE`, which means that it may have taken effect all the same.

Delay ids are capabilities (some homeservers let anyone who knows one use it): no repr shows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError

__all__ = [
    "ANSWERS",
    "CancelLeave",
    "ClearCondition",
    "Done",
    "Effect",
    "Event",
    "Failure",
    "HeldEvent",
    "ListDelayed",
    "Listed",
    "MembershipWriter",
    "Outcome",
    "Output",
    "RaiseCondition",
    "RestartLeave",
    "Result",
    "ScheduleLeave",
    "Scheduled",
    "SendHeldLeave",
    "SendLeave",
    "SendMembership",
    "Sent",
]


class Event(Protocol):
    """An event to be sent; `dialects` makes them."""

    @property
    def type(self) -> str:
        """The event type on the wire."""

    @property
    def content(self) -> JsonObject:
        """Opaque here."""

    @property
    def state_key(self) -> str | None:
        """None for events that are not state."""

    @property
    def sticky_duration_ms(self) -> int | None:
        """None for events that are not sticky."""


class HeldEvent(Protocol):
    """One of our own events that the homeserver holds for later, in the room of this call."""

    @property
    def delay_id(self) -> str:
        """A secret."""

    @property
    def type(self) -> str:
        """The event type on the wire."""

    @property
    def state_key(self) -> str | None:
        """None for events that are not state."""

    @property
    def content(self) -> JsonObject:
        """What will be sent."""


class MembershipWriter(Protocol):
    """Writes the events of one join in one dialect: always the same state key or sticky key."""

    def join(self, *, lifetime_ms: int) -> Event:
        """Write the first membership.

        :param lifetime_ms: how long it counts. Sticky dialects write their constant duration instead.
        """

    def refresh(self, *, created_ts_ms: int, now_ts_ms: int, lifetime_ms: int) -> Event:
        """Write it again, later or with changes, as the same join.

        :param created_ts_ms: when the first was accepted.
        :param now_ts_ms: by the same clock as `created_ts_ms`; it counts `lifetime_ms` from then.
        """

    def leave(self) -> Event:
        """Write the leave; always the same."""

    def owns(self, held: HeldEvent) -> bool:
        """Tell whether `held` is a leave that this device scheduled for this slot, in any dialect.

        The list is per user: the leave of another device of ours must never match.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One request to the homeserver, in the room of the call; at most one is under way."""

    id: int
    timeout_s: float
    """Give up after this long and answer `Outcome.UNREACHABLE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListDelayed(Effect):
    """List our scheduled events of this room; answered by `Listed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLeave(Effect):
    """Have the homeserver send `event` after `delay_ms`; answered by `Scheduled`."""

    event: Event
    delay_ms: int
    txn_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLeave(Effect):
    """Let the delay begin anew; answered by `Done`."""

    delay_id: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelLeave(Effect):
    """Drop a scheduled leave; answered by `Done`."""

    delay_id: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeldLeave(Effect):
    """Have a scheduled leave sent at once, ours or a crashed process's; answered by `Done`."""

    delay_id: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMembership(Effect):
    """Send the membership; a repeat carries the same `txn_id`. Answered by `Sent`."""

    event: Event
    txn_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLeave(Effect):
    """Send the leave itself; a repeat carries the same `txn_id`. Answered by `Sent`."""

    event: Event
    txn_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseCondition:
    """A condition holds (again, perhaps with another cause or retry time)."""

    code: str
    cause: str
    subject: str = ""
    """What it is about; empty for the call as a whole."""
    retry_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearCondition:
    """A condition no longer holds."""

    code: str
    subject: str = ""


Output: TypeAlias = Effect | RaiseCondition | ClearCondition


class Outcome(Enum):
    """How a request ended, as far as the machine cares."""

    OK = "ok"
    GONE = "gone"
    """The delayed event is no longer held: it was sent or cancelled."""
    TOO_LONG = "too long"
    """The delay is above the homeserver's maximum."""
    FORBIDDEN = "forbidden"
    UNRECOGNIZED = "unrecognized"
    """The homeserver does not know the endpoint, or does something else there."""
    REJECTED = "rejected"
    """Refused for another reason; the same request will be refused again."""
    RATE_LIMITED = "rate limited"
    UNREACHABLE = "unreachable"
    """No answer, or none of Matrix: the request may have taken effect."""
    REVOKED = "revoked"
    """The access token is not valid (any more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A delayed event was restarted, cancelled or sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Our scheduled events of this room."""

    events: tuple[HeldEvent, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """The leave is held by the homeserver."""

    delay_id: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The event is in the room."""

    event_id: str


# Synapse 1.163.2; older Synapse put its own code beside M_UNKNOWN. The MSC's spelling, 403 M_FORBIDDEN,
# cannot be told from a plain refusal here: the machine, which knows the capability, decides.
_TOO_LONG_ERRCODES = frozenset({"ORG.MATRIX.MSC4140_DELAY_TOO_LARGE", "M_MAX_DELAY_EXCEEDED"})
_INNER_ERRCODE = "org.matrix.msc4140.errcode"
_INNER_MAXIMUM = "org.matrix.msc4140.max_delay"
_REVOKED_ERRCODES = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request did not succeed."""

    outcome: Outcome
    cause: str
    retry_after_s: float | None = None
    max_delay_ms: int | None = None
    """The longest delay, when the refusal names it."""

    @classmethod
    def of(cls, error: ClientError) -> Failure:
        """Classify what the client raised."""
        retry_after_s = None if error.retry_after_ms is None else error.retry_after_ms / 1000
        maximum = error.body.get(_INNER_MAXIMUM)
        return cls(
            outcome=_classify(error),
            cause=error.what,
            retry_after_s=retry_after_s,
            max_delay_ms=maximum if type(maximum) is int and maximum > 0 else None,
        )


def _classify(error: ClientError) -> Outcome:
    inner = str(error.body.get(_INNER_ERRCODE))
    if error.status == 429 or error.errcode == "M_LIMIT_EXCEEDED":
        return Outcome.RATE_LIMITED
    if error.errcode in _REVOKED_ERRCODES:
        return Outcome.REVOKED
    if 200 <= error.status < 300:
        # Synapse 1.163.2 ignores a delay whose name it does not know, and sends the event at once.
        return Outcome.UNRECOGNIZED
    if error.status < 400 or error.status >= 500 or not error.errcode:
        # A reverse proxy answers for a homeserver that restarts, and not in Matrix.
        return Outcome.UNREACHABLE
    if error.errcode in _TOO_LONG_ERRCODES or inner in _TOO_LONG_ERRCODES:
        return Outcome.TOO_LONG
    if error.errcode == "M_UNRECOGNIZED":
        return Outcome.UNRECOGNIZED
    if error.errcode == "M_NOT_FOUND" or error.status == 409:
        # 409: finalised in another way (MSC4140, text of 2026-09-08); Synapse 1.163.2 keeps nothing: 404.
        return Outcome.GONE
    return Outcome.FORBIDDEN if error.status == 403 else Outcome.REJECTED


Result: TypeAlias = Done | Listed | Scheduled | Sent | Failure

ANSWERS: dict[type[Effect], type[Result]] = {
    ListDelayed: Listed,
    ScheduleLeave: Scheduled,
    RestartLeave: Done,
    CancelLeave: Done,
    SendHeldLeave: Done,
    SendMembership: Sent,
    SendLeave: Sent,
}
"""What success looks like for each effect."""
