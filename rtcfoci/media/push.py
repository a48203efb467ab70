"""A source that an application feeds: voice agents, bridges, players.

In: a bounded queue with back-pressure, interruption and the wait for the end. Out: making the media.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace

from rtcfoci.errors import MediaError, UsageError
from rtcfoci.media.convert import AudioConverter
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pacing import MAX_LATE_NS, NS
from rtcfoci.media.sources import LocalSource

__all__ = ["PushSource"]


class PushSource(LocalSource):
    """Hands out what is pushed, at the pace at which it plays; usable from any event loop.

    ::

        source = PushSource(Kind.AUDIO)
        await source.push(speech, sample_rate=24_000)  # waits while the queue is full
        await source.wait_played()
        source.clear()  # the other side began to speak

    :param kind: what will be pushed.
    :param limit_s: how much media may wait.
    :param fps: pictures a second at most.
    """

    def __init__(self, kind: Kind, *, limit_s: float = 5.0, fps: int = 30) -> None:
        if limit_s <= 0 or not 1 <= fps <= 120:
            raise UsageError(
                "the push source cannot hold that",
                why=f"limit_s={limit_s} or fps={fps} is out of range",
                do="choose limit_s above 0 and fps from 1 to 120",
            )
        super().__init__(kind)
        self._hub = self.hubs[kind]
        self._period_ns = FRAME_MS * 1_000_000 if kind is Kind.AUDIO else NS // fps
        self._limit = max(1, round(limit_s * NS / self._period_ns))
        self._converter = AudioConverter()
        self._place_ns = 0
        self._changed = threading.Condition()
        self._queue: deque[Frame] = deque()
        self._playing = False
        self._cleared = 0
        self._waiters: list[Future[None]] = []

    @property
    def queued_s(self) -> float:
        """Seconds of media that wait to be handed out."""
        return len(self._queue) * self._period_ns / NS

    async def push(
        self, media: Frame | bytes, *, sample_rate: int = SAMPLE_RATE, channels: int = 1
    ) -> bool:
        """Queue a frame, or PCM of any length; wait while the queue is full. Starts the source.

        :param media: timestamps are not looked at: it plays when its turn comes.
        :param sample_rate: of bare PCM.
        :param channels: of bare PCM, interleaved.
        :returns: False when `clear` threw some of it away while it waited.
        :raises MediaError: when the source is closed or the media cannot be used.
        """
        self.start()
        cleared = self._cleared
        for frame in self._prepared(media, sample_rate, channels):
            while True:
                with self._changed:
                    self._check_open()
                    if self._cleared != cleared:
                        return False
                    if len(self._queue) < self._limit:
                        self._queue.append(frame)
                        self._changed.notify_all()
                        break
                    change = self._waiter()
                await asyncio.wrap_future(change)
        return self._cleared == cleared

    def clear(self) -> None:
        """Throw away all that waits, at once; whoever waits in `push` or `wait_played` goes on."""
        with self._changed:
            self._cleared += 1
            self._queue.clear()
            self._converter.clear()
            self._notify()

    async def wait_played(self) -> bool:
        """Wait until everything pushed has been handed out; False when `clear` or the end came first."""
        with self._changed:
            if self.kind is Kind.AUDIO:
                self._queue.extend(self._converter.flush())
                self._changed.notify_all()
            cleared = self._cleared
        while True:
            with self._changed:
                if self._cleared != cleared or not (self._queue or self._playing):
                    return self._cleared == cleared
                if self._stopping.is_set():
                    return False
                change = self._waiter()
            await asyncio.wrap_future(change)

    @property
    def kind(self) -> Kind:
        """What it gives."""
        return self._hub.kind

    def _prepared(self, media: Frame | bytes, sample_rate: int, channels: int) -> list[Frame]:
        if isinstance(media, bytes):
            media = AudioFrame(
                pcm=media, timestamp_ns=0, sample_rate=sample_rate, channels=channels
            )
        if (self.kind is Kind.AUDIO) != isinstance(media, AudioFrame):
            raise MediaError(
                f"a {type(media).__name__} cannot be pushed here",
                why=f"the source was made for {self.kind.value}",
                do="open one source for each kind",
            )
        if isinstance(media, VideoFrame):
            return [media]
        with self._changed:
            # One stretch of samples, whatever the frames say: the converter sees no gaps.
            media = replace(media, timestamp_ns=self._place_ns)
            self._place_ns += media.samples * NS // media.sample_rate
            return list(self._converter.convert(media))

    def _check_open(self) -> None:
        if self._stopping.is_set():
            raise MediaError(
                "nothing can be pushed any more",
                why="the source is closed",
                do="open another push source",
            )

    def _waiter(self) -> Future[None]:
        """Promise to tell of the next change; the lock is held."""
        future: Future[None] = Future()
        self._waiters.append(future)
        return future

    def _notify(self) -> None:
        """Tell of a change; the lock is held."""
        self._changed.notify_all()
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _wake(self) -> None:
        with self._changed:
            self._notify()

    def _run(self) -> None:
        due_ns = emitted_ns = 0
        while True:
            with self._changed:
                while not self._queue and not self._stopping.is_set():
                    self._changed.wait()
                    due_ns = max(due_ns, time.monotonic_ns())  # a pause: what comes now starts now
            now_ns = time.monotonic_ns()
            if now_ns - due_ns > MAX_LATE_NS:
                due_ns = now_ns
            emitted_ns = max(due_ns, now_ns, emitted_ns + self._period_ns // 2)
            if not self._wait_until(emitted_ns):
                return
            with self._changed:
                if not self._queue:  # cleared meanwhile
                    continue
                frame = self._queue.popleft()
                self._playing = True
            self._hub.push(replace(frame, timestamp_ns=due_ns))
            with self._changed:
                self._playing = False
                self._notify()
            due_ns += self._period_ns
