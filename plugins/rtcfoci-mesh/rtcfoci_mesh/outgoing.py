"""Local tracks as aiortc sends them: one slot for each media section of each pair.

In: pacing, silence where a source falls behind.
Out: encoding and packets (aiortc), where frames come from and their conversion (`rtcfoci.media`).

A slot lives as long as its connection and is fed by one track after another: an aiortc sender whose
track ends stops for good. While it has no track, or a muted one, it sends nothing. Every slot makes
its own frames: one frame handed to two senders crashes the encoder (RGB pictures, aiortc#767).
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from fractions import Fraction

import av
from aiortc import MediaStreamTrack

from rtcfoci.media.convert import AudioConverter, to_av_video
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.tracks import LocalTrack, TrackId

__all__ = ["AudioSlot", "Slot", "VideoSlot", "slot_for"]

_FRAME_S = FRAME_MS / 1000
_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000
_FRAME_BYTES = 2 * _SAMPLES
_AUDIO_QUEUE = 5
"""Frames, 100 ms: what a source may be ahead before its oldest sound goes."""
_RESERVE = 2
"""Frames of that with which sending begins: one to send and one against jitter."""
_SILENCE_S = 1.0
"""How long silence is sent for a source that falls behind, before nothing is sent."""
_LATE_S = 0.2
_AUDIO_BASE = Fraction(1, SAMPLE_RATE)
_VIDEO_RATE = 90_000
_VIDEO_BASE = Fraction(1, _VIDEO_RATE)


class Slot(MediaStreamTrack):
    """What both kinds share: being fed, muted, and woken from the thread of the source."""

    def __init__(self) -> None:
        super().__init__()
        self._media_loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._track: LocalTrack | None = None
        self._stop: Callable[[], None] | None = None
        self._muted = False

    @property
    def track_id(self) -> TrackId | None:
        """The track that feeds this slot."""
        return self._track.track_id if self._track else None

    def feed(self, track: LocalTrack | None, *, muted: bool = False) -> None:
        """Send this track from now on, or nothing."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._clear()
        self._track, self._muted = track, muted
        if track is not None:
            self._stop = track.hub.consume(self._take)

    def mute(self, muted: bool) -> None:
        """Send nothing while muted."""
        self._muted = muted
        self._clear()

    @abstractmethod
    def _take(self, frame: Frame | None) -> None:
        """Keep a frame; on the thread of the source."""

    @abstractmethod
    def _clear(self) -> None:
        """Forget the frames that were kept."""

    def _notify(self) -> None:
        try:
            self._media_loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the media loop is gone, and so is the connection
            return


class AudioSlot(Slot):
    """One 20 ms frame every 20 ms while the source speaks; timestamps follow real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._pcm: deque[bytes] = deque(maxlen=_AUDIO_QUEUE)
        self._converter = AudioConverter()
        self._hungry = True
        self._origin_s: float | None = None
        self._index = 0
        self._silent_s = 0.0
        self.dropped: int = 0

    def _take(self, frame: Frame | None) -> None:
        if self._muted or not isinstance(frame, AudioFrame):
            return
        for part in self._converter.convert(frame):
            self.dropped += len(self._pcm) == _AUDIO_QUEUE
            self._pcm.append(part.pcm)
        if self._hungry and self._pcm:
            self._hungry = False
            self._notify()

    def _clear(self) -> None:
        self._pcm.clear()
        self._converter = AudioConverter()  # the old one may be at work on the source's thread
        self._hungry = True

    async def recv(self) -> av.AudioFrame:
        """Give the next frame when it is due."""
        while True:
            if self._hungry:
                self._wake.clear()
                if self._hungry:
                    await self._wake.wait()
                continue
            await self._pace()
            if self._hungry:  # muted, or fed by another track, in the meantime
                continue
            try:
                pcm, self._silent_s = self._pcm.popleft(), 0.0
            except IndexError:
                self._silent_s += _FRAME_S
                if self._silent_s > _SILENCE_S:
                    self._silent_s, self._hungry = 0.0, True
                    continue
                pcm = bytes(_FRAME_BYTES)
            frame = av.AudioFrame(format="s16", layout="mono", samples=_SAMPLES)
            frame.planes[0].update(pcm)
            frame.sample_rate, frame.time_base = SAMPLE_RATE, _AUDIO_BASE
            frame.pts = self._index * _SAMPLES
            self._index += 1
            return frame

    async def _pace(self) -> None:
        now_s = self._media_loop.time()
        if self._origin_s is None:
            self._origin_s = now_s
        due_s = self._origin_s + self._index * _FRAME_S
        # At the start, and after a pause: timestamps go on measuring real time, and what piled up
        # until then goes, or everything after it would be late by as much.
        if self._index == 0 or now_s - due_s > _LATE_S:
            self._index = math.ceil((now_s - self._origin_s) / _FRAME_S)
            due_s = self._origin_s + self._index * _FRAME_S
            while len(self._pcm) > _RESERVE:
                self._pcm.popleft()
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)


class VideoSlot(Slot):
    """Frames as they come; the newest when the encoder falls behind."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._frames: deque[VideoFrame] = deque(maxlen=2)
        self._origin_ns: int | None = None
        self._pts = -1
        self.dropped: int = 0

    def _take(self, frame: Frame | None) -> None:
        if self._muted or not isinstance(frame, VideoFrame):
            return
        self.dropped += len(self._frames) == self._frames.maxlen
        self._frames.append(frame)
        if not self._wake.is_set():
            self._notify()

    def _clear(self) -> None:
        self._frames.clear()

    async def recv(self) -> av.VideoFrame:
        """Give the next frame when there is one."""
        while not self._frames:
            self._wake.clear()
            if not self._frames:
                await self._wake.wait()
        frame = self._frames.popleft()
        if self._origin_ns is None:
            self._origin_ns = frame.timestamp_ns
        pts = (frame.timestamp_ns - self._origin_ns) * _VIDEO_RATE // 1_000_000_000
        self._pts = max(pts, self._pts + 1)
        picture = to_av_video(frame)
        picture.pts, picture.time_base = self._pts, _VIDEO_BASE
        return picture


def slot_for(kind: Kind) -> AudioSlot | VideoSlot:
    """Make the slot for a media section."""
    return AudioSlot() if kind is Kind.AUDIO else VideoSlot()
