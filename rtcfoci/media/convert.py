"""Conversion between our frames and PyAV's, and of audio to any rate and channel count.

In: I420 and PCM to and from PyAV, scaling, resampling into 20 ms frames, converted hubs.
Out: containers and codecs (`files`, `recording`). PyAV is imported where it is needed only, so that
audio that already fits passes without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from rtcfoci.errors import MediaError
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pacing import NS
from rtcfoci.media.tracks import FrameHub

if TYPE_CHECKING:
    import av

__all__ = [
    "LAYOUTS",
    "AudioConverter",
    "as_media_error",
    "converted",
    "from_av_audio",
    "from_av_video",
    "scaled",
    "to_av_audio",
    "to_av_video",
]

LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""FFmpeg's names of the usual channel layouts, by channel count."""
_JUMP_NS = 40_000_000
"""Timestamps further off than two frames are a gap; nearer ones are jitter and are smoothed."""


def as_media_error(error: Exception, what: str) -> MediaError:
    """Explain what went wrong on a thread of ours; a `MediaError` stays as it is."""
    if isinstance(error, MediaError):
        return error
    explained = MediaError(
        what,
        why=f"{type(error).__name__}: {error}",
        do="report it, with the versions that `rtcfoci plugins` shows",
    )
    explained.__cause__ = error
    return explained


def to_av_audio(frame: AudioFrame) -> av.AudioFrame:
    """Make a PyAV frame; its pts counts samples of the call clock."""
    import av

    out = av.AudioFrame(format="s16", layout=_layout(frame.channels), samples=frame.samples)
    out.planes[0].update(frame.pcm)
    out.sample_rate = frame.sample_rate
    out.time_base = Fraction(1, frame.sample_rate)
    out.pts = frame.timestamp_ns * frame.sample_rate // NS
    return out


def from_av_audio(frame: av.AudioFrame, timestamp_ns: int) -> AudioFrame:
    """Take over a PyAV frame of interleaved signed 16 bit samples.

    :raises MediaError: when it holds anything else.
    """
    channels = frame.layout.nb_channels
    if frame.format.name != "s16" and not (frame.format.name == "s16p" and channels == 1):
        raise MediaError(
            f"audio of format {frame.format.name} cannot be used",
            why="frames are signed 16 bit with interleaved channels",
            do="resample it to s16 first",
        )
    pcm = bytes(frame.planes[0])[: frame.samples * channels * 2]
    return AudioFrame(
        pcm=pcm, timestamp_ns=timestamp_ns, sample_rate=frame.sample_rate, channels=channels
    )


def to_av_video(frame: VideoFrame) -> av.VideoFrame:
    """Make a PyAV yuv420p frame of its own memory; its pts counts microseconds of the call clock."""
    import av

    out = av.VideoFrame(frame.width, frame.height, "yuv420p")
    start = 0
    for plane, width, height in zip(
        out.planes, *_plane_sizes(frame.width, frame.height), strict=True
    ):
        packed = frame.data[start : start + width * height]
        start += width * height
        if plane.line_size == width:
            plane.update(packed)
        else:
            padding = bytes(plane.line_size - width)
            rows = (packed[i : i + width] for i in range(0, len(packed), width))
            plane.update(b"".join(row + padding for row in rows))
    out.time_base = Fraction(1, 1_000_000)
    out.pts = frame.timestamp_ns // 1000
    return out


def from_av_video(
    frame: av.VideoFrame, timestamp_ns: int, *, width: int = 0, height: int = 0
) -> VideoFrame:
    """Take over a PyAV frame of any pixel format, scaled when a size is given; odd sizes shrink by one."""
    width = (width or frame.width) & ~1
    height = (height or frame.height) & ~1
    if width < 2 or height < 2:
        raise MediaError(
            f"a picture of {frame.width}x{frame.height} pixels cannot be used",
            why="colour is kept once for every 2x2 pixels",
            do="use pictures of at least 2x2 pixels",
        )
    if (frame.format.name, frame.width, frame.height) != ("yuv420p", width, height):
        frame = frame.reformat(format="yuv420p", width=width, height=height)
    parts = []
    for plane, row, rows in zip(frame.planes, *_plane_sizes(width, height), strict=True):
        view = memoryview(plane)
        if plane.line_size == row:
            parts.append(bytes(view[: row * rows]))
        else:
            parts += [
                bytes(view[i : i + row]) for i in range(0, plane.line_size * rows, plane.line_size)
            ]
    return VideoFrame(data=b"".join(parts), width=width, height=height, timestamp_ns=timestamp_ns)


