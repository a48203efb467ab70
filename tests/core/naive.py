"""The rules of a session, computed anew from all that ever happened: slow, plain, and written apart.

In: MSC4354's map as a list, and who is a member by the three steps in the docstring of `core.session` and
the words of the three policies. Out: diffs, timers and speed, which are what is tested against this.

Reading one event is the dialects' (`parse_event`), and has tests of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rtcfoci.core.dialects import Leave, Memberships, Problems, parse_event
from rtcfoci.core.model import Membership

HOUR_MS = 3_600_000
SLOT_TYPES = ("org.matrix.msc4143.rtc.slot", "m.rtc.slot")
STATE, STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"


def duration_ms(event):
    return min(max(event.sticky_duration_ms or 0, 0), HOUR_MS)


def expires_ts_ms(event):
    """The server's remaining time where it says it, else from the earlier of receipt and origin."""
    if event.sticky_ttl_ms is not None and duration_ms(event):
        return event.received_ts_ms + min(max(event.sticky_ttl_ms, 0), HOUR_MS)
    return min(event.received_ts_ms, event.origin_server_ts_ms) + duration_ms(event)


@dataclass(frozen=True)
class Filed:
    event: object
    key: object
    value: object

    @property
    def rank(self):
        """The last to expire wins, by the origin's clock; then the higher event id (MSC4354)."""
        return self.event.origin_server_ts_ms + duration_ms(self.event), self.event.event_id


class NaiveSticky:
    """The sticky events that count, in one list."""

    def __init__(self, most=16):
        self.most = most
        """How many of one key are kept, the best."""
        self.filed = []

    def add(self, event, key, value, now_ms):
        known = any(filed.event.event_id == event.event_id for filed in self.filed)
        if known or expires_ts_ms(event) <= now_ms:
            return None
        self.filed.append(Filed(event, key, value))
        if len(self.history(key)) > self.most:
            self.filed.remove(self.history(key)[-1])
        return key

    def redact(self, event_id):
        gone = [filed for filed in self.filed if filed.event.event_id == event_id]
        self.filed = [filed for filed in self.filed if filed not in gone]
        return gone[0].key if gone else None

    def expire(self, now_ms):
        gone = [filed for filed in self.filed if expires_ts_ms(filed.event) <= now_ms]
        self.filed = [filed for filed in self.filed if filed not in gone]
        return [filed.key for filed in gone]

    def history(self, key):
        found = [filed for filed in self.filed if filed.key == key]
        return sorted(found, key=lambda filed: filed.rank, reverse=True)

    @property
    def keys(self):
        return {filed.key for filed in self.filed}

    @property
    def next_expiry_ts_ms(self):
        return min((expires_ts_ms(filed.event) for filed in self.filed), default=None)


