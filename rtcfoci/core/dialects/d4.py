"""D4: MSC4143 as it stood from December 2024 to August 2025: state, `session` and `member` apart.

In: reading. Out: writing it, which nobody is known to have done.

The text gives a membership no end: it lasts until its state is emptied, by the delayed leave at the latest.
It is believed for as long as any state membership is.
"""

from __future__ import annotations

from rtcfoci.core.dialects import Leave, Parsed, Problems
from rtcfoci.core.dialects.reading import Known, Reading
from rtcfoci.core.dialects.state import MAX_AGE_MS, is_foreign, lifespan, slot_id_of
from rtcfoci.core.model import FocusSelection, Member, Membership, RoomEvent

__all__ = ["D4"]

_UNSTABLE = "org.matrix.msc3401.call.member"
_LEAVE = frozenset({"leave_reason"})
_KNOWN = Known(
    "session", "created_ts", "expires", "foci_preferred",
    member=("id", "device_id", "user_id"),
    focus_active=("type", "focus_selection"),
)  # fmt: skip
_SESSION = frozenset({"application", "call_id", "id"})
"""All other keys of `session` are the application's."""


class D4:
    """Memberships as state, with the member apart from the session."""

    name = "D4"
    event_types: tuple[str, ...] = (_UNSTABLE, "m.rtc.member")
    sticky = False

    def reads(self, event: RoomEvent) -> bool:
        """Tell whether the event is a membership, or a leave, of this generation."""
        content: object = event.content
        if event.type not in self.event_types or not isinstance(content, dict):
            return False
        if event.type != _UNSTABLE:
            return event.state_key is not None  # the later generations are not state
        if "application" in content or "memberships" in content or "m.calls" in content:
            return False
        return not content.keys() - _LEAVE or "session" in content

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into a membership, a leave, or all its problems."""
        content = event.content
        reading = Reading()
        if event.state_key is None:
            reading.problem("not_state", f"{event.type} is not a state event")
        elif not content.keys() - _LEAVE:
            # Whoever sent it: a moderator may clear away a ghost.
            reason = content.get("leave_reason")
            return Leave(dialect=self.name, reason=reason[:80] if isinstance(reason, str) else "")
        elif is_foreign(event):
            reading.problem("foreign_state_key", "the state key names another user")
        application = call_id = None
        session = reading.mapping(content, "session")
        if session is not None:
            application = reading.string(session, "application", "session.application")
            for key in ("id", "call_id"):  # the text of 2025 says `id`
                if key in session:
                    call_id = reading.string(session, key, f"session.{key}", empty=True)
        device_id = member_id = None
        member = reading.mapping(content, "member")
        if member is not None:
            member_id = reading.string(member, "id", "member.id")
            device_id = reading.string(member, "device_id", "member.device_id")
            user_id = reading.string(member, "user_id", "member.user_id")
            if user_id not in (None, event.sender):
                reading.problem("foreign_user", "member.user_id is not the sender")
        selection = None
        focus_active = reading.mapping(content, "focus_active")
        if focus_active is not None:
            reading.string(focus_active, "type", "focus_active.type")
            selection = focus_active.get("focus_selection")
        if "foci_preferred" not in content:
            reading.missing("foci_preferred")
        transports = reading.transports(content, "foci_preferred")
        created_ts_ms = reading.integer(content, "created_ts")
        expires_ms = reading.integer(content, "expires")
        if reading.problems or session is None:
            return Problems(tuple(reading.problems))
        origin_ts_ms = event.origin_server_ts_ms
        created = origin_ts_ms if created_ts_ms is None else created_ts_ms
        no_end = min(origin_ts_ms, event.received_ts_ms) + MAX_AGE_MS
        expires = no_end if expires_ms is None else created + expires_ms
        (believed_from, believed_until), claims = lifespan(event, created, expires)
        return Membership(
            member=Member(user_id=event.sender, device_id=device_id, member_id=member_id or ""),
            slot_id=slot_id_of(application or "", call_id or ""),
            transports=transports,
            can_subscribe=None,
            focus_selection=(
                FocusSelection.OWN if selection == "multi_sfu" else FocusSelection.OLDEST_MEMBERSHIP
            ),
            application={
                **{key: session[key] for key in session if key not in _SESSION},
                "type": application,
            },
            created_ts_ms=believed_from,
            expires_ts_ms=believed_until,
            dialect=self.name,
            event_id=event.event_id,
            room_id=room_id,
            encrypted=event.encrypted,
            claims=claims,
            more=_KNOWN.more(content),
        )
