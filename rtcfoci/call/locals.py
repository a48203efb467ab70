"""Our own tracks: named, published, muted, and told of when their source dies.

In: the tracks of one call, and the condition `source_failed`. Out: bringing them to connections (`foci`),
where frames come from (`rtcfoci.media`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from rtcfoci.call.naming import name_track
from rtcfoci.core.model import Member
from rtcfoci.errors import UsageError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin.hookspecs import FocusType

__all__ = ["Locals"]


class Locals:
    """What we publish.

    :param changed: takes all tracks after each change.
    :param on_condition: takes code, subject and cause; no cause: it no longer holds.
    """

    def __init__(
        self,
        own: Member,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[Collection[LocalTrack]], None],
        on_condition: Callable[[str, str, str | None], None],
    ) -> None:
        self._own = own
        self._loop = loop
        self._changed = changed
        self._on_condition = on_condition
        self._tracks: dict[TrackId, LocalTrack] = {}

    def publish(self, hub: FrameHub, focus: FocusType, *, source: str, name: str) -> LocalTrack:
        """Publish a stream of frames; see `Call.publish`."""
        can = focus.capabilities
        if not (can.audio if hub.kind is Kind.AUDIO else can.video):
            raise UsageError(
                f"the focus {focus.type} carries no {hub.kind.value}",
                why="its capabilities say so",
                do="accept a focus type that does: rtcfoci plugins lists them",
            )
        track_id = name_track(self._own, hub.kind, self._tracks, source=source, name=name)
        track = self._tracks[track_id] = LocalTrack(track_id, hub)
        self._changed(self._tracks.values())
        hub.when_ended(lambda: self._ended_elsewhere(track))
        return track

    def unpublish(self, track: LocalTrack) -> None:
        """Publish a track no longer; idempotent."""
        if self._tracks.get(track.track_id) is track:
            del self._tracks[track.track_id]
            self._on_condition("source_failed", _subject(track), None)
        self._changed(self._tracks.values())

    def mute(self, track: LocalTrack, muted: bool) -> None:
        """Send nothing of a track, or something again."""
        track.muted = muted
        self._changed(self._tracks.values())

    def _ended_elsewhere(self, track: LocalTrack) -> None:
        """Hear of the end of a stream, on whichever thread it comes."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the call over
            self._loop.call_soon_threadsafe(self._ended, track)

    def _ended(self, track: LocalTrack) -> None:
        """Tell the others and the application of a source that died; one that is played out is neither."""
        error = track.hub.error
        if error is not None and self._tracks.get(track.track_id) is track:
            self.mute(track, True)
            cause = f"{error.what}: {error.why}" if error.why else error.what
            self._on_condition("source_failed", _subject(track), cause)


def _subject(track: LocalTrack) -> str:
    return f"{track.track_id.source} {track.track_id.name}"
