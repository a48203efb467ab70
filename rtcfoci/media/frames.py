"""Media at the boundary between application, call and backend: plain values, no media library.

In: audio and video frames. Out: where they come from (`sources`), go to (`sinks`), and how they are
converted (`convert`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from rtcfoci.errors import MediaError

__all__ = ["FRAME_MS", "SAMPLE_RATE", "AudioFrame", "Frame", "Kind", "VideoFrame"]

SAMPLE_RATE = 48_000
"""Hertz; what sources produce and sinks receive unless they ask otherwise."""
FRAME_MS = 20
"""Milliseconds in one audio frame."""


class Kind(Enum):
    """What a track carries."""

    AUDIO = "audio"
    VIDEO = "video"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFrame:
    """Signed 16 bit little-endian PCM, channels interleaved; 20 ms at 48 kHz mono by default."""

    pcm: bytes = field(repr=False)
    timestamp_ns: int
    """Of the first sample, nanoseconds on the call clock (monotonic)."""
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    concealed: bool = False
    """Made up to hide a lost packet, not received."""

    def __post_init__(self) -> None:
        if self.channels < 1 or self.sample_rate < 1 or len(self.pcm) % (2 * self.channels):
            raise MediaError(
                f"{len(self.pcm)} bytes are no PCM of {self.channels} channels "
                f"at {self.sample_rate} Hz",
                why="a sample has 2 bytes for each channel",
                do="give whole samples, and say their rate and channel count",
            )

    @property
    def samples(self) -> int:
        """Samples per channel."""
        return len(self.pcm) // (2 * self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFrame:
    """Planar YUV 4:2:0 (I420): the Y plane, then U, then V, rows tightly packed."""

    data: bytes = field(repr=False)
    """width*height*3/2 bytes; width and height are even."""
    width: int
    height: int
    timestamp_ns: int
    """Nanoseconds on the call clock (monotonic)."""

    def __post_init__(self) -> None:
        width, height = self.width, self.height
        even = width > 0 and height > 0 and not (width % 2 or height % 2)
        if not even or len(self.data) != width * height * 3 // 2:
            raise MediaError(
                f"{len(self.data)} bytes are no I420 picture of {width}x{height}",
                why="sides are even and a pixel has 1.5 bytes",
                do="give tightly packed planes: Y, then U, then V",
            )


Frame: TypeAlias = AudioFrame | VideoFrame
