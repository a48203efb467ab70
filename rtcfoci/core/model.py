"""The words of the house as values: slot, member, membership, transport, room event, time.

In: frozen values with no behaviour beyond comparing and ordering themselves.
Out: how they are read from or written to the wire (`dialects`), folded (`session`) or chosen from
(`selection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

__all__ = [
    "FocusSelection",
    "JsonObject",
    "Member",
    "Membership",
    "Now",
    "RoomEvent",
    "Slot",
    "SlotStatus",
    "Transport",
]

JsonObject: TypeAlias = Mapping[str, object]
"""A decoded JSON object of unknown content: whoever reads a value checks its type first."""


@dataclass(frozen=True, slots=True)
class Now:
    """The time of one input: both clocks, read together."""

    s: float
    """Monotonic seconds: for timers and durations."""
    ts_ms: int
    """Wall clock, milliseconds since the epoch: for comparing with what servers and members say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A virtual place in a room where an application runs (MSC4143, Slots, text of 2026-07-24)."""

    room_id: str
    application: str = "m.call"
    """Application type, such as `m.call`."""
    name: str = "ROOM"
    """The part behind `#`; `ROOM` is the one call of the room."""

    @property
    def slot_id(self) -> str:
        """The slot's id on the wire: built, never parsed (MSC4143)."""
        return f"{self.application}#{self.name}"


class SlotStatus(Enum):
    """What the room's slot event says."""

    ABSENT = "absent"
    """No slot event: deployed clients treat it as open, the MSC text as closed."""
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who a membership speaks for: one device of one user in one join."""

    user_id: str
    device_id: str | None
    """None when a dialect leaves it to the encryption and the event came in clear (pure D7)."""
    member_id: str
    """Sticky dialects: random per join. State dialects: `@user:server:DEVICE`."""

    @property
    def order(self) -> tuple[str, str, str]:
        """Total order by UTF-8 bytes of (user id, device id, member id); the same for everybody.

        Python compares text by code points, which is the order of their UTF-8 bytes.
        """
        return self.user_id, self.device_id or "", self.member_id

    def __str__(self) -> str:
        return f"{self.user_id}/{self.device_id or '?'}"


@dataclass(frozen=True, slots=True)
class Transport:
    """The wire descriptor of a focus, kept exactly as it was read, unknown keys included."""

    type: str
    raw: JsonObject = field(hash=False)
    """The whole JSON object, `type` included; re-emitted untouched."""


class FocusSelection(Enum):
    """How a member says that others find its media."""

    OLDEST_MEMBERSHIP = "oldest_membership"
    """Everybody uses the focus of the oldest member (D1, D2)."""
    OWN = "own"
    """Each publishes on its own focus, others subscribe there (D3 `multi_sfu`, sticky dialects)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One device's presence in a slot, whatever dialect announced it."""

    member: Member
    slot_id: str
    transports: tuple[Transport, ...]
    """What the member publishes on, in wire order."""
    can_subscribe: tuple[str, ...] | None
    """Transport types the member can receive from; None when the dialect does not say."""
    focus_selection: FocusSelection
    application: JsonObject
    """The application's own data, `type` included."""
    created_ts_ms: int
    """When the member joined, by the rules of the dialect; orders the session."""
    expires_ts_ms: int
    """Wall clock after which the membership no longer counts."""
    dialect: str
    """`D1`..`D7`, or `D6/D7` for the superset."""
    event_id: str
    room_id: str
    encrypted: bool = False
    """Whether the event came encrypted, by a device that is known to be its sender's."""
    claims: tuple[int, int] | None = None
    """When the sender says it joined and expires, where that lies beyond what is believed."""
    claimed_id: str | None = None
    """The member id that a state membership names, where it is not the one of its dialect."""
    more: JsonObject = field(default_factory=dict)
    """Fields of the event that its dialect does not know; written again as they are."""
    extended: int = 0
    """How many of `transports`, the last ones, travelled in our extension of a state dialect."""

    @property
    def published(self) -> tuple[Transport, ...]:
        """The transports in the place where every client looks for them."""
        return self.transports[: len(self.transports) - self.extended]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEvent:
    """One room event as a client receives it, after decryption if there was any."""

    type: str
    sender: str
    content: JsonObject
    event_id: str
    origin_server_ts_ms: int
    received_ts_ms: int
    """Our wall clock when it reached us."""
    state_key: str | None = None
    """None for events that are not state."""
    sticky_duration_ms: int | None = None
    """As sent, not yet clamped (MSC4354); None when the event is not sticky."""
    sticky_ttl_ms: int | None = None
    """The server's remaining time at the moment of receipt; preferred over clocks."""
    encrypted: bool = False
    encrypted_by_device_id: str | None = None
    """The device whose key decrypted it; None in clear or when that is not known."""
    redacts: str | None = None
    """The id of the event this one redacts."""
    age_ms: int | None = None
    """How old the server says it was when it reached us; only of our own events is that its own word."""
