"""Packets of one stream of video into pictures, beginning at a key picture, without a hole.

In: order, what to ask for again and when, when a hole is final. Out: sockets and clocks (time is an
input), what a packet holds and decoding (`seeing`), how packets and a new key picture are asked for
(`receiving`).

A picture refers to the ones before it: after a hole that stays, nothing can be shown until a key picture
comes. So packets that are missing are asked for several times. When that takes longer than it should, a
key picture is asked for as well, again and again, and whichever is there first ends the hole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcfoci_mesh.jitter import nearest

__all__ = ["MOST_PARTS", "Assembly", "Part", "Picture", "Requests"]

MOST_PARTS = 1024
"""Packets kept: about a megabyte, and more than the largest picture has."""
_LEAP = 256
"""So many packets missing at once are not worth asking for."""
_OVERDUE_S = 0.3
"""So long a missing packet is waited for before a key picture is asked for."""
_GIVE_UP_S = 1.0
_KEY_EVERY_S = 0.2
_LEAST_RETRY_S, _FIRST_RETRY_S, _MOST_RETRY_S = 0.04, 0.12, 0.2
_MOST_ASKED = 64
"""Packets asked for in one request."""


@dataclass(frozen=True, slots=True)
class Part:
    """One packet."""

    number: int
    """16 bits, as it came."""
    timestamp: int
    last: bool
    """Whether it is the last of its picture."""
    key: bool
    """Whether it is the first of a key picture."""
    payload: bytes = field(repr=False)
    arrival_ns: int


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture."""

    data: bytes = field(repr=False)
    timestamp: int
    key: bool
    arrival_ns: int
    """Of its last packet."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What to ask the sender for."""

    numbers: tuple[int, ...]
    """Packets to send again."""
    key: bool
    """A new key picture."""


@dataclass(slots=True)
class _Missing:
    since_s: float
    asked_s: float | None = None
    asked: int = 0


class Assembly:
    """One stream of pictures."""

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}
        """By number, counted on beyond 16 bits."""
        self._missing: dict[int, _Missing] = {}
        self._highest: int | None = None
        self._start: int | None = None
        """The first packet of the picture at hand; None until a key picture begins."""
        self._end = 0
        """The first packet after those that are there without a hole."""
        self._after = 0
        """A key picture must begin here or later."""
        self._key_asked_s: float | None = None
        self._retry_s = _FIRST_RETRY_S

    def put(self, part: Part, now_s: float) -> list[Picture]:
        """Take a packet and give the pictures that are complete now."""
        if self._highest is None:
            self._highest = part.number - 1
            self._after = self._end = part.number
        number = nearest(part.number, self._highest)
        if abs(number - self._highest) > _LEAP or len(self._missing) > _LEAP:
            # A leap, or many; or a sender that started anew: nothing that is here fits to it.
            self._parts.clear()
            self._missing.clear()
            self._start, self._after, self._end = None, number, number
            self._highest = number - 1
        self._note(number, now_s)
        if number in self._parts or number < (self._after if self._start is None else self._start):
            return []
        self._parts[number] = part
        if len(self._parts) > MOST_PARTS or (part.key and self._overdue(now_s)):
            self.lose()
        return self._complete()

    def lose(self) -> None:
        """Take nothing until the next key picture begins."""
        if self._start is not None:
            self._start, self._after = None, self._end
        keys = [n for n, part in self._parts.items() if part.key and n >= self._after]
        self._after = min(keys, default=self._after)
        if len(self._parts) > MOST_PARTS:  # a picture that never ends
            self._after = (self._highest or 0) + 1
        self._parts = {n: part for n, part in self._parts.items() if n >= self._after}
        self._missing = {n: m for n, m in self._missing.items() if n >= self._after}

    def requests(self, now_s: float) -> Requests:
        """Say what to ask for now; to be sent at once."""
        overdue = self._overdue(now_s)
        stale = [n for n in overdue if now_s - self._missing[n].since_s > _GIVE_UP_S]
        if stale or (overdue and self._has_key()):
            for number in stale:
                del self._missing[number]
            self._end = max([self._end, *(n + 1 for n in stale)])
            self.lose()
        numbers: list[int] = []
        for number, missing in self._missing.items():
            asked_s = missing.asked_s
            if len(numbers) < _MOST_ASKED and (asked_s is None or now_s - asked_s >= self._retry_s):
                missing.asked_s = now_s
                missing.asked += 1
                numbers.append(number & 0xFFFF)
        asked_s = self._key_asked_s
        key = (
            (self._start is None or bool(overdue))
            and (asked_s is None or now_s - asked_s >= _KEY_EVERY_S)
            and not self._has_key()
        )
        if key:
            self._key_asked_s = now_s
        return Requests(tuple(numbers), key)

    def _overdue(self, now_s: float) -> list[int]:
        return [n for n, m in self._missing.items() if now_s - m.since_s > _OVERDUE_S]

    def _has_key(self) -> bool:
        """Whether a key picture begins behind the hole."""
        return any(part.key and number >= self._end for number, part in self._parts.items())

    def _note(self, number: int, now_s: float) -> None:
        """Keep account of what is missing, and of how long it takes to come when it is asked for."""
        found = self._missing.pop(number, None)
        if found is not None and found.asked_s is not None:
            # Asked once, it took as long as the way there and back; asked again, at least as long.
            took_s = now_s - (found.since_s if found.asked == 1 else found.asked_s)
            retry_s = min(max(1.1 * took_s + 0.005, _LEAST_RETRY_S), _MOST_RETRY_S)
            self._retry_s += (retry_s - self._retry_s) / 4
        if self._highest is not None and number > self._highest:
            for lost in range(self._highest + 1, number):
                self._missing[lost] = _Missing(now_s)
            self._highest = number

    def _complete(self) -> list[Picture]:
        if self._start is None:
            keys = [n for n, part in self._parts.items() if part.key]
            if not keys:
                return []
            self._start = self._end = first = min(keys)
            self._key_asked_s = None
            self._parts = {n: part for n, part in self._parts.items() if n >= first}
            self._missing = {n: m for n, m in self._missing.items() if n >= first}
        pictures = []
        while (part := self._parts.get(self._end)) is not None:
            if part.timestamp != self._parts[self._start].timestamp:
                pictures.append(self._cut())  # whose last packet did not say so
            self._end += 1
            if part.last:
                pictures.append(self._cut())
        return pictures

    def _cut(self) -> Picture:
        assert self._start is not None
        parts = [self._parts.pop(number) for number in range(self._start, self._end)]
        self._start = self._end
        return Picture(
            b"".join(part.payload for part in parts),
            parts[0].timestamp,
            parts[0].key,
            max(part.arrival_ns for part in parts),
        )