class NaiveSession:
    """One slot under one policy; `tell` only takes notes."""

    def __init__(self, slot, dialects, policy_name):
        self.slot, self.dialects, self.policy_name = slot, dialects, policy_name
        self.told = []
        self._parsed = {}

    def tell(self, now_ms, event=None):
        """Note an event, or only that time has passed."""
        self.told.append((now_ms, event))

    def members(self):
        """Everybody, with what they say, from the beginning."""
        self._in_room, self._room_encrypted, self._redacted = set(), False, set()
        self._state, self._sticky, self._began = {}, NaiveSticky(), {}
        for now_ms, event in self.told:
            for key in self._sticky.expire(now_ms):
                self._follow(key)
            if event is not None:
                self._take(event, now_ms)
        return self._counted(self.told[-1][0] if self.told else 0)

    @property
    def deployed(self):
        return self.policy_name == "deployed"

    # Events.

    def _take(self, event, now_ms):
        kind, content = event.type, event.content
        if event.redacts is not None:
            self._redacted.add(event.redacts)
            for key, held in self._state.items():
                if held is not None and held.event_id == event.redacts:
                    self._state[key] = replace(held, event_id="", content={})
            key = self._sticky.redact(event.redacts)
            if key is not None:
                self._follow(key)
        elif event.state_key is not None:
            if kind == "m.room.member":
                joined = content.get("membership") == "join"
                (self._in_room.add if joined else self._in_room.discard)(event.state_key)
            elif kind == "m.room.encryption":
                self._room_encrypted = True
            elif kind not in SLOT_TYPES[1:] or not self.deployed:
                if self._stays_redacted(event):
                    event = replace(event, content={})
                self._state[kind, event.state_key] = event
        else:
            key = content.get("msc4354_sticky_key", content.get("sticky_key"))
            if not self._stays_redacted(event) and isinstance(key, str):
                key = (event.sender, kind, key)
                if self._sticky.add(event, key, self._read(event), now_ms):
                    self._follow(key)

    def _stays_redacted(self, event):
        """Deployed clients forget a redaction as soon as they have done it."""
        return event.event_id in self._redacted and not self.deployed

    def _read(self, event):
        arrival = event.event_id, event.received_ts_ms, bool(event.content)
        if arrival not in self._parsed:
            self._parsed[arrival] = parse_event(self.dialects, event, self.slot.room_id)
        return self._parsed[arrival]

    def _follow(self, key):
        """Keep in mind when the present join of a key began: with the first since the last leave."""
        history = self._sticky.history(key)
        if not history or isinstance(history[0].value, Leave):
            self._began.pop(key, None)
        elif isinstance(history[0].value, Membership):
            times = []
            for filed in history:
                if isinstance(filed.value, Problems):
                    continue
                if isinstance(filed.value, Leave) or filed.value.member != history[0].value.member:
                    break
                times.append(filed.event.origin_server_ts_ms)
            else:
                times.append(self._began.get(key, times[0]))
            self._began[key] = min(times)

    # Who counts.

    def _counted(self, now_ms):
        found = []
        for (kind, state_key), event in self._state.items():
            if kind not in SLOT_TYPES:
                found += [
                    (self._as_state(m), kind, (kind, state_key)) for m in said(self._read(event))
                ]
        for key in self._sticky.keys:
            winner = self._sticky.history(key)[0].value
            found += [(self._as_sticky(m, key), key[1], key) for m in said(winner)]
        counted = [
            (membership, key)
            for membership, kind, key in found
            if membership.slot_id == self.slot.slot_id
            and membership.expires_ts_ms > now_ms
            and membership.member.user_id in self._in_room
            and self._policy_counts(membership, kind, key)
        ]
        if not self.deployed:
            counted = self._one_per_device(counted)
        return [membership for membership, _ in counted]

    def _as_state(self, membership):
        if not self.deployed:
            return membership
        if membership.claimed_id is not None:
            member = replace(membership.member, member_id=membership.claimed_id)
            membership = replace(membership, member=member)
        if membership.claims is not None:
            created_ts_ms, expires_ts_ms = membership.claims
            membership = replace(
                membership, created_ts_ms=created_ts_ms, expires_ts_ms=expires_ts_ms
            )
        return membership

    def _as_sticky(self, membership, key):
        if self.deployed:
            return membership
        return replace(membership, created_ts_ms=self._began[key])

    def _one_per_device(self, counted):
        devices = {}
        for membership, key in counted:
            who = membership.member
            device = (who.user_id, who.device_id, "" if who.device_id else who.member_id)
            held = devices.get(device)
            if held is None or not joined_later(held[0], membership):
                devices[device] = (membership, key)
        return list(devices.values())

    # The room.

    @property
    def slot_event(self):
        """The newer one, where both types are there."""
        found = [self._state[k] for k in self._state if k[0] in SLOT_TYPES]
        found = [event for event in found if event.state_key == self.slot.slot_id]
        return max(found, key=lambda e: (e.origin_server_ts_ms, e.event_id), default=None)

    @property
    def slot_says(self):
        event = self.slot_event
        return {} if event is None else event.content

    @property
    def slot_is(self):
        if self.slot_event is None:
            return "absent"
        says = self.slot_says
        ours = says.get("application", {}).get("type") == self.slot.application
        # Before 2026-07 there was no status.
        old = "open" if self.policy_name == "tolerant" else "closed"
        return "open" if ours and says.get("status", old) == "open" else "closed"

    def _policy_counts(self, membership, kind, key):
        match self.policy_name:
            case "tolerant":
                return True
            case "deployed":
                return self._deployed_counts(membership, kind, key)
            case "strict":
                if membership.dialect not in ("D7", "D6/D7") or self.slot_is != "open":
                    return False
                if key[2] != membership.member.member_id:
                    return False
                as_asked = "encryption" in self.slot_says and membership.encrypted
                return as_asked or not self._room_encrypted
        raise AssertionError(self.policy_name)

    def _deployed_counts(self, membership, kind, key):
        closed = self.slot_is == "closed"
        if kind == STICKY:
            return membership.dialect in ("D6", "D6/D7") and not closed
        hidden = any(filed[1:] == (STICKY, key[1]) for filed in self._sticky.keys)
        return kind == STATE and membership.dialect in ("D2", "D3") and (closed or not hidden)


def said(parsed):
    if isinstance(parsed, Membership):
        return [parsed]
    return list(parsed.memberships) if isinstance(parsed, Memberships) else []


def joined_later(one, other):
    """Tell whether one joined later than another; of one event, which stands later in it, is later."""
    return (one.created_ts_ms, one.event_id) > (other.created_ts_ms, other.event_id)
