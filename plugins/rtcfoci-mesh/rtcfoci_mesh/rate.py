"""What one receiver can take, and how its pictures are thinned when that is too little.

In: the receiver's own estimate (REMB), the losses it reports, a budget of bytes. Out: encoding for all
receivers (`picture`), packets (`outgoing`).

aiortc's estimate follows delays and not losses, so a limit that follows losses goes beside it: above a
tenth it falls, below a fiftieth it rises. Losses alone take nobody below the floor unless a quarter is
lost: a radio link that loses at random gains nothing by fewer pictures.

An estimate falls by a seventh at every moment that looks like congestion, and a busy machine has such
moments. So pictures are left out only once it is well below the floor, where true congestion ends soon.
"""

from __future__ import annotations

from rtcfoci_mesh.feeds import Coded
from rtcfoci_mesh.picture import FLOOR_BPS, MOST_BPS

__all__ = ["Rate", "Thinner"]

_START_BPS = 500_000.0
"""Before the receiver said anything."""
_LEAST_BPS = 50_000.0
_THIN_BPS = 150_000.0
"""Below it pictures are left out."""
_MANY_LOST, _FEW_LOST, _MOST_LOST = 0.10, 0.02, 0.25
_RISE = 1.08
"""For each report, about one a second."""
_BURST_S = 1.0


class Rate:
    """The rate that one receiver's path takes, in bits a second."""

    def __init__(self) -> None:
        self._estimated_bps = _START_BPS
        self._lossless_bps: float = MOST_BPS

    @property
    def bps(self) -> float:
        """The lower of what it estimates and what its losses allow."""
        return min(self._estimated_bps, self._lossless_bps)

    def estimated(self, bps: float) -> None:
        """Take its own estimate."""
        self._estimated_bps = max(_LEAST_BPS, bps)

    def lost(self, fraction: float) -> None:
        """Take the part of our packets that did not arrive since its last report."""
        if fraction > _MANY_LOST:
            least_bps = _LEAST_BPS if fraction > _MOST_LOST else FLOOR_BPS
            held_bps = min(self._lossless_bps, max(self._estimated_bps, least_bps), MOST_BPS)
            fallen_bps = held_bps * (1 - fraction / 2)
            self._lossless_bps = min(self._lossless_bps, max(least_bps, fallen_bps))
        elif fraction < _FEW_LOST:
            self._lossless_bps = min(MOST_BPS, self._lossless_bps * _RISE)


class Thinner:
    """Leaves out pictures for a receiver that takes far less than the floor, up to the next keyframe.

    A picture that was left out is needed by all that follow it. So whatever does not fit any more goes
    until one comes that is complete in itself.
    """

    def __init__(self) -> None:
        self.left_out: int = 0
        self._left_bytes = 0.0
        self._last_s: float | None = None
        self._waiting = True

    def passes(self, coded: Coded, rate_bps: float, now_s: float) -> bool:
        """Whether to send this one."""
        if self._waiting and not coded.key:
            return False
        if rate_bps >= _THIN_BPS:
            self._waiting, self._last_s = False, None
            return True
        if self._last_s is None:
            self._left_bytes = rate_bps / 8 * _BURST_S
        else:
            gained_bytes = (now_s - self._last_s) * rate_bps / 8
            self._left_bytes = min(rate_bps / 8 * _BURST_S, self._left_bytes + gained_bytes)
        self._last_s = now_s
        self._waiting = self._left_bytes <= 0
        if self._waiting:
            self.left_out += 1
            return False
        self._left_bytes -= sum(map(len, coded.payloads))
        return True

    def begin(self) -> None:
        """Begin anew, with a picture that is complete in itself."""
        self._waiting = True
