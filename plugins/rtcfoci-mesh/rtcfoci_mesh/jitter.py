"""The order of one stream of sound: what came, and what will not come any more.

In: reordering, doubles, holes and how long they are kept open. Out: sockets and clocks (time is an
input), decoding and what fills a hole (`hearing`).

A packet in order is given out at once. A hole is one in the numbers, not in time: a member that pauses
or is muted sends no packets, and leaves none. It is kept open for a short while, since a packet may have
been overtaken; sound is never sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MOST_HELD", "JitterBuffer", "Lost", "Packet", "nearest"]

MOST_HELD = 16
"""Packets kept behind a hole; one more, and it is given up."""
_MISORDER = 100
"""A packet later than this many others begins a new stream: its sender started anew."""
_LEAST_HOLD_S = 0.04
_MOST_HOLD_S = 0.12
_MOST_TRANSIT_CHANGE_S = 0.5
"""Beyond it the timestamps jumped, which says nothing of the network."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of sound."""

    number: int
    """16 bits, as it came."""
    timestamp: int
    """In units of the codec's clock, 32 bits."""
    payload: bytes = field(repr=False)
    arrival_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """A hole that was given up."""

    count: int
    following: Packet
    """What came after it, which may hold a copy of the last that is missing."""


class JitterBuffer:
    """Packets of one stream, in order. :param rate_hz: the codec's clock."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._next: int | None = None
        self._held: dict[int, Packet] = {}
        """By number, counted on beyond 16 bits."""
        self._last: Packet | None = None
        self._jitter_s = 0.0

    @property
    def hold_s(self) -> float:
        """How long a hole is kept open: as far as packets are apart from their time by now."""
        return min(max(0.02 + 3 * self._jitter_s, _LEAST_HOLD_S), _MOST_HOLD_S)

    @property
    def due_s(self) -> float | None:
        """When to call `expire`; None while nothing waits."""
        if not self._held:
            return None
        return min(packet.arrival_s for packet in self._held.values()) + self.hold_s

    def put(self, packet: Packet) -> list[Packet | Lost]:
        """Take a packet and give what is in order now."""
        self._measure(packet)
        if self._next is None:
            self._next = packet.number
        number = nearest(packet.number, self._next)
        if number < self._next - _MISORDER:
            self._held.clear()
            self._next = number = packet.number
        if number < self._next or number in self._held:
            return []  # too late, or a double
        self._held[number] = packet
        return self.expire(packet.arrival_s)

    def expire(self, now_s: float) -> list[Packet | Lost]:
        """Give up holes that were open long enough, and give what is in order now."""
        given: list[Packet | Lost] = []
        while self._held and self._next is not None:
            packet = self._held.pop(self._next, None)
            if packet is not None:
                self._next += 1
                given.append(packet)
                continue
            if len(self._held) <= MOST_HELD and (self.due_s or 0.0) > now_s:
                break
            first = min(self._held)
            given.append(Lost(first - self._next, self._held[first]))
            self._next = first
        return given

    def _measure(self, packet: Packet) -> None:
        """Follow the variation of transit times (RFC 3550, 6.4.1), of late packets as well."""
        before, self._last = self._last, packet
        if before is not None:
            step = nearest(packet.timestamp, before.timestamp, bits=32) - before.timestamp
            change_s = abs(packet.arrival_s - before.arrival_s - step / self._rate_hz)
            if change_s < _MOST_TRANSIT_CHANGE_S:
                self._jitter_s += (change_s - self._jitter_s) / 16


def nearest(value: int, to: int, *, bits: int = 16) -> int:
    """Give the number that has these lowest bits and is nearest to another."""
    half = 1 << (bits - 1)
    return to + ((value - to + half) & ((1 << bits) - 1)) - half
