"""What a media section's way in shares, whatever it carries.

In: what an intake is, RTP time to the call clock. Out: sound (`hearing`), pictures (`seeing`), where packets
come from and what is asked of the sender (`receiving`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rtcfoci_mesh.assembly import Requests
from rtcfoci_mesh.jitter import nearest

if TYPE_CHECKING:
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters
    from aiortc.rtp import RtpPacket

__all__ = ["NS", "CallClock", "Intake", "MediaTime"]

NS = 1_000_000_000
_JUMP_NS = 500_000_000
_CREEP = 1e-4
"""How much faster than ours the sender's clock may be: 100 ppm, twice what crystals do."""


class Intake(Protocol):
    """One media section's way in; everything on the media loop.

    While nobody reads a track its packets are noticed and dropped: neither kept nor taken apart.
    """

    def take(self, packet: RtpPacket, codec: RTCRtpCodecParameters) -> Requests | None:
        """Take a packet, and say what to ask the sender for."""

    def close(self) -> None:
        """Take nothing any more."""


class CallClock:
    """Maps the media time of one track to the call clock.

    The earliest arrival is the truest: a frame can be late, never early. So the mapping follows early
    frames at once, late ones only as fast as two clocks drift apart, and starts anew after a jump.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        self._last_ns = 0
        self._given_ns = 0

    def map(self, media_ns: int, arrival_ns: int) -> int:
        """Give the time of a frame with that media time that came at `arrival_ns`."""
        offset_ns = arrival_ns - media_ns
        held_ns = self._offset_ns
        if held_ns is not None and abs(offset_ns - held_ns) < _JUMP_NS:
            held_ns += int(max(0, arrival_ns - self._last_ns) * _CREEP)
            offset_ns = min(offset_ns, held_ns)
        self._offset_ns, self._last_ns = offset_ns, arrival_ns
        return self.at(media_ns)

    def at(self, media_ns: int) -> int:
        """Give the time of a frame that never came."""
        self._given_ns = max(media_ns + (self._offset_ns or 0), self._given_ns + 1)
        return self._given_ns  # never backwards


class MediaTime:
    """Timestamps of 32 bits as nanoseconds that go on. :param rate_hz: the codec's clock."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._last: int | None = None

    def ns(self, timestamp: int) -> int:
        """Give a timestamp's media time."""
        last = self._last
        self._last = timestamp if last is None else nearest(timestamp, last, bits=32)
        return self._last * NS // self._rate_hz
