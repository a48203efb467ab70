"""The media keys of others: whose are believed, who still owes one, and those that come too early.

In: messages as olm delivered them, and who is in the session. Out: our own key (`key_sharing`), how a
message reads (`key_messages`), the face of both (`keys`).

What a device sent is kept by the device that encrypted it, which nobody can forge, and not by what the
message claims. The member that the session has for this device gets those keys that name its member id, so
that an earlier or a later join of the same device never gets in its way. State dialects have one id for
every join, which deployed clients need not write into their keys: there any id will do.

A key may come before its sender's membership, and a member that was withdrawn by an outage comes back with
the keys it had: what a device that is not in the session has sent is kept for ten minutes, bounded.
(MSC4143, Distributing keys, text of 2026-07-24.)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from rtcfoci.core.dialects.state import state_member_id
from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.key_effects import KeyConfig, KeyOutput, SetKey
from rtcfoci.core.key_messages import MAX_INDEX, Key, KeyMessage, KeyRefusal, read_key
from rtcfoci.core.model import Member, Membership, Now, Slot

__all__ = ["KeyRings"]

_KEEP_S = 600.0
_MAX_STRANGERS = 256
"""So many devices outside the session have their keys kept."""
_MAX_KEYS = 16
"""And so many keys of each device; two are in use at a time."""
_SUSPECT = frozenset({KeyRefusal.NOT_ENCRYPTED, KeyRefusal.OTHER_DEVICE})
"""Refusals that a well-behaved member's client never earns."""
_MAX_SUSPECTS = 16
"""Anybody can send us messages: of more users than these, refusals are only counted."""

_Device: TypeAlias = tuple[str, str]
_Problem: TypeAlias = Literal["missing", "failed"]


@dataclass(frozen=True, slots=True)
class _Held:
    key: Key
    sent_ts_ms: int | None


@dataclass(slots=True, eq=False)
class _Ring:
    """What one device has sent."""

    keys: dict[tuple[str | None, int], _Held] = field(default_factory=dict)
    """By the member id that they name, and index; the last to come is last."""
    member: Member | None = None
    """Who the device is in the session; None for a stranger."""
    was_member: bool = False
    wanted: set[int] = field(default_factory=set)
    """Indices of which a connection said that it lacks the key."""
    problems: set[_Problem] = field(default_factory=set)
    """The conditions that hold."""

    def of(self, member: Member) -> dict[int, Key]:
        """The keys that are this member's."""
        return {
            index: held.key
            for (member_id, index), held in self.keys.items()
            if _names(member_id, member)
        }


