"""Our own media key: made, given to everybody in the session, replaced when somebody leaves.

In: generations of our key, whom each of them is owed to, when it is used. Out: the keys of others
(`key_rings`), the message itself (`key_messages`), the face of both (`keys`).

A key has a *generation*, which counts up and is never reused, and an *index*, the generation modulo 256,
which is all that goes over the wire. At most two generations are alive: the one *in use* and the *newest*,
which everybody is being told of. Whoever is in the session is a recipient, by device, and may have every
generation from that of its joining on:

- Somebody left: a new generation, for all that remain. Whoever leaves, or joins late, before it is in use
  causes one more as soon as it is, so that many who leave together cost two and not many.
- Somebody joined: the newest, if that is young (the grace period) or not in use yet, else a new one, so that
  what was said before stays closed to it.
- The same device joined again, or says that it did (another member id or time of joining): what it had is
  sent again, since it may have lost it. Nobody else's key changes for that.

The delay between telling and using is for those who are listening: where nobody is, there is none. A device
that cannot be reached is tried again for as long as it is in the session, and keeps nobody waiting.
(MSC4143, Distributing keys and Rotating keys, text of 2026-07-24.)
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.key_effects import KeyConfig, KeyOutput, SendKey, SetKey, UseKey
from rtcfoci.core.key_messages import MAX_INDEX, Key
from rtcfoci.core.model import Member, Membership, Now

__all__ = ["KeySharing"]

_WINDOW = 8
"""So many sends are under way at once, and one while the homeserver does not answer."""
_SLOW_S = 2.0
"""A send that takes longer no longer counts there: a member's slow homeserver must not hold up the others."""
_SERVER_RETRY_S = (1.0, 2.0, 4.0)
_DEVICE_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_UNDELIVERED = "media_key_undelivered"
_UNTRUSTED = "device_untrusted"

_Device: TypeAlias = tuple[str, str]


@dataclass(slots=True, eq=False)
class _Generation:
    number: int
    key: Key
    made_s: float

    @property
    def index(self) -> int:
        return self.number % (MAX_INDEX + 1)


@dataclass(slots=True, eq=False)
class _Recipient:
    """A device in the session, in one join; another join of it is another recipient."""

    membership: Membership
    since: int
    """The first generation that it may have."""
    owed: list[_Generation] = field(default_factory=list)
    """Oldest first, and sent in that order."""
    scheduled: bool = False
    """It is in a queue, or a send to it is under way."""
    failures: int = 0
    told: str = ""
    """The condition of it that holds: it cannot be reached, or must not."""
    gone: bool = False


