"""What aiortc decoded, as the frames of the house.

In: PyAV frames to PCM and I420 bytes, RTP time to the call clock. Out: decoding (aiortc; it cannot be
switched off, so an unwanted track costs its decoding but nothing here).
"""

from __future__ import annotations

import av
import numpy as np

from rtcfoci.media.frames import SAMPLE_RATE, AudioFrame, Kind, VideoFrame

__all__ = ["CallClock", "audio_frame", "media_ns", "video_frame"]

_AUDIO_DELAY_NS = 80_000_000
"""aiortc's jitter buffer gives a packet out when four later ones have come (20 ms each)."""
_JUMP_NS = 500_000_000
_CREEP = 1e-4
"""How much faster than ours the sender's clock may be: 100 ppm, twice what crystals do."""


class CallClock:
    """Maps the media time of one track to the call clock.

    The earliest arrival is the truest: a frame can be late, never early. So the mapping follows early
    frames at once, late ones only as fast as two clocks drift apart, and starts anew after a jump.
    """

    def __init__(self, kind: Kind) -> None:
        self._delay_ns = _AUDIO_DELAY_NS if kind is Kind.AUDIO else 0
        self._offset_ns: int | None = None
        self._last_ns = 0

    def map(self, media_ns: int, arrival_ns: int) -> int:
        """Give the time of a frame with that media time that came at `arrival_ns`."""
        offset_ns = arrival_ns - self._delay_ns - media_ns
        held_ns = self._offset_ns
        if held_ns is not None and abs(offset_ns - held_ns) < _JUMP_NS:
            held_ns += int((arrival_ns - self._last_ns) * _CREEP)
            offset_ns = min(offset_ns, held_ns)
        self._offset_ns, self._last_ns = offset_ns, arrival_ns
        return media_ns + offset_ns


def media_ns(frame: av.AudioFrame | av.VideoFrame) -> int:
    """Give a decoded frame's media time in nanoseconds."""
    if frame.time_base is None or frame.pts is None:
        return 0
    return int(frame.pts * frame.time_base * 1_000_000_000)


def audio_frame(frame: av.AudioFrame, timestamp_ns: int) -> AudioFrame:
    """Give 48 kHz mono, s16; aiortc's decoder gives 48 kHz stereo."""
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
    """Give I420 with even sides; None for a picture too small to have them."""
    width, height = frame.width & ~1, frame.height & ~1
    if not width or not height:
        return None
    if frame.format.name != "yuv420p":
        frame = frame.reformat(format="yuv420p")
    planes = []
    for plane, w, h in zip(
        frame.planes,
        (width, width // 2, width // 2),
        (height, height // 2, height // 2),
        strict=True,
    ):
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        planes.append(rows[:h, :w].tobytes())
    return VideoFrame(data=b"".join(planes), width=width, height=height, timestamp_ns=timestamp_ns)
