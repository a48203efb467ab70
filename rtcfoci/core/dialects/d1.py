"""D1: one state event for each user, with the memberships of all its devices (2023-09 to 2025-01).

In: reading `memberships[]`, as matrix-js-sdk 28 to 34 and the Dart SDK of Famedly wrote it.
Out: writing it: nobody but the latter reads it any more.

A device leaves by taking its entry out of the array; what the array no longer has is gone.
"""

from __future__ import annotations

from rtcfoci.core.dialects import Leave, Memberships, Parsed, Problems
from rtcfoci.core.dialects.reading import MAX_PROBLEMS, Known, Reading
from rtcfoci.core.dialects.state import EVENT_TYPES, lifespan, slot_id_of, state_member_id
from rtcfoci.core.model import FocusSelection, JsonObject, Member, Membership, RoomEvent
from rtcfoci.errors import Problem

__all__ = ["D1", "MAX_MEMBERSHIPS"]

MAX_MEMBERSHIPS = 64
"""More memberships than these in one event are a problem: they are one user's devices."""
_KNOWN = Known(
    "application", "call_id", "scope", "device_id", "membershipID", "expires", "expires_ts",
    "created_ts", "foci_active",
)  # fmt: skip


class D1:
    """Memberships of a user, oldest membership."""

    name = "D1"
    event_types: tuple[str, ...] = EVENT_TYPES
    sticky = False

    def reads(self, event: RoomEvent) -> bool:
        """Tell whether the event holds an array of memberships, or is emptied."""
        content: object = event.content
        if event.type not in self.event_types or not isinstance(content, dict):
            return False
        return not content or ("memberships" in content and "application" not in content)

    def parse(self, event: RoomEvent, room_id: str) -> Parsed:
        """Turn the event into the memberships of a user's devices, a leave, or all its problems."""
        reading = Reading()
        if event.state_key is None:
            reading.problem("not_state", f"{event.type} is not a state event")
        elif not event.content:
            return Leave(dialect=self.name)  # whoever sent it: a moderator may clear away a ghost
        elif event.state_key != event.sender:
            reading.problem("foreign_state_key", "the state key is not the sender")
        entries = reading.items(event.content, "memberships", most=MAX_MEMBERSHIPS)
        if reading.problems:
            return Problems(tuple(reading.problems))
        found: list[Membership] = []
        problems: list[Problem] = []
        for number, entry in enumerate(entries):
            reading = Reading(f"memberships[{number}].")
            if isinstance(entry, dict):
                membership = self._entry(event, room_id, entry, reading)
                if membership is not None:
                    found.append(membership)
            else:
                problems.append(Problem("wrong_type", f"memberships[{number}] is not an object"))
            problems += reading.problems
        del problems[MAX_PROBLEMS:]
        if found:
            return Memberships(tuple(found), tuple(problems))
        return Problems(tuple(problems)) if problems else Leave(dialect=self.name)

    def _entry(
        self, event: RoomEvent, room_id: str, entry: JsonObject, reading: Reading
    ) -> Membership | None:
        device_id = reading.string(entry, "device_id") or ""
        call_id = reading.string(entry, "call_id", empty=True) or ""
        application = reading.string(entry, "application", required=False) or "m.call"
        reading.string(entry, "scope", required=False)
        transports = reading.transports(entry, "foci_active")
        created_ts_ms = reading.integer(entry, "created_ts")
        expires_ms = reading.integer(entry, "expires")
        expires_ts_ms = reading.integer(entry, "expires_ts")
        if not entry.keys() & {"expires", "expires_ts"}:
            reading.missing("expires")
        if reading.problems:
            return None
        created = event.origin_server_ts_ms if created_ts_ms is None else created_ts_ms
        # Both may be there: the first counts from the server's clock, the second is the sender's.
        expires = created + expires_ms if expires_ms else expires_ts_ms or created
        (believed_from, believed_until), claims = lifespan(event, created, expires)
        return Membership(
            member=Member(
                user_id=event.sender,
                device_id=device_id,
                member_id=state_member_id(event.sender, device_id),
            ),
            slot_id=slot_id_of(application, call_id),
            transports=transports,
            can_subscribe=None,
            focus_selection=FocusSelection.OLDEST_MEMBERSHIP,
            application={**_KNOWN.more(entry), "type": application},
            created_ts_ms=believed_from,
            expires_ts_ms=believed_until,
            dialect=self.name,
            event_id=event.event_id,
            room_id=room_id,
            encrypted=event.encrypted,
            claims=claims,
        )