class KeyRings:
    """What came from the devices of others.

    :param put: takes what is to be done.
    """

    def __init__(
        self,
        slot: Slot,
        own: Member,
        config: KeyConfig,
        counters: Counter[str],
        put: Callable[[KeyOutput], None],
    ) -> None:
        self._slot = slot
        self._own = own
        self._config = config
        self._counters = counters
        self._put = put
        self._started = False
        self._rings: dict[_Device, _Ring] = {}
        self._members: dict[_Device, Member] = {}
        self._by_id: dict[str, set[_Device]] = {}
        """Who in the session has a member id; it need not be one alone."""
        self._strangers: dict[_Device, float] = {}
        """Until when what they sent is kept; the first to come is first."""
        self._expected: deque[tuple[float, _Device, Member, int | None]] = deque()
        """When which key of whom should have come; None: any."""
        self._suspects: set[str] = set()

    @property
    def installed(self) -> dict[tuple[Member, int], Key]:
        """Every key of somebody in the session."""
        return {
            (ring.member, index): key
            for ring in self._rings.values()
            if ring.member is not None
            for index, key in ring.of(ring.member).items()
        }

    @property
    def next_timer_s(self) -> float:
        """When `timer` has something to do; infinity for never."""
        forget_s = next(iter(self._strangers.values()), inf)
        return min(forget_s, self._expected[0][0] if self._expected else inf)

    def start(self, now: Now) -> None:
        """From now on others know us, and owe us their keys."""
        self._started = True
        for device, member in self._members.items():
            self._expect(now, device, member)

    def set_members(self, now: Now, members: Iterable[Membership]) -> None:
        """Follow who is in the session."""
        present: dict[_Device, Member] = {}
        for membership in members:
            member = membership.member
            device = member.user_id, member.device_id or ""
            if member.device_id is not None and device != self._own_device:
                present[device] = member
        for device in [d for d in self._members if d not in present]:
            self._part(now, device)
        self._by_id = {}
        for device, member in present.items():
            self._by_id.setdefault(member.member_id, set()).add(device)
            if self._members.get(device) != member:
                self._meet(now, device, member)
        self._members = present

    def receive(
        self,
        now: Now,
        event_type: str,
        content: object,
        *,
        sender: str,
        device_id: str | None,
        encrypted: bool,
        trusted: bool,
    ) -> None:
        """Judge one message. :param device_id: the device that encrypted it, checked."""
        message = read_key(event_type, content)
        refusal: KeyRefusal | None
        if isinstance(message, KeyMessage):
            device = (sender, device_id) if encrypted and device_id is not None else None
            refusal = self._judge(message, device)
            if refusal is None and self._config.require_trusted and not trusted:
                refusal = KeyRefusal.UNTRUSTED
            if refusal is None and device is not None:
                refusal = self._store(now, device, message)
        else:
            refusal = message
        if refusal is None:
            self._counters["keys_received"] += 1
        else:
            self._refuse(refusal, sender)

    def problem(self, now: Now, member: Member, index: int, problem: _Problem) -> None:
        """Learn from a connection that a member's media cannot be decrypted.

        Who joins late hears what is encrypted with a key that is not for it, and soon is used no more.
        """
        device = member.user_id, member.device_id or ""
        ring = self._rings.get(device)
        if ring is None or ring.member != member:
            return
        held = index in ring.of(member)
        if problem == "failed" and held:
            self._raise(ring, member, "failed", f"its key {index} does not open them")
        elif not held and index not in ring.wanted and 0 <= index <= MAX_INDEX:
            ring.wanted.add(index)
            self._expected.append((now.s + self._config.missing_after_s, device, member, index))

    def heard(self, member: Member) -> None:
        """Learn from a connection that a member's media can be decrypted."""
        ring = self._rings.get((member.user_id, member.device_id or ""))
        if ring is not None and ring.member == member:
            self._settle(ring, member)

    def timer(self, now: Now) -> None:
        """Do what is due."""
        while self._strangers and next(iter(self._strangers.values())) <= now.s:
            device = next(iter(self._strangers))
            never = not self._rings[device].was_member
            self._forget(device, KeyRefusal.NOT_A_MEMBER if never else None)
        while self._expected and self._expected[0][0] <= now.s:
            _, device, member, index = self._expected.popleft()
            ring = self._rings[device] if self._members.get(device) == member else None
            if ring is None:
                continue
            lacks = not ring.of(member) if index is None else index in ring.wanted
            if lacks:
                what = "none" if index is None else f"none of index {index}"
                believed = " that is believed" if self._config.require_trusted else ""
                waited_s = self._config.missing_after_s
                cause = f"{what}{believed} has come in {waited_s:.0f} s"
                self._raise(ring, member, "missing", cause)

    # What is believed.

    @property
    def _own_device(self) -> _Device:
        return self._own.user_id, self._own.device_id or ""

    def _judge(self, message: KeyMessage, device: _Device | None) -> KeyRefusal | None:
        """Say why a message cannot be believed. :param device: None when it came in clear."""
        if message.room_id != self._slot.room_id:
            return KeyRefusal.OTHER_ROOM
        if message.slot_id not in (None, self._slot.slot_id):
            return KeyRefusal.OTHER_SLOT
        if device is None:
            return KeyRefusal.NOT_ENCRYPTED
        if message.device_id not in (None, device[1]) or device == self._own_device:
            return KeyRefusal.OTHER_DEVICE
        # Who took another's member id must not keep that one's early keys out: those wait for their member.
        owners = self._by_id.get(message.member_id or "", set())
        known = device in self._members or any(user_id == device[0] for user_id, _ in owners)
        return KeyRefusal.OTHER_DEVICE if owners and known and device not in owners else None

    def _store(self, now: Now, device: _Device, message: KeyMessage) -> KeyRefusal | None:
        ring = self._rings.get(device)
        place = message.member_id, message.index
        held = None if ring is None else ring.keys.get(place)
        if held is not None:
            if held.key == message.key:
                return None
            # Who does not say when it was sent is believed by the order of arrival.
            sent_ts_ms, before_ts_ms = message.sent_ts_ms, held.sent_ts_ms
            if sent_ts_ms is not None and before_ts_ms is not None and sent_ts_ms < before_ts_ms:
                return KeyRefusal.OUTDATED
        if ring is None:
            ring = self._rings[device] = _Ring()
            self._host(now, device)
        ring.keys.pop(place, None)
        ring.keys[place] = _Held(message.key, message.sent_ts_ms)
        if len(ring.keys) > _MAX_KEYS:
            del ring.keys[next(iter(ring.keys))]
        member = ring.member
        if member is not None and _names(message.member_id, member):
            self._put(SetKey(member=member, index=message.index, key=message.key))
            self._settle(ring, member)
        else:
            self._counters["keys_early"] += 1
        return None

    # Who is there.

    def _meet(self, now: Now, device: _Device, member: Member) -> None:
        """A device is in the session, or is in another join: give it what it sent before."""
        ring = self._rings.setdefault(device, _Ring())
        self._strangers.pop(device, None)
        if ring.member is not None:
            self._settle(ring, ring.member)
        ring.member, ring.was_member = member, True
        for index, key in ring.of(member).items():
            self._put(SetKey(member=member, index=index, key=key))
        if self._started:
            self._expect(now, device, member)

    def _part(self, now: Now, device: _Device) -> None:
        ring = self._rings[device]
        self._settle(ring, self._members[device])
        ring.member = None
        if not ring.keys:
            del self._rings[device]
        else:
            self._host(now, device)

    def _expect(self, now: Now, device: _Device, member: Member) -> None:
        if not self._rings[device].of(member):
            self._expected.append((now.s + self._config.missing_after_s, device, member, None))

    def _host(self, now: Now, device: _Device) -> None:
        """Keep what a stranger sent for a while.

        Anybody can send before joining, or instead: whoever has most there makes room, or a few could
        silence all.
        """
        self._strangers[device] = now.s + _KEEP_S
        if len(self._strangers) > _MAX_STRANGERS:
            of_user = Counter(user_id for user_id, _ in self._strangers)
            most = max(of_user.values())
            # The newcomer is last, so this is another device of its user, or another user's.
            victim = next(d for d in self._strangers if of_user[d[0]] == most)
            self._forget(victim, KeyRefusal.TOO_MANY)

    def _forget(self, device: _Device, refusal: KeyRefusal | None) -> None:
        del self._strangers[device]
        del self._rings[device]
        if refusal is not None:
            self._refuse(refusal, device[0])

    # Conditions.

    def _refuse(self, refusal: KeyRefusal, sender: str) -> None:
        self._counters[f"keys_refused.{refusal.value}"] += 1
        if refusal in _SUSPECT and len(self._suspects | {sender}) <= _MAX_SUSPECTS:
            self._suspects.add(sender)
            cause = f"{refusal.value} from {sender}"
            self._put(RaiseCondition(code="media_key_refused", cause=cause, subject=sender))

    def _raise(self, ring: _Ring, member: Member, problem: _Problem, cause: str) -> None:
        ring.problems.add(problem)
        self._put(RaiseCondition(code=f"media_key_{problem}", cause=cause, subject=str(member)))

    def _settle(self, ring: _Ring, member: Member) -> None:
        """Another key of a member came, or it left: what was wrong with its keys may be over."""
        for problem in sorted(ring.problems):
            self._put(ClearCondition(code=f"media_key_{problem}", subject=str(member)))
        ring.problems.clear()
        ring.wanted.clear()


def _names(member_id: str | None, member: Member) -> bool:
    """Tell whether a key with this member id is a member's, if it came from its device."""
    any_id = state_member_id(member.user_id, member.device_id or "")
    return member_id in (None, member.member_id) or member.member_id == any_id
