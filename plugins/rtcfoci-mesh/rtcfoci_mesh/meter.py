"""What a pair's connections counted, as figures of the last seconds and of the whole call.

In: differences over an interval, sums over connections that came and went. Out: where the counts come
from (the engine), when they are taken (`peer`).

Rates are taken over a window of its own, not between two questions: so every reader gets the same
figures, however many there are and however often they ask.
"""

from __future__ import annotations

from collections import deque

from rtcfoci.core.model import Member
from rtcfoci.plugin import PairStats
from rtcfoci_mesh.engine import SessionStats, Totals

__all__ = ["WINDOW_S", "Meter"]

WINDOW_S = 4.0
"""Long enough for several reports of the other side, which come about once a second."""


class Meter:
    """Takes counts as they come and gives figures."""

    def __init__(self) -> None:
        self._past = Totals()
        """Of connections that are over."""
        self._newest = SessionStats()
        self._window: deque[tuple[float, Totals]] = deque()
        self._opened_s: float | None = None
        self._connect_time_s: float | None = None
        self._frames = self._concealed = 0

    def opened(self, now_s: float) -> None:
        """A connection begins."""
        self._opened_s, self._connect_time_s = now_s, None

    def ended(self) -> None:
        """The connection is over: what it counted stays, what it measured is no longer so."""
        self._past += self._newest.totals
        self._newest = SessionStats()
        self._window.clear()

    def frame(self, *, concealed: bool) -> None:
        """A frame came, or was made up."""
        self._frames += 1
        self._concealed += concealed

    def connected(self, now_s: float) -> None:
        """Media can flow."""
        if self._opened_s is not None:
            self._connect_time_s = now_s - self._opened_s

    def take(self, stats: SessionStats, now_s: float) -> None:
        """Take what the connection counted so far."""
        self._newest = stats
        self._window.append((now_s, stats.totals))
        # The oldest stays until the next one is as old as the window: so it is spanned, never less.
        while len(self._window) > 2 and self._window[1][0] <= now_s - WINDOW_S:
            self._window.popleft()

    def figures(
        self,
        member: Member,
        *,
        state: str,
        rebuilt: int,
        rtt_ms: float | None,
        extras: dict[str, float | str],
    ) -> PairStats:
        """Give the figures.

        :param rtt_ms: our own measurement, which is preferred to the engine's.
        """
        newest, all_ = self._newest, self._past + self._newest.totals
        change, span_s = Totals(), 0.0
        if self._window:
            (begin_s, begin), (end_s, end) = self._window[0], self._window[-1]
            change, span_s = end - begin, end_s - begin_s
        return PairStats(
            member=member,
            state=state,
            connect_time_s=self._connect_time_s,
            rebuilt=rebuilt,
            rtt_ms=newest.rtt_ms if rtt_ms is None else rtt_ms,
            jitter_ms=newest.jitter_ms,
            loss_received_ratio=_ratio(
                change.packets_received_lost, change.packets_received + change.packets_received_lost
            ),
            loss_sent_ratio=_ratio(change.packets_sent_lost, change.packets_sent),
            bitrate_received_bps=8 * change.bytes_received / span_s if span_s else None,
            bitrate_sent_bps=8 * change.bytes_sent / span_s if span_s else None,
            bytes_received=all_.bytes_received,
            bytes_sent=all_.bytes_sent,
            packets_received=all_.packets_received,
            packets_sent=all_.packets_sent,
            packets_received_lost=all_.packets_received_lost,
            packets_sent_lost=all_.packets_sent_lost,
            frames_received=self._frames,
            frames_concealed=self._concealed,
            path=newest.path,
            audio_codec=newest.audio_codec,
            video_codec=newest.video_codec,
            extras=extras,
        )


def _ratio(lost: int, of: int) -> float | None:
    """A late packet is first counted as lost and then not: the difference can fall below zero."""
    return min(1.0, max(0.0, lost / of)) if of > 0 else None
