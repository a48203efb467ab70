"""Rooms of the in-memory homeserver: events in order, state, power levels, membership, stickiness.

In: what one room holds and who may change it, after the authorisation rules of room versions 11 and 12.
Out: requests (`homeserver`), delayed events (`homeserver_delayed`), syncs (`homeserver_sync`); federation,
restricted joins, third-party invites, history visibility: every member sees everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rtcfoci.core.model import JsonObject
from rtcfoci.testing.homeserver_limits import MatrixError, forbidden

__all__ = [
    "MAX_STICKY_MS",
    "Event",
    "Room",
    "default_power_levels",
    "integer",
    "mapping",
]

MAX_STICKY_MS = 3_600_000
"""Stickiness beyond an hour does not count (MSC4354)."""

MAX_EVENT_BYTES = 65_536

_KEPT = {
    # What redaction keeps (room version 11).
    "m.room.member": ("membership", "join_authorised_via_users_server"),
    "m.room.join_rules": ("join_rule", "allow"),
    "m.room.history_visibility": ("history_visibility",),
}


@dataclass(slots=True)
class Event:
    """One event of a room; changed by redaction only."""

    event_id: str
    room_id: str
    type: str
    sender: str
    content: dict[str, object]
    ts_ms: int
    position: int
    """Place in the server's one order of everything."""
    state_key: str | None = None
    sticky_ms: int | None = None
    replaces: Event | None = None
    transaction: tuple[str, str] | None = None
    """Device and transaction id it was sent with."""
    delay_id: str | None = field(default=None, repr=False)
    redacts: str | None = None
    redacted_because: Event | None = None

    @property
    def sticky_until_ts_ms(self) -> int:
        return self.ts_ms + min(self.sticky_ms or 0, MAX_STICKY_MS)

    def render(
        self, now_ts_ms: int, user_id: str, device_id: str, *, room_id: bool = False
    ) -> dict[str, object]:
        """Give the event as a client sees it."""
        unsigned: dict[str, object] = {"age": now_ts_ms - self.ts_ms}
        if self.replaces is not None:
            unsigned["replaces_state"] = self.replaces.event_id
            unsigned["prev_content"] = self.replaces.content
        if user_id == self.sender:
            if self.transaction is not None and self.transaction[0] == device_id:
                unsigned["transaction_id"] = self.transaction[1]
            if self.delay_id is not None:
                unsigned["org.matrix.msc4140.delay_id"] = self.delay_id
        if self.redacted_because is not None:
            unsigned["redacted_by"] = self.redacted_because.event_id
            unsigned["redacted_because"] = self.redacted_because.render(
                now_ts_ms, user_id, device_id
            )
        event: dict[str, object] = {
            "type": self.type,
            "sender": self.sender,
            "content": self.content,
            "event_id": self.event_id,
            "origin_server_ts": self.ts_ms,
            "unsigned": unsigned,
        }
        if self.state_key is not None:
            event["state_key"] = self.state_key
        if self.redacts is not None:
            event["redacts"] = self.redacts
        if self.sticky_ms is not None:
            event["msc4354_sticky"] = {"duration_ms": self.sticky_ms}
            left_ms = self.sticky_until_ts_ms - now_ts_ms
            if left_ms > 0:
                unsigned["msc4354_sticky_duration_ttl_ms"] = left_ms
        if room_id:
            event["room_id"] = self.room_id
        return event


