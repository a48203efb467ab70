"""The state-event memberships that D2 and D3 share (MSC3401, session form), and what all state dialects do.

In: one state event per device, `org.matrix.msc3401.call.member`, read and written. Out: what tells the two
generations apart, which is `focus_active.focus_selection` (`d2`, `d3`).

Identity is the event's sender with `device_id`, as in deployed readers; `membershipID`, only a repetition of
it in what clients send, is kept as a claim. Deployed readers do not look at the state key.
"""

from __future__ import annotations

from rtcfoci.core.dialects import (
    Leave,
    OwnEvent,
    OwnMembership,
    Parsed,
    Problems,
    checked_transports,
    is_livekit,
)
from rtcfoci.core.dialects.reading import Known, Reading, same_object, same_text
from rtcfoci.core.model import (
    FocusSelection,
    JsonObject,
    Member,
    Membership,
    RoomEvent,
    Slot,
    Transport,
)
from rtcfoci.errors import Problem

__all__ = [
    "DEFAULT_EXPIRES_MS",
    "EVENT_TYPES",
    "EXTENSION",
    "MAX_AGE_MS",
    "StateDialect",
    "is_foreign",
    "lifespan",
    "slot_id_of",
    "state_member_id",
]

DEFAULT_EXPIRES_MS = 4 * 3600 * 1000
"""What `expires` means when it is absent, as in matrix-js-sdk."""
MAX_AGE_MS = 30 * 24 * 3600 * 1000
"""How far a membership may reach from its event into the past (`created_ts`) and the future (`expires`).

Both are claims of the sender. Clients that let `expires` grow by four hours every hour stay within it
for ten days."""
EXTENSION = "rtcfoci.transports"
"""Where our transports other than LiveKit travel: in `foci_preferred` they would make Element X drop
the whole membership."""
EVENT_TYPES = ("org.matrix.msc3401.call.member", "m.call.member")
_KNOWN = Known(
    "application", "call_id", "scope", "device_id", "membershipID", "expires", "created_ts",
    "foci_preferred", EXTENSION,
    focus_active=("type", "focus_selection"),
)  # fmt: skip
"""All other top-level keys are the application's."""
_OLDEST = "oldest_membership"
_FOREIGN = Problem("foreign_state_key", "the state key names another user")
_OTHER_GENERATIONS = frozenset({"memberships", "m.calls", "session", "leave_reason"})
"""Keys of D1, D0 and D4, which share the event type. Beside `application` they mean nothing."""


def state_member_id(user_id: str, device_id: str) -> str:
    """Build the member id of the state dialects."""
    return f"{user_id}:{device_id}"


def slot_id_of(application: str, call_id: str) -> str:
    """Build the slot id of a call id: `""` stands for `ROOM`, and only in `m.call`."""
    return same_text(f"{application}#{call_id or ('ROOM' if application == 'm.call' else '')}")


def is_foreign(event: RoomEvent) -> bool:
    """Tell whether the state key names another user than the sender; some keys name none."""
    owner = (event.state_key or "").removeprefix("_")
    return owner.startswith("@") and not f"{owner}_".startswith(f"{event.sender}_")


