"""Named, typed statements of health that status, doctor and timeline share.

In: the condition value, the published table of kinds, and the set that raises and clears them.
Out: who notices (machines, drivers, backends) and who shows (call events, the command line).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from rtcfoci.core.model import Now

__all__ = ["KINDS", "Condition", "ConditionKind", "Conditions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionKind:
    """What every condition with one code has in common; the docs page is made from these."""

    code: str
    what: str
    remedy: str
    terminal: bool = False
    """Terminal: the call cannot go on by itself. Otherwise it recovers, or works around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One statement of health: what, recoverable or terminal, since when, cause, remedy, next retry."""

    code: str
    what: str
    cause: str
    remedy: str
    terminal: bool
    since_ts_ms: int
    subject: str = ""
    """What it is about: a member, track, focus; empty for the call as a whole."""
    retry_at_s: float | None = None
    """Monotonic time of the next attempt, when one is planned."""


_KINDS = (
    ConditionKind(
        code="no_dead_mans_switch",
        what="The homeserver has no delayed events: a crash leaves our membership for up to 10 minutes.",
        remedy="Ask the operator to set max_event_delay_duration (MSC4140).",
    ),
    ConditionKind(
        code="homeserver_unreachable",
        what="The homeserver does not answer; media goes on.",
        remedy="Nothing to do: it is retried until it answers.",
    ),
    ConditionKind(
        code="rate_limited",
        what="The homeserver asks us to wait.",
        remedy="Nothing to do: the request is sent again when the server allows it.",
    ),
    ConditionKind(
        code="membership_lost",
        what="Our membership is gone from the room while we are in the call.",
        remedy="Nothing to do: it is sent again.",
    ),
    ConditionKind(
        code="leave_failed",
        what="Our membership could not be withdrawn and may still show.",
        remedy="Nothing to do: the delayed leave or its expiry withdraws it; leaving again tries at once.",
    ),
    ConditionKind(
        code="membership_refused",
        what="The homeserver refuses our membership event.",
        remedy="Lower the power level of the membership event, or ask a moderator to.",
        terminal=True,
    ),
    ConditionKind(
        code="kicked",
        what="We were removed from the room.",
        remedy="Ask to be invited again.",
        terminal=True,
    ),
    ConditionKind(
        code="banned",
        what="We were banned from the room.",
        remedy="Ask a moderator of the room.",
        terminal=True,
    ),
    ConditionKind(
        code="room_upgraded",
        what="The room was replaced by another.",
        remedy="Join the replacement room and call there.",
        terminal=True,
    ),
    ConditionKind(
        code="token_revoked",
        what="The access token is no longer valid.",
        remedy="Log in again.",
        terminal=True,
    ),
    ConditionKind(
        code="slot_closed",
        what="The slot of this call is closed: other clients may not show us.",
        remedy="Open it: rtcfoci slot open ROOM.",
    ),
    ConditionKind(
        code="memberships_unread",
        what="Memberships of the room cannot be read yet: the keys of encrypted events have not come.",
        remedy="Nothing to do: keys are given to who is in the room. If it persists, connect with "
        "encryption, or have these users join again.",
    ),
    ConditionKind(
        code="no_focus_type",
        what="A member uses a transport that no installed focus type understands.",
        remedy="Install or accept a focus type that the member uses.",
    ),
    ConditionKind(
        code="selection_failed",
        what="The selection policy cannot choose a focus: we publish on the first of those we accept.",
        remedy="Accept a focus type that the members use, or choose another selection policy.",
    ),
    ConditionKind(
        code="focus_failed",
        what="A focus could not be reached or failed.",
        remedy="Nothing to do: the next one is tried.",
    ),
    ConditionKind(
        code="identity_mismatch",
        what="The focus knows us under another identity than readers derive, so nothing is published.",
        remedy="Use the token endpoint that belongs to the written dialect.",
        terminal=True,
    ),
    ConditionKind(
        code="peer_unreachable",
        what="No media path to a member.",
        remedy="Check that both sides can reach each other or a TURN server.",
    ),
    ConditionKind(
        code="no_candidates",
        what="This machine offers no usable network address for media.",
        remedy="Bring up a network interface, or use the loopback option on one machine.",
    ),
    ConditionKind(
        code="media_stalled",
        what="A member's media stopped arriving.",
        remedy="Nothing to do: the connection is rebuilt.",
    ),
    ConditionKind(
        code="signal_refused",
        what="Signalling was refused because it is not from that member's device, or not encrypted.",
        remedy="If it persists, the member's client or homeserver is faulty or hostile.",
    ),
    ConditionKind(
        code="media_key_missing",
        what="A member's media cannot be decrypted: its media key has not come.",
        remedy="Nothing to do: it sends one when it sees us. If it persists, have that member join again.",
    ),
    ConditionKind(
        code="media_key_failed",
        what="A member's media does not open with the media key that it sent.",
        remedy="If it persists, have that member join again.",
    ),
    ConditionKind(
        code="media_key_undelivered",
        what="Our media key does not reach a member, who cannot decrypt what we send.",
        remedy="Nothing to do: it is sent again. That member needs a client with encryption.",
    ),
    ConditionKind(
        code="media_key_refused",
        what="A media key was refused because it is not from that member's device, or not encrypted.",
        remedy="If it persists, the member's client or homeserver is faulty or hostile.",
    ),
    ConditionKind(
        code="device_untrusted",
        what="A member's device is not cross-signed, as this call requires: no media key or signal goes "
        "to it, and its own are refused.",
        remedy="Have that user verify the device from another client of theirs, and join again with it.",
    ),
    ConditionKind(
        code="source_failed",
        what="A source of ours failed: its track is muted, and the call goes on.",
        remedy="Mend what the cause names (file, device, program), and publish the source anew.",
    ),
    ConditionKind(
        code="recording_failed",
        what="A recording ended early; the call, and the other recordings, go on.",
        remedy="Make room on the disk, or choose another folder, and begin a new recording.",
    ),
    ConditionKind(
        code="too_many_foci",
        what="Members name more remote foci than the trust policy allows.",
        remedy="Raise trust.max_foci if these members are trusted.",
    ),
    ConditionKind(
        code="internal_error",
        what="A part of rtcfoci failed unexpectedly.",
        remedy="Report it, with the log.",
    ),
    ConditionKind(
        code="events_dropped",
        what="The application reads call events too slowly: data and speaking events were dropped.",
        remedy="Read events faster.",
    ),
)

KINDS: Mapping[str, ConditionKind] = MappingProxyType({kind.code: kind for kind in _KINDS})
"""Every code that the project raises or that focus types share; a plugin's own begin with its name."""


