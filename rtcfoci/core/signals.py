"""The envelope around what backends say to each other over to-device, and who is believed.

In: writing an `rtcfoci.signal`, and `SignalInbox`, which takes one apart and refuses what is not from
the member it names. Out: encryption and delivery (`rtcfoci.matrix`), and the payload, which is the
backend's (`Connection.on_signal`).

The envelope repeats room, slot and both members inside the encryption, so that a signal cannot be
replayed into another call, another join or another device.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from rtcfoci.core.dialects.reading import Reading, is_shallow
from rtcfoci.core.model import JsonObject, Member, Now, Slot

__all__ = [
    "DEFAULT_LIFETIME_MS",
    "MAX_LIFETIME_MS",
    "SIGNAL_TYPE",
    "Held",
    "Refusal",
    "Refused",
    "Signal",
    "SignalInbox",
    "Verdict",
    "build_signal",
]

SIGNAL_TYPE = "rtcfoci.signal"
DEFAULT_LIFETIME_MS = 30_000
MAX_LIFETIME_MS = 120_000
"""No signal lives longer, whatever it says; message ids are remembered as long."""
_CLOCK_SKEW_MS = 60_000
"""How far a sender's clock may be from ours. One that is ahead gains nothing: a signal also dies its
lifetime after we received it."""
_MAX_SEEN_PER_MEMBER = 4096
_MAX_HELD = 256
_MAX_HELD_PER_USER = 64

_Security: TypeAlias = Literal["clear", "bound", "trusted"]


class Refusal(Enum):
    """Why a signal was not delivered."""

    MALFORMED = "malformed"
    OTHER_ROOM = "other_room"
    OTHER_SLOT = "other_slot"
    NOT_FOR_US = "not_for_us"
    """Addressed to another device, or to an earlier join of ours."""
    NOT_ENCRYPTED = "not_encrypted"
    """In clear in an encrypted room."""
    OTHER_USER = "other_user"
    """Sent by another user than it claims."""
    OTHER_DEVICE = "other_device"
    """Encrypted by another device than it claims."""
    EXPIRED = "expired"
    WRONG_CLOCK = "wrong_clock"
    """Sent in our future: the clocks of both machines are too far apart."""
    DUPLICATE = "duplicate"
    TOO_MANY = "too_many"
    """More than are kept of one sender."""
    NOT_A_MEMBER = "not_a_member"
    """Held until it expired, and the member never joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A signal that is from the member it names."""

    member: Member
    focus_type: str
    attempt: str
    """Opaque: the backend's name for one try to connect."""
    seq: int
    payload: JsonObject = field(repr=False)
    security: _Security


@dataclass(frozen=True, slots=True)
class Refused:
    """A signal that was not delivered; counted."""

    reason: Refusal
    sender: str


@dataclass(frozen=True, slots=True)
class Held:
    """A signal of somebody whose membership has not arrived; given back by `member_joined`."""

    member: Member


Verdict: TypeAlias = Signal | Refused | Held


@dataclass(frozen=True, slots=True)
class _Waiting:
    signal: Signal
    message_id: str
    dies_ts_ms: int


def build_signal(
    slot: Slot,
    sender: Member,
    to: Member,
    *,
    focus_type: str,
    payload: JsonObject,
    attempt: str,
    seq: int,
    message_id: str,
    now_ts_ms: int,
    lifetime_ms: int = DEFAULT_LIFETIME_MS,
) -> dict[str, object]:
    """Write the content of one to-device event.

    :param message_id: unique among all that we ever send; random.
    :param seq: counts what we send to this member for this focus type.
    """
    return {
        "room_id": slot.room_id,
        "slot_id": slot.slot_id,
        "from": _write_member(sender),
        "to": _write_member(to),
        "focus_type": focus_type,
        "attempt": attempt,
        "seq": seq,
        "message_id": message_id,
        "sent_ts_ms": now_ts_ms,
        "expires_ts_ms": now_ts_ms + min(lifetime_ms, MAX_LIFETIME_MS),
        "payload": dict(payload),
    }


