"""Sinks: where remote media goes, other than into a file.

In: handing frames to an application's function, to nobody, to this machine's loudspeaker.
Out: files (`recording.Recorder`, which is a sink too).
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from rtcfoci.errors import MediaError
from rtcfoci.media.convert import AudioConverter, to_av_audio
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind
from rtcfoci.media.pacing import Pacer
from rtcfoci.media.tracks import FrameReader, FrameStream

__all__ = ["CallbackSink", "DeviceSink", "FrameCallback", "NullSink", "Sink"]

FrameCallback: TypeAlias = Callable[[FrameStream, Frame], Awaitable[None] | None]
"""Called with the track and one of its frames."""

_SPEAKERS = {"linux": ("alsa", "default"), "darwin": ("audiotoolbox", "")}
_SPEAKER_QUEUE = 10  # frames of one track: 200 ms


class Sink(Protocol):
    """Takes tracks until it is closed."""

    def add(self, track: FrameStream) -> bool:
        """Take this track from now on; False when it cannot be taken beside those it has."""
        ...

    def remove(self, track: FrameStream) -> None:
        """Take it no longer; unknown tracks are ignored."""

    async def aclose(self) -> None:
        """Let go of all tracks; idempotent."""


class NullSink:
    """Takes everything, keeps the numbers: so that media is decoded though nobody looks."""

    def __init__(self) -> None:
        self.frames: Counter[Kind] = Counter()
        """How many frames came."""
        self._stops: dict[int, Callable[[], None]] = {}

    def add(self, track: FrameStream) -> bool:
        kind = track.kind

        def count(frame: Frame | None) -> None:
            if frame is not None:
                self.frames[kind] += 1

        self.remove(track)
        self._stops[id(track)] = track.consume(count)
        return True

    def remove(self, track: FrameStream) -> None:
        self._stops.pop(id(track), lambda: None)()

    async def aclose(self) -> None:
        while self._stops:
            self._stops.popitem()[1]()


class CallbackSink:
    """Calls a function, or a coroutine function, for every frame, on the loop that adds the track.

    While it is busy frames wait; when `limit` wait the oldest goes. What it raises ends that track,
    and is raised by `aclose`.
    """

    def __init__(self, callback: FrameCallback, *, limit: int = 50) -> None:
        self._callback = callback
        self._limit = limit
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._failed: list[BaseException] = []

    def add(self, track: FrameStream) -> bool:
        self.remove(track)
        reader = FrameReader(track, self._limit)
        task = asyncio.get_running_loop().create_task(self._deliver(track, reader))
        task.add_done_callback(self._note)
        task.add_done_callback(lambda _: reader.close())  # it may be cancelled before it begins
        self._tasks[id(track)] = task
        return True

    def remove(self, track: FrameStream) -> None:
        task = self._tasks.pop(id(track), None)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failed, self._failed = self._failed, []
        if failed:
            raise failed[0]

    async def _deliver(self, track: FrameStream, reader: FrameReader) -> None:
        async for frame in reader:
            result = self._callback(track, frame)
            if inspect.isawaitable(result):
                await result

    def _note(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed.append(error)


class DeviceSink:
    """Plays the sound of all its tracks, mixed, on this machine's loudspeaker.

    :param name: FFmpeg's name of the device; by default the platform's first.
    :param driver: FFmpeg's name of the output driver; by default the platform's.
    :raises MediaError: when it cannot be opened.
    """

    def __init__(self, *, name: str = "", driver: str = "") -> None:
        usual = _SPEAKERS.get(sys.platform, ("", ""))
        self.name: str = name or usual[1]
        self.driver: str = driver or usual[0]
        self.error: MediaError | None = None
        """Why it stopped before it was closed, if it did."""
        self._queues: dict[int, deque[AudioFrame]] = {}
        self._stops: dict[int, Callable[[], None]] = {}
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rtcfoci speaker", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self.error is not None:
            raise self.error

    def add(self, track: FrameStream) -> bool:
        if track.kind is not Kind.AUDIO:
            return False
        self.remove(track)
        queue: deque[AudioFrame] = deque(maxlen=_SPEAKER_QUEUE)
        converter = AudioConverter()

        def take(frame: Frame | None) -> None:
            if isinstance(frame, AudioFrame):
                queue.extend(converter.convert(frame))

        self._queues[id(track)] = queue
        self._stops[id(track)] = track.consume(take)
        return True

    def remove(self, track: FrameStream) -> None:
        self._stops.pop(id(track), lambda: None)()
        self._queues.pop(id(track), None)

    async def aclose(self) -> None:
        while self._stops:
            self._stops.popitem()[1]()
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        import av
        from av.error import FFmpegError

        try:
            with av.open(self.name, "w", format=self.driver) as container:
                stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
                container.start_encoding()
                self._ready.set()
                pacer = Pacer(1000 // FRAME_MS, time.monotonic_ns())
                while True:
                    tick = pacer.next(time.monotonic_ns())
                    if self._stopping.wait(max(0, tick.emit_ns - time.monotonic_ns()) / 1e9):
                        break
                    frame = to_av_audio(AudioFrame(pcm=self._mixed(), timestamp_ns=0))
                    frame.pts = tick.index * frame.samples
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except (FFmpegError, OSError, ValueError) as error:
            self.error = MediaError(
                f"the loudspeaker {self.name or self.driver!r} cannot be used",
                why=str(error),
                do="check that it is connected and that this user may use it, or record instead",
            )
        finally:
            self._ready.set()

    def _mixed(self) -> bytes:
        import numpy as np

        total = np.zeros(SAMPLE_RATE * FRAME_MS // 1000, np.int32)
        for queue in tuple(self._queues.values()):
            if queue:
                total += np.frombuffer(queue.popleft().pcm, "<i2")
        return bytes(np.clip(total, -32768, 32767).astype("<i2").tobytes())