def scaled(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """Scale a frame; the same object when it already has that size."""
    if (frame.width, frame.height) == (width, height):
        return frame
    return from_av_video(to_av_video(frame), frame.timestamp_ns, width=width, height=height)


class AudioConverter:
    """Turns audio of any rate, channel count and frame size into 20 ms frames of one rate.

    A jump of the timestamps (a gap, another feed) ends the frame at hand with silence and starts
    anew, so that what comes out keeps its place on the call clock. Not thread-safe.

    :param sample_rate: Hertz; 20 ms must be a whole number of samples.
    :param channels: 1 or 2.
    :raises MediaError: when that is not possible.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        if channels not in (1, 2) or not 4000 <= sample_rate <= 384_000 or sample_rate % 50:
            raise MediaError(
                f"audio cannot be converted to {sample_rate} Hz with {channels} channels",
                why="frames hold 20 ms, so the rate is a multiple of 50 Hz from 4000 to 384000, "
                "and there are 1 or 2 channels",
                do="ask for 48000, 44100, 24000, 16000 or 8000 Hz",
            )
        self.sample_rate = sample_rate
        self.channels = channels
        self._frame_bytes = sample_rate * FRAME_MS // 1000 * channels * 2
        self._source: tuple[int, int] | None = None
        self._resampler: av.AudioResampler | None = None
        self._start_ns = 0
        self._taken = 0
        self._given = 0
        self._buffer = bytearray()
        self._concealed = False

    def convert(self, frame: AudioFrame) -> list[AudioFrame]:
        """Take a frame and give what is complete."""
        out: list[AudioFrame] = []
        source = (frame.sample_rate, frame.channels)
        expected_ns = self._start_ns + self._taken * NS // frame.sample_rate
        if source != self._source or abs(frame.timestamp_ns - expected_ns) > _JUMP_NS:
            out = self.flush()
            self._begin(frame, source)
        self._taken += frame.samples
        self._concealed = frame.concealed
        if self._resampler is None:
            if not self._buffer and len(frame.pcm) == self._frame_bytes:
                self._given += frame.samples
                return [*out, frame]
            self._buffer += frame.pcm
        else:
            self._resample(frame)
        return out + self._cut()

    def flush(self) -> list[AudioFrame]:
        """Give what is left, the last frame completed with silence."""
        if self._resampler is not None:
            self._resample(None)
        out = self._cut()
        if self._buffer:
            self._buffer += bytes(self._frame_bytes - len(self._buffer))
            out += self._cut()
        self._source = None
        return out

    def clear(self) -> None:
        """Throw away what is left."""
        self._source = self._resampler = None
        self._buffer.clear()

    def _begin(self, frame: AudioFrame, source: tuple[int, int]) -> None:
        self._source = source
        self._start_ns = frame.timestamp_ns
        self._taken = self._given = 0
        self._resampler = None
        if source != (self.sample_rate, self.channels):
            import av

            self._resampler = av.AudioResampler(
                format="s16", layout=_layout(self.channels), rate=self.sample_rate
            )

    def _resample(self, frame: AudioFrame | None) -> None:
        assert self._resampler is not None
        source = None
        if frame is not None:
            source = to_av_audio(frame)
            source.pts = None  # places on the clock are counted here, from the samples
        for part in self._resampler.resample(source):
            self._buffer += from_av_audio(part, 0).pcm

    def _cut(self) -> list[AudioFrame]:
        out = []
        whole = len(self._buffer) // self._frame_bytes * self._frame_bytes
        for start in range(0, whole, self._frame_bytes):
            frame = AudioFrame(
                pcm=bytes(self._buffer[start : start + self._frame_bytes]),
                timestamp_ns=self._start_ns + self._given * NS // self.sample_rate,
                sample_rate=self.sample_rate,
                channels=self.channels,
                concealed=self._concealed,
            )
            self._given += frame.samples
            out.append(frame)
        del self._buffer[:whole]
        return out


def converted(hub: FrameHub, *, sample_rate: int | None, channels: int | None) -> FrameHub:
    """Derive a hub whose audio has the rate and channel count asked for; works only while it is read.

    :raises MediaError: when the rate or channel count is impossible, or the hub carries video.
    """
    if hub.kind is not Kind.AUDIO:
        raise MediaError(
            "a video track has no sample rate",
            why="a rate or channel count was asked of it",
            do="leave sample_rate and channels out for video",
        )
    converter = AudioConverter(sample_rate or SAMPLE_RATE, channels or 1)
    out = FrameHub(Kind.AUDIO)
    lock = threading.Lock()
    stop: Callable[[], None] | None = None

    def take(frame: Frame | None) -> None:
        if isinstance(frame, AudioFrame):
            for part in converter.convert(frame):
                out.push(part)
        elif frame is None:
            for part in converter.flush():
                out.push(part)
            out.end()

    def wanted(_: bool) -> None:
        nonlocal stop
        # What counts is how it stands now: calls from several threads may come in another order.
        with lock:
            if out.wanted and stop is None:
                stop = hub.consume(take)
            elif not out.wanted and stop is not None:
                stop()
                stop = None

    out.on_wanted = wanted
    return out


def _layout(channels: int) -> str:
    try:
        return LAYOUTS[channels]
    except KeyError:
        raise MediaError(
            f"audio with {channels} channels cannot be used",
            why="there are layouts for 1 to 8 channels",
            do="mix it down first",
        ) from None


def _plane_sizes(width: int, height: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (width, width // 2, width // 2), (height, height // 2, height // 2)