class KeySharing:
    """Our key, and who has it.

    :param put: takes what is to be done.
    :param random_bytes: where keys come from.
    """

    def __init__(
        self,
        own: Member,
        config: KeyConfig,
        random_bytes: Callable[[int], bytes],
        counters: Counter[str],
        put: Callable[[KeyOutput], None],
    ) -> None:
        self._own = own
        self._config = config
        self._random_bytes = random_bytes
        self._counters = counters
        self._put = put
        self._in_use: _Generation | None = None
        self._newest: _Generation | None = None
        self._use_at_s = inf
        self._again = False
        """Somebody who has left knows the newest generation: when it is in use another follows."""
        self._untold: set[_Recipient] = set()
        """Who listens, and has not been told of the newest generation."""
        self._recipients: dict[_Device, _Recipient] = {}
        self._nameless: set[str] = set()
        self._ready: deque[_Recipient] = deque()
        self._later: list[tuple[float, int, _Recipient]] = []
        self._flying: dict[int, tuple[_Recipient, _Generation]] = {}
        self._fresh: dict[int, float] = {}
        """Since when sends are under way, oldest first; slow ones are not here."""
        self._ids = 0
        self._window = _WINDOW
        self._silences = 0
        """How often in a row the homeserver gave no answer."""
        self._pause_until_s = -inf

    @property
    def index(self) -> int | None:
        """Which key we encrypt with; None before the first."""
        return None if self._in_use is None else self._in_use.index

    @property
    def installed(self) -> dict[tuple[Member, int], Key]:
        """Our keys that a connection has to know."""
        alive = (self._in_use, self._newest)
        return {(self._own, own.index): own.key for own in alive if own is not None}

    @property
    def next_timer_s(self) -> float:
        """When `timer` has something to do; infinity for never."""
        later_s = self._later[0][0] if self._later else inf
        send_s = self._pause_until_s if self._ready else inf
        if len(self._fresh) >= self._window:
            send_s = max(send_s, next(iter(self._fresh.values())) + _SLOW_S)
        return min(self._use_at_s, self._replace_at_s, later_s, send_s)

    def start(self, now: Now) -> None:
        """Make the first key and give it to all who are there. Nobody listens yet, so it is used at once."""
        first = self._newest = self._make(now, 0)
        self._use(now, first)
        for recipient in self._recipients.values():
            self._owe(recipient, first)
        self._pump(now)

    def set_members(self, now: Now, members: Iterable[Membership]) -> None:
        """Follow who is in the session."""
        wanted: dict[_Device, Membership] = {}
        nameless: set[str] = set()
        for membership in members:
            member = membership.member
            if member.device_id is None:
                nameless.add(str(member))
            elif (member.user_id, member.device_id) != (self._own.user_id, self._own.device_id):
                wanted[member.user_id, member.device_id] = membership
        self._report_nameless(nameless)
        left = [device for device in self._recipients if device not in wanted]
        for device in left:
            self._dismiss(self._recipients.pop(device))
        joined = []
        for device, membership in wanted.items():
            known = self._recipients.get(device)
            if known is None:
                joined.append(membership)
            elif _join_of(known.membership) != _join_of(membership):
                self._dismiss(known)
                self._admit(membership, known.since)
        newest = self._newest
        if newest is not None and (left or (joined and self._is_old(now, newest))):
            self._rotate(now)
        for membership in joined:
            self._admit(membership, 0 if self._newest is None else self._newest.number)
        self._settle_untold(now)
        self._pump(now)

    def sent(self, now: Now, id: int) -> None:
        """Learn that the homeserver took a key for a device."""
        self._silences, self._window = 0, _WINDOW
        recipient, generation = self._landed(id)
        if recipient is not None and generation is not None and not recipient.gone:
            self._counters["keys_sent"] += 1
            recipient.failures = 0
            self._tell(recipient, None)
            if generation in recipient.owed:
                recipient.owed.remove(generation)
            if generation is self._newest:
                self._untold.discard(recipient)
                self._settle_untold(now)
            self._schedule(recipient)
        self._pump(now)

    def failed(
        self,
        now: Now,
        id: int,
        *,
        cause: str,
        server: bool,
        untrusted: bool,
        retry_after_s: float | None,
    ) -> None:
        """Learn that a key could not be sent; it is tried again.

        :param server: whether the homeserver did not answer, or asked to wait: nothing about the device.
        :param untrusted: whether the device must not have it; it may be cross-signed later.
        """
        recipient, _ = self._landed(id)
        self._counters["key_sends_failed"] += 1
        if server:
            wait_s = _SERVER_RETRY_S[min(self._silences, len(_SERVER_RETRY_S) - 1)]
            self._silences, self._window = self._silences + 1, 1
            self._pause_until_s = now.s + max(wait_s, retry_after_s or 0.0)
        if recipient is not None and not recipient.gone:
            if server:
                self._ready.appendleft(recipient)
            else:
                wait_s = _DEVICE_RETRY_S[min(recipient.failures, len(_DEVICE_RETRY_S) - 1)]
                recipient.failures += 1
                self._tell(recipient, cause, _UNTRUSTED if untrusted else _UNDELIVERED)
                if untrusted:  # nobody waits for who must not hear
                    self._untold.discard(recipient)
                    self._settle_untold(now)
                self._ids += 1
                due_s = now.s + max(wait_s, retry_after_s or 0.0)
                heapq.heappush(self._later, (due_s, self._ids, recipient))
        self._pump(now)

    def timer(self, now: Now) -> None:
        """Do what is due."""
        while self._later and self._later[0][0] <= now.s:
            self._ready.append(heapq.heappop(self._later)[2])
        if self._newest is not None and self._use_at_s <= now.s:
            self._use(now, self._newest)
        if self._replace_at_s <= now.s:
            self._rotate(now)
        self._pump(now)

    # Generations.

    @property
    def _replace_at_s(self) -> float:
        """When our key is too old; one that is being replaced never is."""
        if self._newest is None or self._newest is not self._in_use:
            return inf
        return self._newest.made_s + self._config.rotate_every_s

    def _is_old(self, now: Now, newest: _Generation) -> bool:
        """Whether a key is not for those who join now; one that is not in use has nothing to hide."""
        return newest is self._in_use and now.s - newest.made_s >= self._config.grace_s

    def _make(self, now: Now, number: int) -> _Generation:
        key = Key(self._random_bytes(self._config.key_bytes))
        generation = _Generation(number, key, now.s)
        self._put(SetKey(member=self._own, index=generation.index, key=key))
        return generation

    def _rotate(self, now: Now) -> None:
        """Begin a new generation, unless one is on its way: then after that."""
        in_use = self._in_use
        if in_use is None or self._newest is not in_use:
            self._again = True
            return
        self._counters["keys_rotated"] += 1
        newest = self._newest = self._make(now, in_use.number + 1)
        everybody = self._recipients.values()
        self._untold = {r for r in everybody if r.since <= in_use.number}
        for recipient in everybody:
            self._owe(recipient, newest)
        if self._untold:
            self._use_at_s = now.s + self._config.use_delay_s
        else:
            self._use(now, newest)

    def _use(self, now: Now, newest: _Generation) -> None:
        """Use the newest generation, and forget the one before."""
        retired, self._in_use = self._in_use, newest
        self._use_at_s = inf
        self._untold.clear()
        self._put(UseKey(index=newest.index))
        for recipient in self._recipients.values():
            if retired in recipient.owed:
                recipient.owed.remove(retired)
        if self._again:
            self._again = False
            self._rotate(now)

    def _settle_untold(self, now: Now) -> None:
        if self._newest is not self._in_use and not self._untold:
            self._use_at_s = min(self._use_at_s, now.s + self._config.settle_s)

    # Recipients.

    def _admit(self, membership: Membership, since: int) -> None:
        """Owe a device every generation that it may have."""
        recipient = _Recipient(membership, since)
        member = membership.member
        self._recipients[member.user_id, member.device_id or ""] = recipient
        in_use, newest = self._in_use, self._newest
        if in_use is not None and newest is not None:
            for generation in dict.fromkeys((in_use, newest)):
                if generation.number >= since:
                    self._owe(recipient, generation)
            if newest is not in_use and since <= in_use.number:
                self._untold.add(recipient)

    def _dismiss(self, recipient: _Recipient) -> None:
        recipient.gone = True
        self._untold.discard(recipient)
        self._tell(recipient, None)

    def _owe(self, recipient: _Recipient, generation: _Generation) -> None:
        recipient.owed.append(generation)
        if not recipient.scheduled:
            self._schedule(recipient)

    def _schedule(self, recipient: _Recipient) -> None:
        recipient.scheduled = bool(recipient.owed)
        if recipient.scheduled:
            self._ready.append(recipient)

    def _pump(self, now: Now) -> None:
        """Send what may be sent now."""
        for id, since_s in list(self._fresh.items()):
            if now.s - since_s < _SLOW_S:
                break
            del self._fresh[id]
        while self._ready and len(self._fresh) < self._window and now.s >= self._pause_until_s:
            recipient = self._ready.popleft()
            if recipient.gone or not recipient.owed:
                recipient.scheduled = False
                continue
            generation = recipient.owed[0]
            self._ids += 1
            self._flying[self._ids] = recipient, generation
            self._fresh[self._ids] = now.s
            self._put(
                SendKey(
                    id=self._ids,
                    to=recipient.membership.member,
                    index=generation.index,
                    key=generation.key,
                    trusted=self._config.require_trusted,
                )
            )

    def _landed(self, id: int) -> tuple[_Recipient, _Generation] | tuple[None, None]:
        self._fresh.pop(id, None)
        return self._flying.pop(id, (None, None))

    # Conditions.

    def _tell(self, recipient: _Recipient, cause: str | None, code: str = "") -> None:
        subject = str(recipient.membership.member)
        if recipient.told and recipient.told != code:
            self._put(ClearCondition(code=recipient.told, subject=subject))
        if cause is not None:
            self._put(RaiseCondition(code=code, cause=cause, subject=subject))
        recipient.told = code

    def _report_nameless(self, nameless: set[str]) -> None:
        for subject in sorted(self._nameless - nameless):
            self._put(ClearCondition(code=_UNDELIVERED, subject=subject))
        for subject in sorted(nameless - self._nameless):
            cause = "its membership names no device"
            self._put(RaiseCondition(code=_UNDELIVERED, cause=cause, subject=subject))
        self._nameless = nameless


def _join_of(membership: Membership) -> tuple[Member, int]:
    return membership.member, membership.created_ts_ms
