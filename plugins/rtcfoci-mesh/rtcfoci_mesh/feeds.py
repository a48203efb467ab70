"""Local tracks, encoded once each, and handed to every sender that listens.

In: one feed for each track that somebody listens to, what becomes of a feed that fails. Out: encoding
(`sound`, `picture`), sending (`outgoing`). All of it lives on the media loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rtcfoci.media.frames import Frame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId

__all__ = ["Coded", "Feed", "Feeds", "Listener", "Tap", "Troubled"]

_AGAIN_S = 1.0
"""How long after a failure a feed begins anew."""
_CALM_S = 2.0
"""How long nothing fails before all is said to be well."""
_log = logging.getLogger(__name__)

Troubled = Callable[[TrackId, str | None], None]
"""Told when a track cannot be encoded, and why; with None when it can be again."""


@dataclass(frozen=True, slots=True)
class Coded:
    """20 ms of sound or one picture, ready for the payload of packets; many are given the same one."""

    payloads: tuple[bytes, ...]
    timestamp: int
    """In ticks of the codec's RTP clock, from an origin that all feeds of a kind share."""
    key: bool
    """Whether it can be understood without what came before it."""


class Listener(Protocol):
    """Who sends what a feed gives."""

    def take(self, coded: Coded) -> None:
        """Send it, or not. Quick, and never waits."""

    @property
    def rate_bps(self) -> float:
        """What its receiver can take."""


class Feed(ABC):
    """Encodes one track until it is closed; after a failure it begins anew, with a new encoder."""

    def __init__(self, track: LocalTrack, troubled: Troubled) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._track_id, self._troubled = track.track_id, troubled
        self._failed_s: float | None = None
        self._said = False
        self._stop = track.hub.consume(self._taken)
        self._task = self.loop.create_task(self._main(), name=f"mesh {track.kind.value} feed")

    def close(self) -> None:
        """End, and let go of the track."""
        self._stop()
        self._task.cancel()
        if self._failed_s is not None:
            self._troubled(self._track_id, None)

    @abstractmethod
    def refresh(self) -> None:
        """Give something that can be understood by itself, soon."""

    @abstractmethod
    def _take(self, frame: Frame | None) -> None:
        """Keep a frame; on the thread of the source."""

    @abstractmethod
    async def _run(self) -> None:
        """Encode for ever."""

    def _wake_up(self) -> None:
        """Let `_run` go on, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the media loop is gone, and so is the connection
            return

    def _give(self, coded: Coded) -> None:
        if self._failed_s is not None and self.loop.time() - self._failed_s > _CALM_S:
            self._failed_s = None
            self._troubled(self._track_id, None)
        for listener in self.listeners:
            try:
                listener.take(coded)
            except Exception as error:  # what one sender meets must not end the feed of the others
                if not self._said:
                    _log.warning("a packet of %s could not be sent: %r", self._track_id, error)
                    self._said = True

    def _taken(self, frame: Frame | None) -> None:
        try:
            self._take(frame)
        except Exception as error:  # a hub gives no more to a consumer that raises
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception) -> None:
        if self._failed_s is None:
            _log.warning("encoding %s failed: %r", self._track_id, error)
            self._troubled(self._track_id, f"{type(error).__name__}: {error}")
        self._failed_s = self.loop.time()

    async def _main(self) -> None:
        while True:
            try:
                await self._run()
            except Exception as error:
                self._fail(error)
            await asyncio.sleep(_AGAIN_S)


@dataclass(frozen=True, slots=True)
class Tap:
    """What a listener holds on to."""

    refresh: Callable[[], None]
    stop: Callable[[], None]


class Feeds:
    """A feed for every track that somebody listens to.

    :param make: makes the feed of a track.
    """

    def __init__(self, make: Callable[[LocalTrack], Feed]) -> None:
        self._make = make
        self._feeds: dict[FrameHub, Feed] = {}

    def listen(self, track: LocalTrack, listener: Listener) -> Tap:
        """Have what a track gives handed over from now on, beginning with what can be understood."""
        feed = self._feeds.get(track.hub)
        if feed is None:
            feed = self._feeds[track.hub] = self._make(track)
        feed.listeners = (*feed.listeners, listener)
        feed.refresh()

        def stop() -> None:
            feed.listeners = tuple(held for held in feed.listeners if held is not listener)
            if not feed.listeners and self._feeds.get(track.hub) is feed:
                del self._feeds[track.hub]
                feed.close()

        return Tap(feed.refresh, stop)
