"""Tracks: named streams of frames, and the hub that hands each frame to every reader.

In: track identity, the thread-safe fan-out, local and remote tracks.
Out: what frames hold (`frames`), who makes them (`sources`, backends) and who eats them (`sinks`).

A slow reader never stalls anybody: every reader has a bounded queue of its own, and when it is full
the oldest frame goes, and is counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rtcfoci.core.model import Member
from rtcfoci.errors import RtcfociError
from rtcfoci.media.frames import Frame, Kind

__all__ = ["FrameHub", "FrameReader", "FrameStream", "LocalTrack", "RemoteTrack", "TrackId"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrackId:
    """Call-scoped identity of a track: it outlives connections and foci."""

    member: Member
    source: str
    """`microphone`, `camera`, `screen`, `screen_audio`, or an application's own word."""
    name: str
    """Tells equal sources of one member apart; a foreign client's tracks get their ordinal."""

    def __str__(self) -> str:
        return f"{self.member}:{self.source}:{self.name}"


class FrameStream(Protocol):
    """What frames can be taken from: a hub or a remote track."""

    @property
    def kind(self) -> Kind: ...
    def consume(self, callback: Callable[[Frame | None], None]) -> Callable[[], None]: ...


class FrameHub:
    """Hands frames from one producer to any number of consumers; every method is thread-safe.

    :param kind: what the frames are.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._lock = threading.Lock()
        self._consumers: tuple[Callable[[Frame | None], None], ...] = ()
        self._ended = False
        self._watching: tuple[Callable[[], None], ...] = ()
        self.error: RtcfociError | None = None
        """Why it ended, if its producer failed."""
        self.on_wanted: Callable[[bool], None] | None = None
        """Called, from whichever thread, when the first consumer comes and the last one goes."""

    @property
    def wanted(self) -> bool:
        """Whether anybody consumes; producers may skip work (decoding) while nobody does."""
        return bool(self._consumers)

    @property
    def ended(self) -> bool:
        return self._ended

    def push(self, frame: Frame) -> None:
        """Hand a frame to every consumer, at once, on this thread."""
        for consume in self._consumers:
            self._hand(consume, frame)

    def end(self, error: RtcfociError | None = None) -> None:
        """No more frames will come; readers finish what they hold. Idempotent.

        :param error: what its producer failed with; None when there is nothing more to come.
        """
        with self._lock:
            if self._ended:
                return
            self._ended, self.error = True, error
            consumers, self._consumers = self._consumers, ()
            watching, self._watching = self._watching, ()
        for consume in consumers:
            self._hand(consume, None)
        for tell in watching:
            tell()

    def when_ended(self, tell: Callable[[], None]) -> None:
        """Call back once it has ended, on whichever thread; who does so wants no frames."""
        with self._lock:
            if not self._ended:
                self._watching = (*self._watching, tell)
                return
        tell()

    def consume(self, callback: Callable[[Frame | None], None]) -> Callable[[], None]:
        """Call back with every frame on the producer's thread, None at the end; give back a stop.

        The callback must be quick; one that raises gets no more frames.
        """
        with self._lock:
            ended = self._ended
            first = not ended and not self._consumers
            if not ended:
                self._consumers = (*self._consumers, callback)
        if ended:
            callback(None)
            return lambda: None
        if first and self.on_wanted:
            self.on_wanted(True)

        return partial(self._leave, callback)

    def _hand(self, consume: Callable[[Frame | None], None], frame: Frame | None) -> None:
        try:
            consume(frame)
        except Exception:  # one consumer's fault must end neither the producer nor the others
            _log.exception("a consumer of %s frames failed and gets no more", self.kind.value)
            self._leave(consume)

    def _leave(self, callback: Callable[[Frame | None], None]) -> None:
        with self._lock:
            before = len(self._consumers)
            self._consumers = tuple(c for c in self._consumers if c is not callback)
            last = before and not self._consumers
        if last and self.on_wanted:
            self.on_wanted(False)

    def open(self, *, limit: int = 50) -> FrameReader:
        """Open a reader with a queue of `limit` frames."""
        return FrameReader(self, limit)


class FrameReader:
    """One consumer's bounded queue on a hub; iterate it on any one event loop.

    ::

        async with hub.open() as frames:
            async for frame in frames:
                ...
    """

    def __init__(self, hub: FrameStream, limit: int) -> None:
        self._queue: deque[Frame] = deque(maxlen=limit)
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._waking = False
        """A wake-up is under way already: a stalled loop gets one, not one for each frame."""
        self.dropped: int = 0
        """Frames dropped because this reader was too slow."""
        self._stop = hub.consume(self._take)

    def _take(self, frame: Frame | None) -> None:
        if frame is None:
            self._ended = True
        else:
            if len(self._queue) == self._queue.maxlen:
                self.dropped += 1
            self._queue.append(frame)
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not self._waking:
            self._waking = True
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:  # that loop is closed: nobody waits any more
                self.close()

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self

    async def __anext__(self) -> Frame:
        if self._wake is None:
            self._loop = asyncio.get_running_loop()
            self._wake = asyncio.Event()
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            self._waking = False
            if self._queue or self._ended:  # came between the look and the clear
                continue
            await self._wake.wait()
        return self._queue.popleft()

    async def __aenter__(self) -> FrameReader:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; idempotent, thread-safe."""
        self._stop()
        if not self._ended:
            self._take(None)


