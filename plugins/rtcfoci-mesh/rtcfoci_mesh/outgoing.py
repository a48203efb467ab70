"""Local tracks as aiortc sends them: one slot for each media section of each pair.

In: what waits to be sent, and timestamps of pictures. Out: sound and its pace (`sound`), encoding of
pictures and packets (aiortc), where frames come from (`rtcfoci.media`).

A slot lives as long as its connection and is fed by one track after another: an aiortc sender whose
track ends stops for good. While it has no track, or a muted one, it sends nothing. Every slot makes
its own pictures: one handed to two senders crashes the encoder (RGB pictures, aiortc#767).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from fractions import Fraction

import av
from aiortc import MediaStreamTrack

from rtcfoci.media.convert import to_av_video
from rtcfoci.media.frames import Frame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci_mesh.sound import Packet, SoundFeeds

__all__ = ["AudioSlot", "Slot", "VideoSlot", "slot_for"]

_PACKETS = 5
"""100 ms: what a connection may be behind before its oldest sound goes."""
_PICTURES = 2
_VIDEO_RATE = 90_000
_VIDEO_BASE = Fraction(1, _VIDEO_RATE)


class Slot(MediaStreamTrack):
    """What both kinds share: being fed and muted."""

    def __init__(self) -> None:
        super().__init__()
        self._wake = asyncio.Event()
        self._track: LocalTrack | None = None
        self._muted = False
        self._stop: Callable[[], None] | None = None

    @property
    def track_id(self) -> TrackId | None:
        """The track that feeds this slot."""
        return self._track.track_id if self._track else None

    def feed(self, track: LocalTrack | None, *, muted: bool = False) -> None:
        """Send this track from now on, or nothing."""
        self._track, self._muted = track, muted
        self._follow()

    def mute(self, muted: bool) -> None:
        """Send nothing while muted."""
        self._muted = muted
        self._follow()

    def _follow(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._clear()
        if self._track is not None and not self._muted:
            self._stop = self._listen(self._track.hub)

    @abstractmethod
    def _listen(self, hub: FrameHub) -> Callable[[], None]:
        """Begin to keep what comes; give back a stop."""

    @abstractmethod
    def _clear(self) -> None:
        """Forget what was kept."""


class AudioSlot(Slot):
    """A track's packets as they come."""

    kind = "audio"

    def __init__(self, feeds: SoundFeeds) -> None:
        super().__init__()
        self._feeds = feeds
        self._packets: deque[Packet] = deque(maxlen=_PACKETS)

    def _listen(self, hub: FrameHub) -> Callable[[], None]:
        return self._feeds.listen(hub, self._take)

    def _take(self, packet: Packet) -> None:
        self._packets.append(packet)
        self._wake.set()

    def _clear(self) -> None:
        self._packets.clear()

    async def recv(self) -> Packet:
        """Give the next packet when there is one."""
        while not self._packets:
            self._wake.clear()
            await self._wake.wait()
        return self._packets.popleft()


class VideoSlot(Slot):
    """Pictures as they come; the newest when the encoder falls behind."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._media_loop = asyncio.get_running_loop()
        self._frames: deque[VideoFrame] = deque(maxlen=_PICTURES)
        self._origin_ns: int | None = None
        self._pts = -1
        self.dropped: int = 0

    def _listen(self, hub: FrameHub) -> Callable[[], None]:
        return hub.consume(self._take)

    def _take(self, frame: Frame | None) -> None:
        """Keep a picture; on the thread of the source, which may be at it while we are muted."""
        if self._muted or not isinstance(frame, VideoFrame):
            return
        self.dropped += len(self._frames) == _PICTURES
        self._frames.append(frame)
        if not self._wake.is_set():
            try:
                self._media_loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the media loop is gone, and so is the connection
                return

    def _clear(self) -> None:
        self._frames.clear()

    async def recv(self) -> av.VideoFrame:
        """Give the next picture when there is one."""
        while self._muted or not self._frames:
            self._wake.clear()
            if self._muted or not self._frames:
                await self._wake.wait()
        frame = self._frames.popleft()
        if self._origin_ns is None:
            self._origin_ns = frame.timestamp_ns
        pts = (frame.timestamp_ns - self._origin_ns) * _VIDEO_RATE // 1_000_000_000
        self._pts = max(pts, self._pts + 1)
        picture = to_av_video(frame)
        picture.pts, picture.time_base = self._pts, _VIDEO_BASE
        return picture


def slot_for(kind: Kind, feeds: SoundFeeds) -> AudioSlot | VideoSlot:
    """Make the slot for a media section."""
    return AudioSlot(feeds) if kind is Kind.AUDIO else VideoSlot()
