"""The published codes of everything that can be wrong with a membership event or a notification, or keep it
from counting.

In: the table, from which the page of the documentation is made. Out: who finds the problems (`dialects`,
`session`, `policies`; `rtcfoci.lab` with files), and conditions, which are about a call.

Tools may rely on the codes. A dialect or a policy of a plugin adds codes of its own, with the prefix of its
name: `org.example.late`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

__all__ = ["KINDS", "About", "ProblemKind"]


class About(Enum):
    """What a problem means for the event."""

    MALFORMED = "malformed"
    """The event cannot be used."""
    NOT_COUNTED = "not counted"
    """The event can be read, and is not behind a member."""
    NOTIFICATION = "notification"
    """A notification can be read, and does not count; some codes of memberships are used as well."""
    DANGEROUS = "dangerous"
    """The event crashes other people's clients, or keeps them busy without end."""
    FILE = "file"
    """Of a file of events, or of an entry in it."""


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What every problem with one code has in common."""

    code: str
    about: About
    what: str


_MALFORMED = (
    ("bad_transport", "An item of a list of transports is no object with a `type`."),
    ("bad_unicode", "A text holds half a character."),
    ("bad_value", "A field holds none of the values it may have."),
    ("device_mismatch", "The event was encrypted by another device than it names."),
    (
        "dialect_unsupported",
        "The generation is recognised, and nothing here can take part in it (D0).",
    ),
    ("foreign_state_key", "The state key belongs to another user than the sender."),
    ("foreign_user", "The member it names is not the sender."),
    ("missing_field", "A field that its dialect requires is missing or empty."),
    ("missing_sticky_key", "A sticky membership has no sticky key."),
    ("not_state", "The dialect is one of state events, and this is none."),
    ("not_sticky", "The dialect is one of sticky events, and this is none."),
    ("out_of_range", "A number is negative, or beyond what JSON holds in Matrix."),
    ("slot_mismatch", "The slot does not belong to the application."),
    ("sticky_key_mismatch", "The sticky key is not the id that it has to be."),
    ("sticky_keys_differ", "The stable and the unstable sticky key differ."),
    ("too_deep", "The content is nested too deeply."),
    ("too_long", "A text is longer than any identifier of Matrix."),
    ("too_many_items", "A list has more items than anybody needs."),
    ("unknown_dialect", "No installed dialect reads it."),
    ("wrong_type", "A value is of another JSON type than its field; `null` is not absent."),
)
_NOT_COUNTED = (
    ("dialect_not_counted", "The reading policy does not count its dialect, or its event type."),
    ("encrypted", "It is encrypted and could not be decrypted."),
    ("expired", "Its time is over."),
    ("left", "It says that its device is not, or no longer, in the slot."),
    (
        "not_encrypted",
        "No known device of its sender encrypted it: it came in clear, or the keys are somebody else's. "
        "The room is encrypted, and the policy asks for it.",
    ),
    ("other_slot", "It is for another slot."),
    ("redacted", "It was redacted."),
    ("sender_not_joined", "Its sender is not joined to the room."),
    ("slot_absent", "The room has no such slot, and the policy asks for one."),
    ("slot_closed", "The slot is closed, or not encrypted as the room asks."),
    ("superseded", "A later event counts in its place: of the same key, or of the same device."),
)
_NOTIFICATION = (
    ("already_joined", "We are in the call that it tells of."),
    ("declined", "We declined it."),
    ("left_since", "We left the call after it was sent."),
    ("not_mentioned", "It does not mention us, or mentions the room without the power to."),
    ("own_event", "We sent it ourselves."),
    ("too_many", "More of them are current than are kept."),
    ("unknown_membership", "The membership it refers to is not one of its sender's in this slot."),
    ("withdrawn", "Its sender took it back."),
)
_DANGEROUS = (
    ("empty_foci_preferred", "A state membership lists no transport."),
    ("empty_published", "A sticky membership lists no transport."),
    (
        "endless_expires",
        "`expires` is no number, or lies more than 24 days ahead: clients count the members without pause.",
    ),
    ("no_foci_preferred", "A state membership has no list of transports."),
    (
        "unknown_focus_selection",
        "`focus_active` has no `focus_selection` that deployed clients know.",
    ),
)
_FILE = (
    ("bad_event", "The entry is not an event as a homeserver gives it to clients."),
    (
        "membership_assumed",
        "The file has no `m.room.member` at all: every sender counts as joined (a warning).",
    ),
)

KINDS: Mapping[str, ProblemKind] = MappingProxyType(
    {
        code: ProblemKind(code, about, what)
        for about, rows in (
            (About.MALFORMED, _MALFORMED),
            (About.NOT_COUNTED, _NOT_COUNTED),
            (About.NOTIFICATION, _NOTIFICATION),
            (About.DANGEROUS, _DANGEROUS),
            (About.FILE, _FILE),
        )
        for code, what in rows
    }
)
"""Every code there is, by code."""