class SignalInbox:
    """Takes the signals addressed to one member of ours, and lets through what can be believed.

    :param own: our member in this join.
    :param has: whether exactly this member is in the session (`Session.has`).
    """

    def __init__(self, slot: Slot, own: Member, has: Callable[[Member], bool]) -> None:
        self.refused: Counter[Refusal] = Counter()
        """How many signals were refused, by reason."""
        self._slot = slot
        self._own = own
        self._has = has
        self._seen: dict[Member, set[str]] = {}
        """Message ids of a member."""
        self._forget: deque[tuple[int, Member, str]] = deque()
        """When each of them may be forgotten, oldest first."""
        self._held: dict[Member, deque[_Waiting]] = {}

    def receive(
        self,
        content: object,
        now: Now,
        *,
        sender: str,
        sender_device_id: str | None,
        security: _Security,
        encrypted: bool,
    ) -> Verdict:
        """Judge one signal.

        :param sender_device_id: the device that encrypted it; not believed when it came in clear.
        :param encrypted: whether the room is.
        """
        if not isinstance(content, dict):
            return self._refuse(Refusal.MALFORMED, sender)
        reading = Reading()
        room_id = reading.string(content, "room_id")
        slot_id = reading.string(content, "slot_id")
        from_ = _read_member(reading, content, "from")
        to = _read_member(reading, content, "to")
        focus_type = reading.string(content, "focus_type")
        attempt = reading.string(content, "attempt")
        message_id = reading.string(content, "message_id")
        payload = reading.mapping(content, "payload")
        seq = reading.integer(content, "seq")
        sent_ts_ms = reading.integer(content, "sent_ts_ms")
        expires_ts_ms = reading.integer(content, "expires_ts_ms")
        if (
            from_ is None or to is None or focus_type is None or attempt is None
            or message_id is None or payload is None or seq is None or sent_ts_ms is None
            or expires_ts_ms is None or reading.problems or not is_shallow(payload)
        ):  # fmt: skip
            return self._refuse(Refusal.MALFORMED, sender)
        lifetime_ms = min(expires_ts_ms - sent_ts_ms, MAX_LIFETIME_MS)
        dies_ts_ms = min(sent_ts_ms + lifetime_ms + _CLOCK_SKEW_MS, now.ts_ms + max(0, lifetime_ms))
        for fails, reason in (
            (room_id != self._slot.room_id, Refusal.OTHER_ROOM),
            (slot_id != self._slot.slot_id, Refusal.OTHER_SLOT),
            (to != self._own, Refusal.NOT_FOR_US),
            (encrypted and security == "clear", Refusal.NOT_ENCRYPTED),
            (from_.user_id != sender, Refusal.OTHER_USER),
            (security != "clear" and from_.device_id != sender_device_id, Refusal.OTHER_DEVICE),
            (dies_ts_ms <= now.ts_ms, Refusal.EXPIRED),
            (sent_ts_ms > now.ts_ms + _CLOCK_SKEW_MS, Refusal.WRONG_CLOCK),
        ):
            if fails:
                return self._refuse(reason, sender)
        signal = Signal(
            member=from_,
            focus_type=focus_type,
            attempt=attempt,
            seq=seq,
            payload=payload,
            security=security,
        )
        if not self._has(from_):
            return self._hold(_Waiting(signal, message_id, dies_ts_ms), now)
        return self._deliver(signal, message_id, now)

    def member_joined(self, member: Member, now: Now) -> tuple[Signal, ...]:
        """Give back what was held for a member that is now in the session, in order of arrival."""
        verdicts = []
        for waiting in self._held.pop(member, ()):
            if waiting.dies_ts_ms <= now.ts_ms:
                self._refuse(Refusal.EXPIRED, member.user_id)
            else:
                verdicts.append(self._deliver(waiting.signal, waiting.message_id, now))
        return tuple(verdict for verdict in verdicts if isinstance(verdict, Signal))

    def _deliver(self, signal: Signal, message_id: str, now: Now) -> Signal | Refused:
        while self._forget and self._forget[0][0] <= now.ts_ms:
            _, member, forgotten = self._forget.popleft()
            self._seen[member].discard(forgotten)
            if not self._seen[member]:
                del self._seen[member]
        seen = self._seen.get(signal.member, set())
        if message_id in seen:
            return self._refuse(Refusal.DUPLICATE, signal.member.user_id)
        if len(seen) >= _MAX_SEEN_PER_MEMBER:
            return self._refuse(Refusal.TOO_MANY, signal.member.user_id)
        # By then the same signal is refused as expired, even if its sender's clock was ahead.
        forget_ts_ms = now.ts_ms + MAX_LIFETIME_MS + 2 * _CLOCK_SKEW_MS
        self._forget.append((forget_ts_ms, signal.member, message_id))
        self._seen.setdefault(signal.member, seen).add(message_id)
        return signal

    def _hold(self, waiting: _Waiting, now: Now) -> Verdict:
        member = waiting.signal.member
        for other, queue in tuple(self._held.items()):
            while queue and queue[0].dies_ts_ms <= now.ts_ms:
                queue.popleft()
                self._refuse(Refusal.NOT_A_MEMBER, other.user_id)
            if not queue:
                del self._held[other]
        of_user = Counter[str]()
        for other, queue in self._held.items():
            of_user[other.user_id] += len(queue)
        if of_user[member.user_id] >= _MAX_HELD_PER_USER:
            return self._refuse(Refusal.TOO_MANY, member.user_id)
        if of_user.total() >= _MAX_HELD:
            # Anybody can send before joining: who holds most makes room, or a few could silence all.
            greedy = max(of_user, key=of_user.__getitem__)
            if of_user[greedy] <= of_user[member.user_id] + 1:
                return self._refuse(Refusal.TOO_MANY, member.user_id)
            self._refuse(Refusal.TOO_MANY, greedy)
            longest = max((m for m in self._held if m.user_id == greedy), key=self._waiting)
            self._held[longest].pop()
            if not self._held[longest]:
                del self._held[longest]
        self._held.setdefault(member, deque()).append(waiting)
        return Held(member)

    def _waiting(self, member: Member) -> int:
        return len(self._held[member])

    def _refuse(self, reason: Refusal, sender: str) -> Refused:
        self.refused[reason] += 1
        return Refused(reason, sender)


def _write_member(member: Member) -> dict[str, object]:
    return {
        "user_id": member.user_id,
        "device_id": member.device_id,
        "member_id": member.member_id,
    }


def _read_member(reading: Reading, content: JsonObject, key: str) -> Member | None:
    source = reading.mapping(content, key)
    if source is None:
        return None
    user_id = reading.string(source, "user_id", f"{key}.user_id")
    device_id = reading.string(source, "device_id", f"{key}.device_id")
    member_id = reading.string(source, "member_id", f"{key}.member_id")
    if user_id is None or device_id is None or member_id is None:
        return None
    return Member(user_id=user_id, device_id=device_id, member_id=member_id)
