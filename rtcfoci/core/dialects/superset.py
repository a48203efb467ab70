"""The sticky memberships D6 and D7, which share one event type (MSC4143).

Read: D6 (matrix-js-sdk 43, Element Call from 0.24), D7 (the text of 2026-07-24), and what has the
fields of both. Written: one event with the fields of both, which the readers of either accept.
Out: D5 (`rtc_transports`), and the map that says which event counts (`rtcfoci.core.sticky`).
"""

from __future__ import annotations

from rtcfoci.core.dialects import (
    Leave,
    OwnEvent,
    OwnMembership,
    Parsed,
    Reading,
    checked_transports,
)
from rtcfoci.core.model import FocusSelection, JsonObject, Member, Membership, RoomEvent
from rtcfoci.core.sticky import MAX_DURATION_MS, read_sticky_key, sticky_expires_ts_ms
from rtcfoci.errors import Problem

__all__ = ["STICKY_DURATION_MS", "Superset"]

STICKY_DURATION_MS = MAX_DURATION_MS
"""One constant duration: matrix-js-sdk orders by the origin's time alone, MSC4354 by expiry, and only
with a constant do they agree."""
_KEY_FIELDS = frozenset({"msc4354_sticky_key", "sticky_key"})
_BARE_LEAVE = _KEY_FIELDS | {"slot_id"}


class Superset:
    """Sticky memberships, `transports` with `published` and `can_subscribe`."""

    name = "D6/D7"
    event_types: tuple[str, ...] = ("org.matrix.msc4143.rtc.member", "m.rtc.member")
    sticky = True

    def reads(self, event: RoomEvent) -> bool:
        """Tell whether the event is D6, D7 or both; a leave of D5 looks like one of D6."""
        content: object = event.content
        return (
            event.type in self.event_types
            and isinstance(content, dict)
            and "rtc_transports" not in content
        )

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into a membership, a leave, or all its problems."""
        content = event.content
        reading = Reading()
        key = read_sticky_key(content)
        if isinstance(key, Problem):
            reading.problem(key.code, key.message)
        if event.sticky_duration_ms is None and event.sticky_ttl_ms is None:
            reading.problem("not_sticky", f"{event.type} is not a sticky event")
        if content.keys() <= _BARE_LEAVE:
            return reading.result() if reading.problems else Leave(dialect="D6")
        slot_id = reading.string(content, "slot_id") or ""
        member = reading.mapping(content, "member") or {}
        membership = reading.string(member, "membership", "member.membership", required=False)
        if membership not in (None, "join", "leave"):
            reading.problem("bad_value", "member.membership is neither join nor leave")
        member_id = reading.string(member, "id", "member.id") or ""
        user_id = reading.string(member, "user_id", "member.user_id", required=False)
        if user_id not in (None, event.sender):
            reading.problem("foreign_user", "member.user_id is not the sender")
        if membership == "leave":
            return reading.result() if reading.problems else _leave(content)
        # D7 names no device: it is the one that encrypted the event, and unknown in clear.
        device_id = reading.string(
            member, "device_id", "member.device_id", required=membership is None
        )
        encrypted_by = event.encrypted_by_device_id
        if device_id is None:
            device_id = encrypted_by
        elif encrypted_by is not None and device_id != encrypted_by:
            reading.problem("device_mismatch", "another device encrypted this event")
        application = reading.mapping(content, "application") or {}
        kind = reading.string(application, "type", "application.type")
        if kind is not None and not slot_id.startswith(f"{kind}#"):
            reading.problem("slot_mismatch", "slot_id does not belong to application.type")
        transports = reading.mapping(content, "transports", required=membership is None) or {}
        published = reading.transports(transports, "published", "transports.published")
        can_subscribe = reading.strings(transports, "can_subscribe", "transports.can_subscribe")
        if reading.problems:
            return reading.result()
        dialect = "D6" if membership is None else "D7" if user_id is None else "D6/D7"
        return Membership(
            member=Member(user_id=event.sender, device_id=device_id, member_id=member_id),
            slot_id=slot_id,
            transports=published,
            can_subscribe=can_subscribe,
            focus_selection=FocusSelection.OWN,
            application=application,
            # Of this event alone: the session keeps the time of the first of its chain.
            created_ts_ms=event.origin_server_ts_ms,
            expires_ts_ms=sticky_expires_ts_ms(event),
            dialect=dialect,
            event_id=event.event_id,
            room_id=room_id,
            encrypted=event.encrypted,
        )

    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us."""
        content: dict[str, object] = {
            "slot_id": own.slot.slot_id,
            "application": {**own.application, "type": own.slot.application},
            "member": {
                "id": own.member.member_id,
                "user_id": own.member.user_id,
                "device_id": own.member.device_id,
                "membership": "join",
            },
            "transports": {
                "published": checked_transports(own),
                "can_subscribe": list(own.can_subscribe),
            },
            "versions": [],
        }
        return self._event(own, content)

    def refresh(self, own: OwnMembership, *, created_ts_ms: int, now_ts_ms: int) -> OwnEvent:
        """Announce us again: the same content, sent again, is sticky for another hour."""
        return self.join(own)

    def leave(self, own: OwnMembership) -> OwnEvent:
        """Withdraw: as D7 writes it. Without `application`, so that D6 readers drop it as well.

        The device is named so that a delayed leave of a crashed process is known for ours.
        """
        content: dict[str, object] = {
            "slot_id": own.slot.slot_id,
            "member": {
                "id": own.member.member_id,
                "user_id": own.member.user_id,
                "device_id": own.member.device_id,
                "membership": "leave",
            },
        }
        return self._event(own, content)

    def _event(self, own: OwnMembership, content: dict[str, object]) -> OwnEvent:
        # Both names, and equal: readers of D6 key on the first only, those of D7 on the second.
        content.update(dict.fromkeys(sorted(_KEY_FIELDS), own.member.member_id))
        return OwnEvent(
            type=self.event_types[0], content=content, sticky_duration_ms=STICKY_DURATION_MS
        )


def _leave(content: JsonObject) -> Leave:
    reason = content.get("leave_reason")
    code = reason.get("code") if isinstance(reason, dict) else None
    return Leave(dialect="D7", reason=code[:80] if isinstance(code, str) else "")