def lifespan(
    event: RoomEvent, created_ts_ms: int, expires_ts_ms: int
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Limit when a membership says it began and ends to what is believed of a state event.

    Gives (began, ends), and both as claimed where that is something else.
    """
    origin_ts_ms = event.origin_server_ts_ms
    earliest_ts_ms = origin_ts_ms - MAX_AGE_MS
    latest_ts_ms = min(origin_ts_ms, event.received_ts_ms) + MAX_AGE_MS
    claimed = (created_ts_ms, expires_ts_ms)
    if earliest_ts_ms <= created_ts_ms <= origin_ts_ms and expires_ts_ms <= latest_ts_ms:
        return claimed, None
    began_ts_ms = min(origin_ts_ms, max(created_ts_ms, earliest_ts_ms))
    return (began_ts_ms, min(expires_ts_ms, latest_ts_ms)), claimed


class StateDialect:
    """What D2 and D3 share; they differ by name and by how foci are found."""

    name: str
    event_types: tuple[str, ...] = EVENT_TYPES
    sticky = False
    _selection: FocusSelection
    _selection_name: str
    """The wire name of the selection."""

    def reads(self, event: RoomEvent) -> bool:
        """Tell whether the event is a per-device membership, or a leave, of this generation."""
        content: object = event.content
        if event.type not in self.event_types or not isinstance(content, dict):
            return False
        if not content:
            return True
        if "application" not in content and not _OTHER_GENERATIONS.isdisjoint(content):
            return False
        focus_active = content.get("focus_active")
        selection = focus_active.get("focus_selection") if isinstance(focus_active, dict) else None
        # Whatever is not D2's, an unknown selection included, is read as D3.
        return (selection == _OLDEST) == (self._selection_name == _OLDEST)

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into a membership, a leave, or all its problems."""
        content = event.content
        reading = Reading()
        if event.state_key is None:
            reading.problem("not_state", f"{event.type} is not a state event")
        elif not content:
            return Leave(dialect=self.name)  # whoever sent it: a moderator may clear away a ghost
        device_id = reading.string(content, "device_id", empty=True) or ""
        application = reading.string(content, "application", empty=True) or ""
        call_id = reading.string(content, "call_id", empty=True) or ""
        member_id = state_member_id(event.sender, device_id)
        claimed_id = reading.string(content, "membershipID", required=False, empty=True)
        for name in ("scope", "m.call.intent"):
            reading.text(content, name)
        focus_active = reading.mapping(content, "focus_active")
        if focus_active is not None:
            reading.text(focus_active, "type", "focus_active.type", required=True)
        transports = reading.transports(content, "foci_preferred")
        created_ts_ms = reading.integer(content, "created_ts", signed=True)
        expires_ms = reading.integer(content, "expires", signed=True)
        foreign = is_foreign(event)
        if reading.problems:
            return Problems((*reading.problems, _FOREIGN) if foreign else tuple(reading.problems))
        others, can_subscribe = _read_extension(content)
        created = event.origin_server_ts_ms if created_ts_ms is None else created_ts_ms
        expires = created + (DEFAULT_EXPIRES_MS if expires_ms is None else expires_ms)
        (believed_from, believed_until), claims = lifespan(event, created, expires)
        beside = _KNOWN.beside(content)
        membership = Membership(
            member=Member(user_id=event.sender, device_id=device_id, member_id=member_id),
            slot_id=slot_id_of(application, call_id),
            transports=transports + others,
            can_subscribe=can_subscribe,
            focus_selection=self._selection,
            # Deployed clients lay the application's own data flat among the rest.
            application={**beside, "type": application}
            if beside
            else same_object(type=application),
            created_ts_ms=believed_from,
            expires_ts_ms=believed_until,
            dialect=self.name,
            event_id=event.event_id,
            room_id=room_id,
            encrypted=event.encrypted,
            extended=len(others),
            claims=claims,
            claimed_id=None if claimed_id == member_id else claimed_id,
            more=_KNOWN.within(content),
        )
        return Problems((_FOREIGN,), otherwise=membership) if foreign else membership

    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us."""
        return self._event(own, self._content(own, own.lifetime_ms))

    def refresh(self, own: OwnMembership, *, created_ts_ms: int, now_ts_ms: int) -> OwnEvent:
        """Announce us again: `created_ts` stays, and `expires`, which counts from it, grows."""
        expires_ms = max(0, now_ts_ms - created_ts_ms) + own.lifetime_ms
        content = {**self._content(own, expires_ms), "created_ts": created_ts_ms}
        return self._event(own, content)

    def leave(self, own: OwnMembership) -> OwnEvent:
        """Withdraw: empty content."""
        return self._event(own, {})

    def _event(self, own: OwnMembership, content: JsonObject) -> OwnEvent:
        return OwnEvent(
            type=self.event_types[0],
            content=content,
            state_key=_state_key(own.slot, own.member, own.owned_state),
        )

    def _content(self, own: OwnMembership, expires_ms: int) -> dict[str, object]:
        transports = checked_transports(own)
        user_id, device_id = own.member.user_id, own.member.device_id or ""
        foci: list[JsonObject] = [
            # Element X needs the alias; clients in the field put the room id there.
            {"livekit_alias": own.slot.room_id, **raw}
            for raw in transports
            if is_livekit(raw)
        ]
        others = [raw for raw in transports if not is_livekit(raw)] if foci else []
        foci = foci or transports
        content: dict[str, object] = {
            **{k: v for k, v in own.application.items() if k not in _KNOWN.keys and k != "type"},
            "application": own.slot.application,
            "call_id": _call_id(own.slot),
            "scope": "m.room",
            "device_id": device_id,
            "membershipID": state_member_id(user_id, device_id),
            "expires": expires_ms,
            # The type is `livekit` whatever we use: any other hides us from Element X (ruma 0.35.2).
            "focus_active": {"type": "livekit", "focus_selection": self._selection_name},
            "foci_preferred": foci,
        }
        if others or set(own.can_subscribe) - {focus["type"] for focus in foci}:
            content[EXTENSION] = {"published": others, "can_subscribe": list(own.can_subscribe)}
        return _KNOWN.with_more(content, own.more)


def _call_id(slot: Slot) -> str:
    """`""` stands for `ROOM`, and only in `m.call`."""
    return "" if (slot.application, slot.name) == ("m.call", "ROOM") else slot.name


def _state_key(slot: Slot, member: Member, owned_state: bool) -> str:
    prefix = "" if owned_state else "_"
    return f"{prefix}{member.user_id}_{member.device_id or ''}_{slot.application}{_call_id(slot)}"


def _read_extension(content: JsonObject) -> tuple[tuple[Transport, ...], tuple[str, ...] | None]:
    """Read our own addition; when it is malformed the membership counts without it."""
    if EXTENSION not in content:
        return (), None
    reading = Reading()
    extension = reading.mapping(content, EXTENSION, required=False)
    if extension is None:
        return (), None
    published = reading.transports(extension, "published")
    can_subscribe = reading.strings(extension, "can_subscribe", "can_subscribe")
    return ((), None) if reading.problems else (published, can_subscribe)
