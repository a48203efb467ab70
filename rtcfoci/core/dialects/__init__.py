"""What every wire generation of memberships has in common: the protocol and its values.

In: `Dialect` (reads) and `WritableDialect` (writes, too), what they take (`OwnMembership`) and what they
give (`Parsed`, `OwnEvent`). Out: the generations themselves, one module each (`d0` to `d5`, `superset`),
what several share (`reading`, `state`, `sticky`), and which of them are installed.

A dialect tells its events by content, because several generations share one event type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from rtcfoci.core.dialects.reading import MAX_DEPTH, is_shallow
from rtcfoci.core.model import JsonObject, Member, Membership, RoomEvent, Slot, Transport
from rtcfoci.errors import Problem, UsageError

__all__ = [
    "Dialect",
    "Leave",
    "Memberships",
    "OwnEvent",
    "OwnMembership",
    "Parsed",
    "Problems",
    "WritableDialect",
    "checked_transports",
    "is_livekit",
    "parse_event",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """An event that says its device is no longer in the slot."""

    dialect: str
    reason: str = ""
    """The code of `leave_reason` (D4, D7), empty where none was given."""
    otherwise: Membership | None = None
    """What deployed readers take it for, who do not know `member.membership`; None for a leave as well."""


@dataclass(frozen=True, slots=True)
class Problems:
    """An event that cannot be used, with everything that is wrong with it."""

    problems: tuple[Problem, ...]
    otherwise: Membership | None = None
    """What deployed readers take it for, who do not look at what is wrong; None for no membership as well."""


@dataclass(frozen=True, slots=True)
class Memberships:
    """What an event says that speaks for several devices at once (D1)."""

    memberships: tuple[Membership, ...]
    problems: tuple[Problem, ...] = ()
    """Of its parts that cannot be used."""


Parsed: TypeAlias = Membership | Memberships | Leave | Problems


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMembership:
    """What a dialect needs to know to announce us."""

    slot: Slot
    member: Member
    """With the member id of this join; state dialects write `@user:server:DEVICE` whatever it is."""
    transports: tuple[Transport, ...]
    """What we publish on, or receive on when we only receive; already rendered for the dialect, best
    first, never empty."""
    can_subscribe: tuple[str, ...] = ()
    """The transport types we can receive from."""
    application: JsonObject = field(default_factory=dict)
    """The application's own data, without `type`."""
    more: JsonObject = field(default_factory=dict)
    """Fields that the dialect does not know, as `Membership.more` has them; written as they are."""
    lifetime_ms: int = 4 * 3600 * 1000
    """How long a state membership counts without a refresh; sticky ones count an hour."""
    owned_state: bool = False
    """Whether the room version lets users own state keys (MSC3757, MSC3779)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEvent:
    """An event of ours, ready to be sent: as state, or sticky."""

    type: str
    content: JsonObject
    state_key: str | None = None
    """None for sticky events."""
    sticky_duration_ms: int | None = None
    """None for state events."""


class Dialect(Protocol):
    """One wire generation of memberships, read.

    Stateless, constructed without arguments. Nothing that an event contains makes `reads` or `parse`
    raise, and their work is linear in the size of the event.
    """

    name: str
    """Such as `D3`."""
    event_types: tuple[str, ...]
    """Unstable first; written is the first."""
    sticky: bool
    """Whether its events are sticky (MSC4354); otherwise they are state."""

    def reads(self, event: RoomEvent) -> bool:
        """Tell by type and content whether the event is of this generation."""

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into a membership, several, a leave, or all its problems."""


class WritableDialect(Dialect, Protocol):
    """A dialect that announces us as well."""

    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us. :raises UsageError: without any transport, or with one that has no type."""

    def refresh(self, own: OwnMembership, *, created_ts_ms: int, now_ts_ms: int) -> OwnEvent:
        """Announce us again, later or with changes, as the same join.

        :param created_ts_ms: the origin server's time of our first event of this join.
        """

    def leave(self, own: OwnMembership) -> OwnEvent:
        """Withdraw the announcement. Always the same for one device, slot and member id."""


def parse_event(dialects: Iterable[Dialect], event: RoomEvent, room_id: str) -> Parsed:
    """Read an event with the first dialect that knows it."""
    if not is_shallow(event.content):
        return Problems((Problem("too_deep", f"content is nested deeper than {MAX_DEPTH}"),))
    for dialect in dialects:
        if dialect.reads(event):
            return dialect.parse(event, room_id)
    return Problems((Problem("unknown_dialect", f"no dialect reads this {event.type[:80]}"),))


def is_livekit(transport: JsonObject) -> bool:
    """Tell whether deployed clients take this for a LiveKit focus (type and URL as they read them)."""
    return transport.get("type") == "livekit" and isinstance(
        transport.get("livekit_service_url"), str
    )


def checked_transports(own: OwnMembership) -> list[JsonObject]:
    """Give back what we publish on, LiveKit first; refuse what would crash deployed clients.

    Element Call 0.26.1 takes the first entry, and in every member's client it crashes when there is
    none.
    """
    raws = [dict(transport.raw) for transport in own.transports]
    if not raws or any(not isinstance(raw.get("type"), str) or not raw["type"] for raw in raws):
        raise UsageError(
            "a membership needs at least one transport, each with a type",
            why="deployed clients crash on a member without transports",
            do="list the transport you publish on, or receive on if you only receive",
        )
    return sorted(raws, key=lambda raw: not is_livekit(raw))