class Conditions:
    """The conditions that hold now, keyed by (code, subject)."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Condition] = {}

    def __iter__(self) -> Iterator[Condition]:
        return iter(tuple(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def raise_(
        self,
        code: str,
        now: Now,
        *,
        cause: str,
        subject: str = "",
        retry_at_s: float | None = None,
        remedy: str = "",
        what: str = "",
        terminal: bool | None = None,
    ) -> Condition | None:
        """Note that a condition holds; give it back when it is new or its cause changed.

        :param what: needed only for codes outside `KINDS`, as plugins raise them.
        """
        kind = KINDS.get(code)
        held = self._held.get((code, subject))
        condition = Condition(
            code=code,
            what=what or (kind.what if kind else code),
            cause=cause,
            remedy=remedy or (kind.remedy if kind else ""),
            terminal=(kind.terminal if kind else False) if terminal is None else terminal,
            since_ts_ms=held.since_ts_ms if held else now.ts_ms,
            subject=subject,
            retry_at_s=retry_at_s,
        )
        self._held[code, subject] = condition
        return None if held and replace(held, retry_at_s=retry_at_s) == condition else condition

    def clear(self, code: str, subject: str = "") -> Condition | None:
        """Note that a condition no longer holds; give back the one that held, if any."""
        return self._held.pop((code, subject), None)
