"""Local sound as Opus packets: each track is encoded once, whatever the number of members.

In: pacing, silence where a source falls behind, the encoder. Out: who listens (`feeds`), who sends
(`outgoing`), where sound comes from and its conversion (`rtcfoci.media`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from fractions import Fraction

import av

from rtcfoci.media.convert import AudioConverter
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame
from rtcfoci.media.tracks import LocalTrack
from rtcfoci_mesh.feeds import Coded, Feed, Troubled

__all__ = ["SoundFeed"]

_FRAME_S = FRAME_MS / 1000
_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000
_SILENCE = bytes(2 * _SAMPLES)
_TIME_BASE = Fraction(1, SAMPLE_RATE)
_QUEUE = 5
"""Frames, 100 ms: what a source may be ahead before its oldest sound goes."""
_RESERVE = 2
"""Frames of that with which sending begins: one to send and one against jitter."""
_SILENCE_S = 1.0
"""How long silence is sent for a source that falls behind, before nothing is sent."""
_LATE_S = 0.2
_BIT_RATE = 64_000
"""Of one channel: good for music; the rate varies, and speech takes less."""


class SoundFeed(Feed):
    """One packet every 20 ms while the source speaks; timestamps follow real time.

    They count from the origin of the loop's clock, so that the timestamps of a sender go on when its
    track does not, or is another one.
    """

    def __init__(self, track: LocalTrack, troubled: Troubled) -> None:
        self._pcm: deque[bytes] = deque(maxlen=_QUEUE)
        self._converter = AudioConverter()
        self._hungry = True
        super().__init__(track, troubled)

    def refresh(self) -> None:
        """Nothing to do: every packet can be understood by itself."""

    def _take(self, frame: Frame | None) -> None:
        """Keep a frame; on the thread of the source."""
        if not isinstance(frame, AudioFrame):
            return
        self._pcm.extend(part.pcm for part in self._converter.convert(frame))
        if self._hungry and self._pcm:
            self._hungry = False
            self._wake_up()

    async def _run(self) -> None:
        encoder = _opus()
        index, silent_s = -1, 0.0
        while True:
            if self._hungry:
                self._wake.clear()
                if self._hungry:
                    await self._wake.wait()
            now_s = self.loop.time()
            # At the start, and after a pause: timestamps go on measuring real time, and what piled up
            # until then goes, or everything after it would be late by as much.
            if index < 0 or now_s - index * _FRAME_S > _LATE_S:
                index = math.ceil(now_s / _FRAME_S)
                while len(self._pcm) > _RESERVE:
                    self._pcm.popleft()
            await asyncio.sleep(max(0.0, index * _FRAME_S - now_s))
            try:
                pcm, silent_s = self._pcm.popleft(), 0.0
            except IndexError:
                pcm, silent_s = _SILENCE, silent_s + _FRAME_S
                if silent_s > _SILENCE_S:
                    silent_s, self._hungry = 0.0, True
                    continue
            # Here and not on a thread: handing it over and back would cost more than encoding it does.
            for packet in encoder.encode(_av_frame(pcm)):
                self._give(Coded((bytes(packet),), index * _SAMPLES, key=True))
            index += 1


def _av_frame(pcm: bytes) -> av.AudioFrame:
    frame = av.AudioFrame(format="s16", layout="mono", samples=_SAMPLES)
    frame.planes[0].update(pcm)
    frame.sample_rate, frame.time_base = SAMPLE_RATE, _TIME_BASE
    return frame


def _opus() -> av.AudioCodecContext:
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.bit_rate = _BIT_RATE
    encoder.format, encoder.layout = av.AudioFormat("s16"), av.AudioLayout("mono")
    encoder.sample_rate, encoder.time_base = SAMPLE_RATE, _TIME_BASE
    return encoder
