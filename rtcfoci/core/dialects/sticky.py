"""What the sticky memberships share (MSC4143 with MSC4354): D5, D6 and D7, which share one event type too.

In: key, slot, member, application and device of a sticky membership; what every one of them writes.
Out: what tells the generations apart (`d5`, `superset`), and which event of a key counts
(`rtcfoci.core.sticky`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import NamedTuple

from rtcfoci.core.dialects import Leave, OwnEvent, OwnMembership, Parsed, Problems
from rtcfoci.core.dialects.reading import Known, Reading, same_object, same_text
from rtcfoci.core.model import (
    FocusSelection,
    JsonObject,
    Member,
    Membership,
    RoomEvent,
    Transport,
)
from rtcfoci.core.sticky import MAX_DURATION_MS, read_sticky_key, sticky_expires_ts_ms
from rtcfoci.errors import Problem

__all__ = ["KEY_FIELDS", "STICKY_DURATION_MS", "Said", "StickyDialect"]

STICKY_DURATION_MS = MAX_DURATION_MS
"""One constant duration: matrix-js-sdk orders by the origin's time alone, MSC4354 by expiry, and only
with a constant do they agree."""
KEY_FIELDS = ("msc4354_sticky_key", "sticky_key")
"""Readers of D5 and D6 key on the first only, those of D7 on the second."""
_BARE_LEAVE = frozenset({*KEY_FIELDS, "slot_id"})


class Said(NamedTuple):
    """What a generation says in its own way."""

    dialect: str
    device_id: str | None
    """As claimed; None where it is left to the encryption."""
    transports: tuple[Transport, ...]
    can_subscribe: tuple[str, ...] | None


class StickyDialect(ABC):
    """A generation of sticky memberships."""

    name: str
    event_types: tuple[str, ...] = ("org.matrix.msc4143.rtc.member", "m.rtc.member")
    sticky = True
    bare_leave: str
    """What a leave is called that says nothing but which key it is for."""
    known: Known
    """Every key this generation knows."""

    @abstractmethod
    def tells(self, content: JsonObject) -> bool:
        """Tell by content whether an event is of this generation."""

    @abstractmethod
    def said(self, event: RoomEvent, member: JsonObject | None, reading: Reading) -> Said:
        """Read what is this generation's own; `member` is None when the event has none."""

    def reads(self, event: RoomEvent) -> bool:
        """Tell whether the event is of this generation, or a leave that looks alike in all of them."""
        content: object = event.content
        return (
            event.type in self.event_types
            and event.state_key is None
            and isinstance(content, dict)
            and (content.keys() <= _BARE_LEAVE or _only_leaves(content) or self.tells(content))
        )

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into a membership, a leave, or all its problems."""
        content = event.content
        reading = Reading()
        key = read_sticky_key(content)
        if isinstance(key, Problem):
            reading.problem(key.code, key.message)
        if (event.sticky_duration_ms or 0) <= 0:
            reading.problem("not_sticky", f"{event.type} is not a sticky event")
        if content.keys() <= _BARE_LEAVE:
            leave = Leave(dialect=self.bare_leave)
            return Problems(tuple(reading.problems)) if reading.problems else leave
        slot_id = reading.string(content, "slot_id")
        member = reading.mapping(content, "member")
        member_id = None
        if member is not None:
            member_id = reading.string(member, "id", "member.id", empty=True)
            if member_id == key:
                member_id = key  # one text for both: the event is filed under it
        if _leaves(content):
            if member is not None and member.get("user_id", event.sender) != event.sender:
                reading.problem("foreign_user", "member.user_id is not the sender")
            if reading.problems:
                return Problems(tuple(reading.problems))
            return Leave(
                dialect="D7", reason=_reason(content), otherwise=self._otherwise(event, room_id)
            )
        dialect, device_id, transports, can_subscribe = self.said(event, member, reading)
        encrypted_by = event.encrypted_by_device_id
        if device_id is None:
            device_id = encrypted_by
        elif encrypted_by is not None and device_id != encrypted_by:
            reading.problem("device_mismatch", "another device encrypted this event")
        application = reading.mapping(content, "application")
        if application is not None:
            kind = reading.string(application, "type", "application.type", empty=True)
            # Compared, never parsed (MSC4143, Slots).
            if kind is not None and slot_id is not None and not slot_id.startswith(f"{kind}#"):
                reading.problem("slot_mismatch", "slot_id does not belong to application.type")
        if reading.problems or application is None:
            return Problems(tuple(reading.problems))
        return Membership(
            member=Member(user_id=event.sender, device_id=device_id, member_id=member_id or ""),
            slot_id=same_text(slot_id or ""),
            transports=transports,
            can_subscribe=can_subscribe,
            focus_selection=FocusSelection.OWN,
            application=application if len(application) > 1 else same_object(type=kind or ""),
            # Of this event alone: the session keeps the time of the first of its chain.
            created_ts_ms=event.origin_server_ts_ms,
            expires_ts_ms=sticky_expires_ts_ms(event),
            dialect=dialect,
            event_id=event.event_id,
            room_id=room_id,
            encrypted=event.encrypted and encrypted_by is not None,
            more=self._more(content),
        )

    def refresh(self, own: OwnMembership, *, created_ts_ms: int, now_ts_ms: int) -> OwnEvent:
        """Announce us again: the same content, sent again, is sticky for another hour."""
        return self.join(own)

    @abstractmethod
    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us. :raises UsageError: without any transport, or with one that has no type."""

    def leave(self, own: OwnMembership) -> OwnEvent:
        """Withdraw: as D7 writes it. Without `application`, so that older readers drop it as well.

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
            **dict.fromkeys(KEY_FIELDS, own.member.member_id),
        }
        return self._event(content)

    def _joined(
        self, own: OwnMembership, member: dict[str, object], rest: dict[str, object]
    ) -> OwnEvent:
        """Write what every generation says, and the rest that is its own."""
        content: dict[str, object] = {
            "slot_id": own.slot.slot_id,
            "application": {**own.application, "type": own.slot.application},
            "member": {
                "id": own.member.member_id,
                "user_id": own.member.user_id,
                "device_id": own.member.device_id,
                **member,
            },
            **rest,
        }
        # Readers of D5 and D6 require it, and nobody knows what for.
        content["versions"] = own.more.get("versions", [])
        return self._event(self.known.with_more(content, own.more))

    def _otherwise(self, event: RoomEvent, room_id: str) -> Membership | None:
        """Read a leave as a reader does that does not know `member.membership`: most are nothing then."""
        member = event.content.get("member")
        if "application" not in event.content or not isinstance(member, dict):
            return None
        member = {key: value for key, value in member.items() if key != "membership"}
        parsed = self.parse(replace(event, content={**event.content, "member": member}), room_id)
        return parsed if isinstance(parsed, Membership) else None

    def _more(self, content: JsonObject) -> JsonObject:
        more = self.known.more(content)
        versions = content.get("versions")
        return {**more, "versions": versions} if versions else more

    def _event(self, content: JsonObject) -> OwnEvent:
        return OwnEvent(
            type=self.event_types[0], content=content, sticky_duration_ms=STICKY_DURATION_MS
        )


def _leaves(content: JsonObject) -> bool:
    member = content.get("member")
    return isinstance(member, dict) and member.get("membership") == "leave"


def _only_leaves(content: JsonObject) -> bool:
    return "application" not in content and _leaves(content)


def _reason(content: JsonObject) -> str:
    reason = content.get("leave_reason")
    code = reason.get("code") if isinstance(reason, dict) else None
    return code[:80] if isinstance(code, str) else ""
