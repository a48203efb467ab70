"""The members joined to one slot now, folded from events one at a time.

In: room events and time; out come typed diffs. Each event costs its own size, the logarithm of the
number of members, and the size of what changed. Out: the diffs themselves (`diffs`), how events are
read (`dialects`), which sticky event is current (`sticky`), and which focus to use (`selection`).

Which of a device's memberships counts is decided in three steps:

1. of one key (a state key, or a sticky key) one event is current: of state the last to arrive, since
   that is the homeserver's order, of sticky events the winner of MSC4354, whatever came first;
2. a current membership counts when it is for this slot, has not expired, its sender is joined to the
   room, and the policy lets it (`policies`);
3. of one device the membership that joined last is the member (`roster`), unless the policy lists
   them all.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from rtcfoci.core.dialects import Dialect, Leave, Memberships, Parsed, Problems, parse_event
from rtcfoci.core.diffs import (
    EventIgnored,
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SessionDiff,
    SlotChanged,
)
from rtcfoci.core.model import Member, Membership, Now, RoomEvent, Slot, SlotStatus
from rtcfoci.core.policies import TOLERANT, ReadingPolicy, RoomView
from rtcfoci.core.roster import EntryKey, Roster
from rtcfoci.core.slots import asks_encryption, read_slot
from rtcfoci.core.sticky import (
    StickyEntry,
    StickyKey,
    StickyMap,
    filing_key,
    sticky_expires_ts_ms,
)
from rtcfoci.errors import Problem

__all__ = [
    "EventIgnored",
    "LeftReason",
    "MemberChanged",
    "MemberJoined",
    "MemberLeft",
    "MemberRefreshed",
    "RoomView",
    "Session",
    "SessionDiff",
    "SlotChanged",
]

_MAX_REDACTIONS = 256
"""How many redactions are remembered: for events that may still come, or come again."""
_NEVER_TS_MS = 2**60
_REDACTED = Leave(dialect="")
"""What a redacted event says: the server empties it."""
_SUPERSEDED = Problem("superseded", "a later event of the same key counts instead")
_EXPIRED = Problem("expired", "its time is over")
_LEFT = Problem("left", "its device is no longer in the slot")
_NOT_JOINED = Problem("sender_not_joined", "its sender is not joined to the room")
_WAS_REDACTED = Problem("redacted", "it was redacted")


@dataclass(slots=True, eq=False)
class _Kind:
    """One event type of memberships."""

    event_type: str
    """The one text for all keys: each event brings a copy of its own."""
    dialects: list[Dialect] = field(default_factory=list)
    sticky: bool = False


class Session:
    """The members of one slot.

    :param dialects: every generation to be read; the first that knows an event reads it.
    :param policy: which memberships count; by default every one that can be read.
    """

    def __init__(
        self, slot: Slot, dialects: Sequence[Dialect], *, policy: ReadingPolicy = TOLERANT
    ) -> None:
        self.slot = slot
        self.policy = policy
        self._slot_id = slot.slot_id
        self._roster = Roster(policy)
        self._kinds: dict[str, _Kind] = {}
        for dialect in dialects:
            for event_type in dialect.event_types:
                kind = self._kinds.setdefault(event_type, _Kind(event_type))
                kind.dialects.append(dialect)
                kind.sticky |= dialect.sticky
        self._state: dict[EntryKey, str] = {}
        """The id of the current event of each state key."""
        self._state_key_of: dict[str, EntryKey] = {}
        """The same the other way round: for redactions."""
        self._expiries: list[tuple[int, EntryKey]] = []
        """When state keys lose a membership next; superseded ones lie among them."""
        self._sticky: StickyMap[Parsed] = StickyMap()
        self._chain_ts_ms: dict[StickyKey, int] = {}
        """When the present join of a sticky key began."""
        self._redacted: dict[str, None] = {}
        self._slot_says: dict[str, tuple[int, str, object]] = {}
        """Of each type of slot event, the current one: origin's time, event id, content."""

    @property
    def room(self) -> RoomView:
        """What the room says that bears on who counts."""
        return self._roster.room

    @property
    def members(self) -> tuple[Membership, ...]:
        """Everybody in the session, ourselves included, by (time of joining, user, device, member id)."""
        return self._roster.members

    def __len__(self) -> int:
        return len(self._roster)

    @property
    def slot_status(self) -> SlotStatus:
        """What the slot event says."""
        return self.room.slot_status

    @property
    def next_timer_ts_ms(self) -> int | None:
        """Wall clock at which `handle_timer` has something to do next; None for never."""
        while self._expiries and not self._is_due(*self._expiries[0]):
            heapq.heappop(self._expiries)
        state = self._expiries[0][0] if self._expiries else None
        sticky = self._sticky.next_expiry_ts_ms
        if state is None or sticky is None:
            return sticky if state is None else state
        return min(state, sticky)

    def find(self, user_id: str, device_id: str) -> Membership | None:
        """Give back the membership of a device, None when it is not in the session."""
        return self._roster.find(user_id, device_id)

    def has(self, member: Member) -> bool:
        """Tell whether exactly this member, member id included, is in the session."""
        return self._roster.has(member)

    def of_user(self, user_id: str) -> tuple[Membership, ...]:
        """Give back the members that are devices of a user."""
        return self._roster.of_user(user_id)

    def in_room(self, user_id: str) -> bool:
        """Tell whether a user is joined to the room."""
        return self._roster.in_room(user_id)

    def handle_timer(self, now: Now) -> tuple[SessionDiff, ...]:
        """Let go of what has expired."""
        diffs: list[SessionDiff] = []
        self._expire(now, diffs)
        return tuple(diffs)

    def receive(self, event: RoomEvent, now: Now) -> tuple[SessionDiff, ...]:
        """Take one event of the room: state, sticky or redaction; others cost nothing."""
        diffs: list[SessionDiff] = []
        self._expire(now, diffs)
        kind = self._kinds.get(event.type)
        if event.redacts is not None:
            self._redact(event.redacts, diffs)
        elif kind is not None:
            self._membership_event(kind, event, now, diffs)
        elif event.state_key is None:
            pass
        elif event.type == "m.room.member":
            content: object = event.content
            joined = isinstance(content, dict) and content.get("membership") == "join"
            self._roster.set_in_room(event.state_key, joined, diffs)
        elif event.type in self.policy.slot_types and event.state_key == self._slot_id:
            if self._supersede((event.type, event.state_key), event.event_id):
                says = {} if self._stays_redacted(event) else event.content
                self._slot_says[event.type] = event.origin_server_ts_ms, event.event_id, says
                self._slot_event(diffs)
        elif event.type == "m.room.encryption" and event.state_key == "":
            # Encryption is never switched off again (Matrix, m.room.encryption).
            self._roster.look(replace(self.room, room_encrypted=True), diffs)
        return tuple(diffs)

    # One event at a time.

    def _membership_event(
        self, kind: _Kind, event: RoomEvent, now: Now, diffs: list[SessionDiff]
    ) -> None:
        parsed = self._parse(kind.dialects, event)
        if isinstance(parsed, Problems):
            diffs.append(EventIgnored(event.event_id, event.sender, parsed.problems))
        if event.state_key is not None:
            key = (kind.event_type, event.state_key)
            if self._supersede(key, event.event_id):
                self._put_state(key, parsed, now, diffs)
        elif kind.sticky and parsed is not _REDACTED:
            filed_under = filing_key(event.content)
            if filed_under is not None:
                sticky_key = self._sticky.add(event, filed_under, parsed, now)
                if sticky_key is not None:
                    self._follow_sticky(sticky_key, _why(parsed), diffs)

    def _parse(self, dialects: Sequence[Dialect], event: RoomEvent) -> Parsed:
        if self._stays_redacted(event):
            return _REDACTED
        content: object = event.content
        if not isinstance(content, dict):
            return Problems((Problem("wrong_type", "content is not an object"),))
        parsed = parse_event(dialects, event, self.slot.room_id)
        if self.policy.reads_otherwise and isinstance(parsed, (Leave, Problems)):
            return parsed.otherwise or parsed
        return parsed

    def _stays_redacted(self, event: RoomEvent) -> bool:
        return event.event_id in self._redacted and self.policy.keeps_redactions

    def _supersede(self, key: EntryKey, event_id: str) -> bool:
        """Make an event the current one of its state key; False when it is that already.

        State follows the order of arrival, which is the homeserver's: a delayed leave that fires
        while its server restarts can be older than the membership it empties.
        """
        current_id = self._state.get(key)
        if current_id == event_id:
            return False
        if current_id is not None:
            self._state_key_of.pop(current_id, None)
        self._state[key] = event_id
        self._state_key_of[event_id] = key
        return True

    def _follow_sticky(self, key: StickyKey, reason: LeftReason, diffs: list[SessionDiff]) -> None:
        """Bring a sticky key's membership in line with its winner."""
        history = self._sticky.history(key)
        if self.policy.sticky_hides_state:
            self._roster.set_sticky(key, bool(history), diffs)
        winner = history[0].value if history else None
        if isinstance(winner, Membership):
            if self.policy.keeps_first_time:
                winner = self._since_first(key, winner, history)
            if winner.slot_id == self._slot_id:
                self._roster.put(key, (winner,), reason, diffs)
            else:
                self._roster.put(key, (), LeftReason.LEFT, diffs)
            return
        if not isinstance(winner, Problems):
            self._chain_ts_ms.pop(key, None)
        self._roster.put(key, (), reason, diffs)

    def _since_first(
        self, key: StickyKey, winner: Membership, history: Sequence[StickyEntry[Parsed]]
    ) -> Membership:
        """Give a refresh the time of its join, which is that of the first event since the last leave.

        What has expired since is remembered in `_chain_ts_ms`.
        """
        began_ts_ms = min(winner.created_ts_ms, history[0].origin_server_ts_ms)
        for entry in history[1:]:
            if isinstance(entry.value, Membership) and entry.value.member == winner.member:
                began_ts_ms = min(began_ts_ms, entry.origin_server_ts_ms)
            elif not isinstance(entry.value, Problems):
                break  # a leave, or another member under the same key: another join
        else:
            began_ts_ms = min(began_ts_ms, self._chain_ts_ms.get(key, began_ts_ms))
        self._chain_ts_ms[key] = began_ts_ms
        if began_ts_ms == winner.created_ts_ms:
            return winner
        return replace(winner, created_ts_ms=began_ts_ms)

    def _redact(self, event_id: str, diffs: list[SessionDiff]) -> None:
        self._redacted[event_id] = None
        if len(self._redacted) > _MAX_REDACTIONS:
            del self._redacted[next(iter(self._redacted))]
        state_key = self._state_key_of.pop(event_id, None)
        if state_key is not None:
            # A copy of the event that comes again is another event.
            self._state[state_key] = ""
            event_type = state_key[0]
            if event_type in self._slot_says:
                self._slot_says[event_type] = (self._slot_says[event_type][0], "", {})
                self._slot_event(diffs)
            else:
                # Redacted state is empty, which is a leave; there is no way back to its predecessor.
                self._roster.put(state_key, (), LeftReason.REDACTED, diffs)
        sticky_key = self._sticky.redact(event_id)
        if sticky_key is not None:
            self._follow_sticky(sticky_key, LeftReason.REDACTED, diffs)

    def _slot_event(self, diffs: list[SessionDiff]) -> None:
        # The stable and the unstable type may both be there: the newer one counts.
        *_, content = max(self._slot_says.values(), key=itemgetter(0, 1))
        required = self.policy.slot_status_required
        status = read_slot(content, self.slot.application, status_required=required)
        if status is not self.room.slot_status:
            diffs.append(SlotChanged(status))
        encrypted = asks_encryption(content)
        room = replace(self.room, slot_status=status, slot_encrypted=encrypted)
        self._roster.look(room, diffs)

    # What state says, and until when.

    def _put_state(self, key: EntryKey, parsed: Parsed, now: Now, diffs: list[SessionDiff]) -> None:
        said = _said(parsed)
        if self.policy.believes_claims:
            said = [_as_claimed(membership) for membership in said]
        alive = [m for m in said if m.expires_ts_ms > now.ts_ms]
        # Those for other slots say that their device is not here.
        here = [m for m in alive if m.slot_id == self._slot_id]
        reason = LeftReason.EXPIRED if said and not alive else _why(parsed)
        self._roster.put(key, here, reason, diffs)
        self._await_expiry(key)

    def _await_expiry(self, key: EntryKey) -> None:
        if len(self._expiries) > 2 * self._roster.entries + 64:
            # Superseded expiries may lie far ahead: without this a member could pile them up.
            self._expiries = [entry for entry in self._expiries if self._is_due(*entry)]
            heapq.heapify(self._expiries)
        expires_ts_ms = self._roster.expires_ts_ms(key)
        if expires_ts_ms is not None:
            heapq.heappush(self._expiries, (expires_ts_ms, key))

    def _is_due(self, expires_ts_ms: int, key: EntryKey) -> bool:
        return self._roster.expires_ts_ms(key) == expires_ts_ms

    def _expire(self, now: Now, diffs: list[SessionDiff]) -> None:
        while self._expiries and self._expiries[0][0] <= now.ts_ms:
            expires_ts_ms, key = heapq.heappop(self._expiries)
            if self._is_due(expires_ts_ms, key):
                left = [m for m in self._roster.live(key) if m.expires_ts_ms > now.ts_ms]
                self._roster.put(key, left, LeftReason.EXPIRED, diffs)
                self._await_expiry(key)
        for sticky_key in self._sticky.expire(now):
            self._follow_sticky(sticky_key, LeftReason.EXPIRED, diffs)

    # Why an event counts or not.

    def explain(self, event: RoomEvent, now: Now) -> tuple[Problem, ...]:
        """Say why an event that was received is not behind a member; empty when it is.

        Only of events that a dialect could read by their type: others give `unknown_dialect`.
        """
        kind = self._kinds.get(event.type, _Kind(event.type))
        parsed = self._parse(kind.dialects, event)
        if isinstance(parsed, Problems):
            return parsed.problems
        key: EntryKey
        if event.state_key is not None:
            key = (event.type, event.state_key)
            current_id = self._state.get(key)
        else:
            # Without a key it was filed nowhere, so that whatever is there is another event.
            key = sticky_key = (event.sender, event.type, filing_key(event.content) or "")
            current = self._sticky.current(sticky_key)
            current_id = current.event_id if current else None
        if parsed is _REDACTED or (
            event.event_id in self._redacted and current_id != event.event_id
        ):
            return (_WAS_REDACTED,)
        if current_id != event.event_id:
            over = event.state_key is None and sticky_expires_ts_ms(event) <= now.ts_ms
            return (_EXPIRED if over else _SUPERSEDED,)
        if isinstance(parsed, Leave):
            return (_LEFT,)
        return self._why_not(key, _said(parsed), now)

    def _why_not(self, key: EntryKey, said: Sequence[Membership], now: Now) -> tuple[Problem, ...]:
        """Say why none of the memberships of a current event is a member."""
        live = self._roster.live(key)
        if any(self._roster.shows(key, number) for number in range(len(live))):
            return ()
        found: dict[Problem, None] = {}
        for membership in said:
            if membership.slot_id != self._slot_id:
                about = f"it is for the slot {membership.slot_id}"
                found[Problem("other_slot", about)] = None
            claimed = _as_claimed(membership) if self.policy.believes_claims else membership
            if claimed.expires_ts_ms <= now.ts_ms:
                found[_EXPIRED] = None
            if not self._roster.in_room(membership.member.user_id):
                found[_NOT_JOINED] = None
            refused = self._roster.refusal(key, membership)
            if refused is not None:
                found[refused] = None
        return tuple(found) or (_SUPERSEDED,)


def _why(parsed: Parsed) -> LeftReason:
    return LeftReason.INVALID if isinstance(parsed, Problems) else LeftReason.LEFT


def _said(parsed: Parsed) -> Sequence[Membership]:
    if isinstance(parsed, Membership):
        return (parsed,)
    return parsed.memberships if isinstance(parsed, Memberships) else ()


def _as_claimed(membership: Membership) -> Membership:
    claims = membership.claims or (membership.created_ts_ms, membership.expires_ts_ms)
    created_ts_ms, expires_ts_ms = claims
    if membership.claims is None and membership.claimed_id is None and expires_ts_ms:
        return membership
    member = membership.member
    if membership.claimed_id is not None:
        member = replace(member, member_id=membership.claimed_id)
    return replace(
        membership,
        member=member,
        created_ts_ms=created_ts_ms,
        # matrix-js-sdk 43 takes an end at exactly 0 for none at all.
        expires_ts_ms=expires_ts_ms or _NEVER_TS_MS,
    )
