"""What aiortc decoded, as the frames of the house.

In: PyAV frames to PCM and I420 bytes, RTP time to the call clock. Out: decoding (aiortc; it cannot be
switched off, so an unwanted track costs its decoding but nothing here).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import cast

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from rtcfoci.media.convert import AudioConverter, from_av_video
from rtcfoci.media.frames import SAMPLE_RATE, AudioFrame, Kind, VideoFrame
from rtcfoci_mesh.engine import SessionEvents

__all__ = ["CallClock", "audio_frame", "media_ns", "read_track", "video_frame"]

_AUDIO_DELAY_NS = 80_000_000
"""aiortc's jitter buffer gives a packet out when four later ones have come (20 ms each)."""
_MAX_SPACING_NS = 250_000_000
_JUMP_NS = 500_000_000
_MOST_PIXELS = 4096 * 2304
"""A member chooses the size of its pictures, and readers keep dozens of them."""
_CREEP = 1e-4
"""How much faster than ours the sender's clock may be: 100 ppm, twice what crystals do."""


class CallClock:
    """Maps the media time of one track to the call clock.

    The earliest arrival is the truest: a frame can be late, never early. So the mapping follows early
    frames at once, late ones only as fast as two clocks drift apart, and starts anew after a jump.
    aiortc gives a picture out when the next one comes, so it is late by their spacing.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._delay_ns = _AUDIO_DELAY_NS if kind is Kind.AUDIO else 0
        self._media_ns: int | None = None
        self._offset_ns: int | None = None
        self._last_ns = 0
        self._given_ns = 0

    def map(self, media_ns: int, arrival_ns: int) -> int:
        """Give the time of a frame with that media time that came at `arrival_ns`."""
        if self._kind is Kind.VIDEO and self._media_ns is not None:
            spacing_ns = media_ns - self._media_ns
            if 0 < spacing_ns <= (self._delay_ns or _MAX_SPACING_NS):
                self._delay_ns = spacing_ns  # the least there was: never more than it waited
        self._media_ns = media_ns
        offset_ns = arrival_ns - self._delay_ns - media_ns
        held_ns = self._offset_ns
        if held_ns is not None and abs(offset_ns - held_ns) < _JUMP_NS:
            held_ns += int((arrival_ns - self._last_ns) * _CREEP)
            offset_ns = min(offset_ns, held_ns)
        self._offset_ns, self._last_ns = offset_ns, arrival_ns
        self._given_ns = max(media_ns + offset_ns, self._given_ns + 1)  # never backwards
        return self._given_ns


async def read_track(
    track: MediaStreamTrack, mid: str, events_of: Callable[[], SessionEvents | None]
) -> None:
    """Hand every frame of a track to the hub that the events name, until either ends."""
    kind = Kind.AUDIO if track.kind == "audio" else Kind.VIDEO
    clock, sound = CallClock(kind), AudioConverter()
    with contextlib.suppress(MediaStreamError):
        while (events := events_of()) is not None:
            frame = await track.recv()
            arrival_ns = time.monotonic_ns()
            events.received(mid)
            hub = events.sink(mid, kind)
            timestamp_ns = clock.map(media_ns(cast("av.AudioFrame", frame)), arrival_ns)
            if hub is None or not hub.wanted:
                continue
            if kind is Kind.AUDIO:
                # Opus passes as it is; the member may have chosen a codec of another rate.
                for part in sound.convert(audio_frame(cast("av.AudioFrame", frame), timestamp_ns)):
                    hub.push(part)
            else:
                picture = video_frame(cast("av.VideoFrame", frame), timestamp_ns)
                if picture is not None:
                    hub.push(picture)


def media_ns(frame: av.AudioFrame | av.VideoFrame) -> int:
    """Give a decoded frame's media time in nanoseconds."""
    if frame.time_base is None or frame.pts is None:
        return 0
    return int(frame.pts * frame.time_base * 1_000_000_000)


def audio_frame(frame: av.AudioFrame, timestamp_ns: int) -> AudioFrame:
    """Give mono, s16, at the rate of the codec; aiortc's Opus decoder gives 48 kHz stereo."""
    channels = len(frame.layout.channels)
    samples = np.frombuffer(memoryview(frame.planes[0]), dtype="<i2")[: frame.samples * channels]
    if channels > 1:
        # By channels and not by samples, which would take numpy twenty times as long.
        mixed = samples[::channels].astype(np.int32)
        for channel in range(1, channels):
            mixed += samples[channel::channels]
        samples = (mixed >> 1 if channels == 2 else mixed // channels).astype("<i2")
    return AudioFrame(
        pcm=samples.tobytes(),
        timestamp_ns=timestamp_ns,
        sample_rate=frame.sample_rate or SAMPLE_RATE,
    )


def video_frame(frame: av.VideoFrame, timestamp_ns: int) -> VideoFrame | None:
    """Give I420 with even sides; None for a picture too small to have them, or too large to keep."""
    if min(frame.width, frame.height) < 2 or frame.width * frame.height > _MOST_PIXELS:
        return None
    return from_av_video(frame, timestamp_ns)
