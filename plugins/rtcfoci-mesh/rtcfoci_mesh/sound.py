"""Local sound as Opus packets: each track is encoded once, whatever the number of members.

In: pacing, silence where a source falls behind, the encoder. Out: who sends the packets (`outgoing`),
where sound comes from and its conversion (`rtcfoci.media`).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

import av

from rtcfoci.media.convert import AudioConverter
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame
from rtcfoci.media.tracks import FrameHub

__all__ = ["Listener", "Packet", "SoundFeeds"]

Packet: TypeAlias = "av.Packet[av.AudioStream]"
Listener: TypeAlias = Callable[[Packet], None]
"""Takes a packet, which others are given too: it is only read."""

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


class SoundFeeds:
    """A feed for every track that somebody listens to; used on the media loop alone.

    All feeds count time from one origin, so that the timestamps of a sender go on when its track does
    not, or is another one.
    """

    def __init__(self) -> None:
        self._feeds: dict[FrameHub, _Feed] = {}
        self._origin_s: float | None = None

    def listen(self, hub: FrameHub, listener: Listener) -> Callable[[], None]:
        """Have the packets of a track handed over from now on; give back a stop."""
        if self._origin_s is None:
            self._origin_s = asyncio.get_running_loop().time()
        feed = self._feeds.get(hub)
        if feed is None:
            feed = self._feeds[hub] = _Feed(hub, self._origin_s)
        feed.listeners = (*feed.listeners, listener)

        def stop() -> None:
            feed.listeners = tuple(held for held in feed.listeners if held is not listener)
            if not feed.listeners and self._feeds.get(hub) is feed:
                del self._feeds[hub]
                feed.close()

        return stop


class _Feed:
    """One packet every 20 ms while the source speaks; timestamps follow real time."""

    def __init__(self, hub: FrameHub, origin_s: float) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._origin_s = origin_s
        self._pcm: deque[bytes] = deque(maxlen=_QUEUE)
        self._converter = AudioConverter()
        self._encoder = _opus()
        self._wake = asyncio.Event()
        self._hungry = True
        self._stop = hub.consume(self._take)
        self._task = self._loop.create_task(self._run(), name="mesh sound")

    def close(self) -> None:
        self._stop()
        self._task.cancel()

    def _take(self, frame: Frame | None) -> None:
        """Keep a frame; on the thread of the source."""
        if not isinstance(frame, AudioFrame):
            return
        self._pcm.extend(part.pcm for part in self._converter.convert(frame))
        if self._hungry and self._pcm:
            self._hungry = False
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the media loop is gone, and so is the connection
                return

    async def _run(self) -> None:
        index, silent_s = -1, 0.0
        while True:
            if self._hungry:
                self._wake.clear()
                if self._hungry:
                    await self._wake.wait()
            now_s = self._loop.time()
            # At the start, and after a pause: timestamps go on measuring real time, and what piled up
            # until then goes, or everything after it would be late by as much.
            if index < 0 or now_s - self._due_s(index) > _LATE_S:
                index = math.ceil((now_s - self._origin_s) / _FRAME_S)
                while len(self._pcm) > _RESERVE:
                    self._pcm.popleft()
            await asyncio.sleep(max(0.0, self._due_s(index) - now_s))
            try:
                pcm, silent_s = self._pcm.popleft(), 0.0
            except IndexError:
                pcm, silent_s = _SILENCE, silent_s + _FRAME_S
                if silent_s > _SILENCE_S:
                    silent_s, self._hungry = 0.0, True
                    continue
            self._give(pcm, index * _SAMPLES)
            index += 1

    def _due_s(self, index: int) -> float:
        return self._origin_s + index * _FRAME_S

    def _give(self, pcm: bytes, pts: int) -> None:
        # Here and not on a thread: handing it over and back would cost more than encoding it does.
        frame = av.AudioFrame(format="s16", layout="mono", samples=_SAMPLES)
        frame.planes[0].update(pcm)
        frame.sample_rate, frame.time_base = SAMPLE_RATE, _TIME_BASE
        for packet in self._encoder.encode(frame):
            packet.pts, packet.time_base = pts, _TIME_BASE
            for listener in self.listeners:
                listener(packet)


def _opus() -> av.AudioCodecContext:
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.bit_rate = _BIT_RATE
    encoder.format, encoder.layout = av.AudioFormat("s16"), av.AudioLayout("mono")
    encoder.sample_rate, encoder.time_base = SAMPLE_RATE, _TIME_BASE
    return encoder
