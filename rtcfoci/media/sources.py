"""Sources: where local media comes from.

In: what every source has in common, and those that are made up here: silence, tone, test picture.
Out: pushed media (`push`), files and devices (`files`), and their names on the command line (`specs`).

Every source runs on a thread of its own, so that neither a busy application loop nor slow decoding
can disturb its pace. All of them stamp frames with the call clock, `time.monotonic_ns`.
"""

from __future__ import annotations

import asyncio
import math
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from rtcfoci.errors import MediaError, UsageError
from rtcfoci.media.convert import as_media_error
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pacing import NS, Pacer
from rtcfoci.media.pattern import Stamp, draw
from rtcfoci.media.tracks import FrameHub

__all__ = ["LocalSource", "PacedSource", "PatternSource", "SilenceSource", "ToneSource"]

_TONE_PEAK = 8000  # about -12 dBFS: clear, and three of them mixed do not clip
_CLOSE_TIMEOUT_S = 2.0


class LocalSource(ABC):
    """Something that feeds one hub for each kind of media it has.

    ::

        source = ToneSource(440)
        track = LocalTrack(track_id, source.hubs[Kind.AUDIO])
        source.start()
        ...
        await source.aclose()

    :param kinds: what it gives.
    """

    def __init__(self, *kinds: Kind) -> None:
        self.hubs: Mapping[Kind, FrameHub] = MappingProxyType({k: FrameHub(k) for k in kinds})
        self.error: MediaError | None = None
        """Why it stopped, if it failed."""
        self.on_error: Callable[[MediaError], None] | None = None
        """Called once, on the source's thread, when it fails."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to give frames; idempotent. The hubs end with the source."""
        if self._thread is None and not self._stopping.is_set():
            name = f"rtcfoci {type(self).__name__}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    async def aclose(self) -> None:
        """Stop and end the hubs; idempotent."""
        self._stopping.set()
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            await asyncio.to_thread(self._thread.join, _CLOSE_TIMEOUT_S)
        self._end()

    @abstractmethod
    def _run(self) -> None:
        """Give frames until there are no more or `_stopping` is set; on the source's thread."""

    def _wake(self) -> None:  # noqa: B027 - most sources wait for nothing else
        """Interrupt whatever `_run` waits for, other than `_stopping`."""

    def _wait_until(self, due_ns: int) -> bool:
        """Wait on the call clock; False when it is time to stop."""
        return not self._stopping.wait(max(0, due_ns - time.monotonic_ns()) / NS)

    def _work(self) -> None:
        try:
            self._run()
        except Exception as error:  # the thread ends here: nobody else could be told
            self.error = as_media_error(error, f"the source {type(self).__name__} stopped")
            if self.on_error is not None:
                self.on_error(self.error)
        finally:
            self._end()

    def _end(self) -> None:
        for hub in self.hubs.values():
            hub.end(self.error)


class PacedSource(LocalSource):
    """A source that makes one frame for each tick of its schedule.

    :param rate: frames a second.
    """

    def __init__(self, kind: Kind, rate: Fraction | int) -> None:
        super().__init__(kind)
        self._rate = rate
        self._hub = self.hubs[kind]

    @abstractmethod
    def _frame(self, index: int, timestamp_ns: int) -> Frame:
        """Make the frame of that tick."""

    def _run(self) -> None:
        pacer = Pacer(self._rate, time.monotonic_ns())
        while True:
            tick = pacer.next(time.monotonic_ns())
            if not self._wait_until(tick.emit_ns):
                return
            if self._hub.wanted:
                self._hub.push(self._frame(tick.index, tick.timestamp_ns))


class SilenceSource(PacedSource):
    """Digital silence."""

    def __init__(self) -> None:
        super().__init__(Kind.AUDIO, 1000 // FRAME_MS)
        self._pcm = bytes(SAMPLE_RATE * FRAME_MS // 1000 * 2)

    def _frame(self, index: int, timestamp_ns: int) -> AudioFrame:
        return AudioFrame(pcm=self._pcm, timestamp_ns=timestamp_ns)


class ToneSource(PacedSource):
    """A sine tone.

    :param frequency_hz: 20 to 20000, whole.
    :raises UsageError: outside that.
    """

    def __init__(self, frequency_hz: int) -> None:
        if not 20 <= frequency_hz <= 20_000:
            raise UsageError(
                f"a tone of {frequency_hz} Hz cannot be made",
                why="it would not be heard",
                do="choose a frequency from 20 to 20000 Hz",
            )
        super().__init__(Kind.AUDIO, 1000 // FRAME_MS)
        self.frequency_hz = frequency_hz
        # A whole number of Hertz repeats every second: one second is all that is ever needed.
        step = 2 * math.pi * frequency_hz / SAMPLE_RATE
        samples = (round(_TONE_PEAK * math.sin(step * n)) for n in range(SAMPLE_RATE))
        self._second = struct.pack(f"<{SAMPLE_RATE}h", *samples)

    def _frame(self, index: int, timestamp_ns: int) -> AudioFrame:
        size = len(self._second) * FRAME_MS // 1000
        start = index * size % len(self._second)
        return AudioFrame(pcm=self._second[start : start + size], timestamp_ns=timestamp_ns)


class PatternSource(PacedSource):
    """The test picture: who sent it, and the how manieth it is (`rtcfoci.media.pattern`).

    :param sender_id: 0 to 65535.
    """

    def __init__(
        self, sender_id: int, *, width: int = 320, height: int = 240, fps: int = 15
    ) -> None:
        fits = 80 <= width <= 4096 and 64 <= height <= 4096 and not (width % 2 or height % 2)
        if not fits or not 1 <= fps <= 60 or not 0 <= sender_id < 1 << 16:
            raise UsageError(
                f"a test picture of {width}x{height} at {fps} a second for sender {sender_id} "
                "cannot be made",
                why="sizes are even, from 80x64 to 4096x4096; 1 to 60 pictures a second; "
                "sender ids have 16 bits",
                do="choose other values, such as 320x240 at 15",
            )
        super().__init__(Kind.VIDEO, fps)
        self.sender_id = sender_id
        self._size = (width, height)

    def _frame(self, index: int, timestamp_ns: int) -> VideoFrame:
        return draw(Stamp(self.sender_id, index), *self._size, timestamp_ns)