class Room:
    """One room.

    :param version: "12" gives creators more power than any number; "11" and below list them.
    """

    def __init__(self, room_id: str, creator: str, version: str) -> None:
        self.room_id = room_id
        self.creator = creator
        self.version = version
        self.events: list[Event] = []
        self.state: dict[tuple[str, str], Event] = {}
        self._by_id: dict[str, Event] = {}

    # --- reading --------------------------------------------------------------------------------

    def content(self, event_type: str, state_key: str = "") -> Mapping[str, object]:
        """Give the content of a piece of state; empty when there is none."""
        event = self.state.get((event_type, state_key))
        return {} if event is None else event.content

    def get(self, event_id: str) -> Event | None:
        return self._by_id.get(event_id)

    def membership(self, user_id: str) -> str:
        return str(self.content("m.room.member", user_id).get("membership", "leave"))

    def members(self, membership: str = "join") -> Iterator[str]:
        for (kind, key), event in self.state.items():
            if kind == "m.room.member" and event.content.get("membership") == membership:
                yield key

    def membership_at(self, user_id: str, position: int) -> str:
        """Give a user's membership as it was at a position of the stream."""
        event = self.state.get(("m.room.member", user_id))
        while event is not None and event.position > position:
            event = event.replaces
        return "leave" if event is None else str(event.content.get("membership", "leave"))

    def state_between(self, after: int, before: int) -> list[Event]:
        """List the last event of each piece of state changed in between, both ends exclusive."""
        latest: dict[tuple[str, str], Event] = {}
        for event in self.events:
            if event.state_key is not None and after < event.position < before:
                latest[event.type, event.state_key] = event
        return list(latest.values())

    def sticky(self, after: int, now_ts_ms: int) -> list[Event]:
        return [
            event
            for event in self.events
            if event.sticky_ms is not None
            and event.position > after
            and event.sticky_until_ts_ms > now_ts_ms
        ]

    # --- power ----------------------------------------------------------------------------------

    def power(self, user_id: str) -> float:
        creators = {
            self.creator,
            *_strings(self.content("m.room.create").get("additional_creators")),
        }
        if user_id in creators and _number(self.version) >= 12:
            return float("inf")
        if ("m.room.power_levels", "") not in self.state:
            return 100 if user_id == self.creator else 0
        levels = self.content("m.room.power_levels")
        return integer(
            mapping(levels.get("users")).get(user_id), integer(levels.get("users_default"), 0)
        )

    def needed(self, event_type: str, *, state: bool) -> int:
        levels = self.content("m.room.power_levels")
        if not levels:
            return 0
        default = ("state_default", 50) if state else ("events_default", 0)
        return integer(
            mapping(levels.get("events")).get(event_type),
            integer(levels.get(default[0]), default[1]),
        )

    def needed_for(self, action: str) -> int:
        return integer(
            self.content("m.room.power_levels").get(action), 0 if action == "invite" else 50
        )

    def check(
        self, sender: str, event_type: str, state_key: str | None, content: JsonObject
    ) -> None:
        """Let an event pass or say why not.

        :raises MatrixError: 403 `M_FORBIDDEN`.
        """
        if event_type == "m.room.member":
            self._check_member(sender, state_key or "", content)
            return
        if self.membership(sender) != "join":
            raise forbidden(f"User {sender} not in room {self.room_id}")
        needed = self.needed(event_type, state=state_key is not None)
        power = self.power(sender)
        if power < needed:
            raise forbidden(
                "You don't have permission to post that to the room. "
                f"user_level ({power:g}) < send_level ({needed})"
            )
        if state_key is not None and state_key.startswith("@") and state_key != sender:
            raise forbidden("You are not allowed to set others state")
        if event_type == "m.room.power_levels":
            self._check_levels(sender, power, content)

    def _check_levels(self, sender: str, power: float, content: JsonObject) -> None:
        old, new = self.content("m.room.power_levels"), content
        pairs = [(old.get(k), new.get(k)) for k in _LEVELS]
        for part in ("users", "events"):
            before, after = mapping(old.get(part)), mapping(new.get(part))
            pairs += [(before.get(k), after.get(k)) for k in {*before, *after}]
        for was, will in pairs:
            if was != will and max(integer(was, 0), integer(will, 0)) > power:
                raise forbidden("You don't have permission to add ops level greater than your own")

    def _check_member(self, sender: str, target: str, content: JsonObject) -> None:
        wanted, now = content.get("membership"), self.membership(target)
        banned = now == "ban"
        if wanted == "join":
            rule = self.content("m.room.join_rules").get("join_rule", "invite")
            first = sender == self.creator and len(self.events) == 1
            if sender != target:
                raise forbidden("Cannot force another user to join.")
            if banned:
                raise MatrixError(403, "M_BAD_STATE", "You are banned from this room")
            if not (first or now in ("join", "invite") or rule == "public"):
                raise forbidden("You are not invited to this room.")
            return
        inside = self.membership(sender) == "join"
        if wanted == "invite":
            if not inside:
                raise forbidden(f"{sender} not in room {self.room_id}.")
            if banned:
                raise MatrixError(403, "M_BAD_STATE", f"{target} is banned from the room")
            if now == "join":
                raise forbidden(f"{target} is already in the room.")
            self._check_power(sender, target, "invite", above=False)
        elif wanted == "leave" and sender == target:
            if now not in ("join", "invite"):
                raise forbidden("User is not in the room" if not banned else "You are banned")
        elif wanted in ("leave", "ban"):
            if not inside:
                raise forbidden(f"{sender} not in room {self.room_id}.")
            self._check_power(
                sender, target, "ban" if banned or wanted == "ban" else "kick", above=True
            )
        else:
            raise MatrixError(400, "M_BAD_JSON", f"Unknown membership {wanted!r}")

    def _check_power(self, sender: str, target: str, action: str, *, above: bool) -> None:
        power = self.power(sender)
        if power < self.needed_for(action) or (above and power <= self.power(target)):
            raise forbidden(f"You don't have permission to {action} {target}")

    # --- changing -------------------------------------------------------------------------------

    def append(self, event: Event) -> None:
        """Add an event that has passed `check`."""
        if event.state_key is not None:
            key = (event.type, event.state_key)
            event.replaces = self.state.get(key)
            self.state[key] = event
        self.events.append(event)
        self._by_id[event.event_id] = event
        redacted = self._by_id.get(event.redacts) if event.redacts else None
        if redacted is not None:
            kept = _KEPT.get(redacted.type, ())
            redacted.content = {k: v for k, v in redacted.content.items() if k in kept}
            # Redaction takes the sticky field too: the event is no longer sticky (MSC4354).
            redacted.sticky_ms = None
            redacted.redacted_because = event


def default_power_levels(creator: str, version: str, *, private: bool) -> dict[str, object]:
    """Give the levels Synapse writes into a new room."""
    privileged = _number(version) >= 12
    return {
        "users": {} if privileged else {creator: 100},
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": 150 if privileged else 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0 if private else 50,
        "historical": 100,
    }


def mapping(value: object) -> Mapping[str, object]:
    """Read an object; empty when it is none."""
    return value if isinstance(value, Mapping) else {}


def integer(value: object, default: int) -> int:
    """Read an integer, or give the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


_LEVELS = (
    "users_default", "events_default", "state_default", "ban", "kick", "redact", "invite",
)  # fmt: skip


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0


def _strings(value: object) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