class LocalTrack:
    """A track this participant publishes; one track may feed several connections at once."""

    def __init__(self, track_id: TrackId, hub: FrameHub) -> None:
        self.track_id = track_id
        self.hub = hub
        self.muted = False

    @property
    def kind(self) -> Kind:
        return self.hub.kind


class RemoteTrack:
    """A member's track as the application sees it: the same object while foci come and go."""

    def __init__(self, track_id: TrackId, kind: Kind) -> None:
        self.track_id = track_id
        self.kind = kind
        self.muted = False
        self._out = FrameHub(kind)
        self._out.on_wanted = self._wanted
        self._feed: FrameHub | None = None
        self._detach: Callable[[], None] | None = None
        self._lock = threading.RLock()

    @property
    def live(self) -> bool:
        """Whether a connection carries it now."""
        return self._feed is not None

    @property
    def ended(self) -> bool:
        return self._out.ended

    def frames(
        self, *, limit: int = 50, sample_rate: int | None = None, channels: int | None = None
    ) -> FrameReader:
        """Read frames; audio at the rate and channel count asked for (needs PyAV to convert)."""
        if sample_rate is None and channels is None:
            return self._out.open(limit=limit)
        from rtcfoci.media.convert import converted

        return converted(self._out, sample_rate=sample_rate, channels=channels).open(limit=limit)

    def consume(self, callback: Callable[[Frame | None], None]) -> Callable[[], None]:
        """Call back with every frame, on the backend's thread; see `FrameHub.consume`."""
        return self._out.consume(callback)

    def attach(self, feed: FrameHub) -> None:
        """Take frames from this feed from now on, and no longer from the one before."""
        with self._lock:
            self._stop_feed()
            self._feed = feed
            if self._out.wanted:
                self._detach = feed.consume(self._forward)

    def detach(self, feed: FrameHub | None = None) -> None:
        """Stop taking frames (from that feed); readers wait for the next feed."""
        with self._lock:
            if feed is None or feed is self._feed:
                self._stop_feed()
                self._feed = None

    def end(self) -> None:
        """The member unpublished it or left: readers finish."""
        self.detach()
        self._out.end()

    def _forward(self, frame: Frame | None) -> None:
        if frame is not None:
            self._out.push(frame)

    def _wanted(self, _: bool) -> None:
        # What counts is how it stands now: calls from several threads may come in another order.
        with self._lock:
            if not self._out.wanted:
                self._stop_feed()
            elif self._feed is not None and self._detach is None:
                self._detach = self._feed.consume(self._forward)

    def _stop_feed(self) -> None:
        if self._detach is not None:
            self._detach()
            self._detach = None
