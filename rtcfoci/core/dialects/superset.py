"""The sticky memberships D6 and D7 (MSC4143), `transports` with `published` and `can_subscribe`.

Read: D6 (matrix-js-sdk 43, Element Call from 0.24), D7 (the text of 2026-07-24), and what has the
fields of both. Written: one event with the fields of both, which the readers of either accept.
Out: what they share with D5 (`sticky`).
"""

from __future__ import annotations

from rtcfoci.core.dialects import OwnEvent, OwnMembership, checked_transports
from rtcfoci.core.dialects.reading import MAX_PROBLEMS, Known, Reading
from rtcfoci.core.dialects.sticky import KEY_FIELDS, Said, StickyDialect
from rtcfoci.core.model import JsonObject, RoomEvent

__all__ = ["Superset"]

_KNOWN = Known(
    "slot_id", "application", "versions", *KEY_FIELDS,
    member=("id", "user_id", "device_id", "membership"),
    transports=("published", "can_subscribe"),
)  # fmt: skip


class Superset(StickyDialect):
    """Sticky memberships, `transports`."""

    name = "D6/D7"
    bare_leave = "D6"
    known = _KNOWN

    def tells(self, content: JsonObject) -> bool:
        """Tell by content whether an event is of one of these generations."""
        return "transports" in content or "rtc_transports" not in content

    def said(self, event: RoomEvent, member: JsonObject | None, reading: Reading) -> Said:
        """Read what is these generations' own, and tell which of them it is.

        `deployed` notes what D6 asks for beyond D7. An event of D7 that answers it all is of both.
        """
        content = event.content
        membership = device_id = None
        deployed = Reading()
        if member is not None:
            membership = reading.text(member, "membership", "member.membership")
            user_id = reading.string(member, "user_id", "member.user_id", required=False)
            if user_id is None:
                deployed.missing("member.user_id")
            elif user_id != event.sender:
                reading.problem("foreign_user", "member.user_id is not the sender")
            device_id = reading.string(
                member, "device_id", "member.device_id", required=False, empty=True
            )
            if device_id is None:
                deployed.missing("member.device_id")
        transports = reading.mapping(content, "transports", required=False)
        if transports is None:
            transports = {}
            if "transports" not in content:
                deployed.missing("transports")
        else:
            for name in ("published", "can_subscribe"):
                if name not in transports:
                    deployed.missing(f"transports.{name}")
        published = reading.transports(transports, "published", "transports.published")
        can_subscribe = reading.strings(transports, "can_subscribe", "transports.can_subscribe")
        if deployed.strings(content, "versions") is None:
            deployed.missing("versions")
        if "m.relates_to" in content:
            _check_relation(content, deployed)
        if membership not in (None, "join"):
            # Readers of D6 do not look at it, and it is nothing that D7 knows.
            dialect = "D6"
            if deployed.problems:
                reading.problem("bad_value", "member.membership is neither join nor leave")
        elif membership is not None:
            dialect = "D7" if deployed.problems else "D6/D7"
        else:
            reading.problems += deployed.problems[: MAX_PROBLEMS - len(reading.problems)]
            dialect = "D6/D7" if "sticky_key" in content else "D6"
        return Said(dialect, device_id, published, can_subscribe)

    def join(self, own: OwnMembership) -> OwnEvent:
        """Announce us."""
        rest: dict[str, object] = {
            "transports": {
                "published": checked_transports(own),
                "can_subscribe": list(own.can_subscribe),
            },
            **dict.fromkeys(KEY_FIELDS, own.member.member_id),
        }
        return self._joined(own, {"membership": "join"}, rest)


def _check_relation(content: JsonObject, reading: Reading) -> None:
    """Check the relation as matrix-js-sdk 43 does, which refuses an event for it."""
    relation = reading.mapping(content, "m.relates_to")
    if relation is not None:
        reading.text(relation, "event_id", "m.relates_to.event_id", required=True)
        if relation.get("rel_type") != "m.reference":
            reading.problem("bad_value", "m.relates_to.rel_type is not m.reference")
