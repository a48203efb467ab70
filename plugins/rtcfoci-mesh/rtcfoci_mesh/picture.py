"""Local pictures as VP8: each track is encoded once, at a rate that all its receivers can take.

In: when a picture is complete in itself (a keyframe), the encoder and its rate. Out: who listens
(`feeds`), what a receiver can take (`rate`), who sends (`outgoing`).

The rate is that of the slowest receiver, but never below `FLOOR_BPS`: whoever takes less gets fewer
pictures instead. aiortc's encoder begins anew, with a keyframe, at each change of its rate. So it falls
at once and rises only where a keyframe is due anyway.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from collections import deque
from fractions import Fraction

from aiortc.codecs.vpx import MAX_BITRATE, MIN_BITRATE, Vp8Encoder

from rtcfoci.media.convert import to_av_video
from rtcfoci.media.frames import Frame, VideoFrame
from rtcfoci.media.tracks import LocalTrack
from rtcfoci_mesh.feeds import Coded, Feed, Troubled

__all__ = ["CLOCK_HZ", "FLOOR_BPS", "MOST_BPS", "PictureFeed"]

FLOOR_BPS: int = MIN_BITRATE
"""The least that a track is encoded at: below it pictures are of no use at sizes people send."""
MOST_BPS: int = MAX_BITRATE
CLOCK_HZ = 90_000
KEY_EVERY_S = 4.0
"""At the latest a keyframe comes: what a receiver that gets fewer pictures waits for."""
KEY_GAP_S = 0.4
"""At the least between two keyframes, whoever asks for them."""
STILL_S = 0.2
"""How long a keyframe that was asked for waits for a new picture before the last one is sent again."""
_CHANGE = 0.15
"""A rate this much off is changed; aiortc takes none below a tenth."""
_QUEUE = 2
_BASE = Fraction(1, CLOCK_HZ)
_DESCRIPTOR = 4
"""Bytes that aiortc writes before the VP8 frame, the first bit of which tells a keyframe (0)."""


class PictureFeed(Feed):
    """One encoded picture for each of the source; the newest when encoding falls behind.

    Timestamps are those of the call clock, which all tracks share.
    """

    def __init__(
        self,
        track: LocalTrack,
        troubled: Troubled,
        executor: concurrent.futures.Executor | None = None,
    ) -> None:
        self._frames: deque[VideoFrame] = deque(maxlen=_QUEUE)
        self._executor = executor
        self._asked = True
        self._key_s = self._frame_s = -math.inf
        self.dropped: int = 0
        self.encoded: int = 0
        super().__init__(track, troubled)

    def refresh(self) -> None:
        """Give a keyframe: with the next picture, or with the last one again if none comes."""
        self._asked = True
        self._wake.set()

    def _take(self, frame: Frame | None) -> None:
        """Keep a picture; on the thread of the source."""
        if isinstance(frame, VideoFrame):
            self.dropped += len(self._frames) == _QUEUE
            self._frames.append(frame)
            if not self._wake.is_set():
                self._wake_up()

    async def _run(self) -> None:
        encoder, timestamp, frame = Vp8Encoder(), -1, None
        self._asked = True
        while True:
            frame, again = await self._next(frame)
            now_s = self.loop.time()
            wanted_bps = self._wanted_bps()
            off = wanted_bps / encoder.target_bitrate - 1
            due = now_s - self._key_s >= KEY_EVERY_S
            allowed = now_s - self._key_s >= KEY_GAP_S
            key = allowed and (self._asked or due or off < -_CHANGE)
            if key and abs(off) > _CHANGE:
                encoder.target_bitrate = wanted_bps
            self._asked = self._asked and not key
            picture_ns = frame.timestamp_ns + again * int(1e9 * (now_s - self._frame_s))
            timestamp = max(picture_ns * CLOCK_HZ // 1_000_000_000, timestamp + 1)
            # One at a time, so that the order holds; libvpx runs without the interpreter's lock.
            payloads = await self.loop.run_in_executor(
                self._executor, _encode, encoder, frame, timestamp, key
            )
            self.encoded += 1
            if payloads:
                key = not payloads[0][_DESCRIPTOR] & 1
                if key:
                    self._key_s = now_s
                self._give(Coded(tuple(payloads), timestamp, key))

    async def _next(self, last: VideoFrame | None) -> tuple[VideoFrame, bool]:
        """Wait for a picture; give the last one again when a keyframe is asked for and none comes."""
        while not self._frames:
            self._wake.clear()
            if self._frames:  # one came in between
                break
            wait_s = None
            if self._asked and last is not None:
                gap_s = self._key_s + KEY_GAP_S - self.loop.time()
                wait_s = max(STILL_S, gap_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                if last is not None and not self._frames:
                    return last, True
        self._frame_s = self.loop.time()
        return self._frames.popleft(), False

    def _wanted_bps(self) -> int:
        slowest = min((listener.rate_bps for listener in self.listeners), default=MOST_BPS)
        return int(max(FLOOR_BPS, min(slowest, MOST_BPS)))


def _encode(encoder: Vp8Encoder, frame: VideoFrame, timestamp: int, key: bool) -> list[bytes]:
    picture = to_av_video(frame)
    picture.pts, picture.time_base = timestamp, _BASE
    payloads, _ = encoder.encode(picture, force_keyframe=key)
    return payloads
