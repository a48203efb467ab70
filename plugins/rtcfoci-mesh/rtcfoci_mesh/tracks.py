"""A member's tracks: the same, with the same hubs, while connections to the member come and go.

In: what the member described, attaching it to a connection, telling the call. Out: frames (the engine
pushes them into the hub that `sink` names).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rtcfoci.core.model import Member
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, TrackId
from rtcfoci.plugin import ConnectionEvent, TrackAdded, TrackMuted, TrackRemoved
from rtcfoci_mesh.wire import TrackInfo

__all__ = ["RemoteTracks"]

_MAX_SAID = 64


@dataclass(slots=True)
class _Remote:
    track_id: TrackId
    kind: Kind
    hub: FrameHub
    muted: bool = False
    live: bool = False
    """Reported as added and not as removed."""
    wanted: bool = True


class RemoteTracks:
    """One member's tracks.

    A track that is lost with its connection is reported as removed, but its hub goes on; one that the
    member no longer describes, or whose member is gone, ends its hub too.
    """

    def __init__(self, member: Member, emit: Callable[[ConnectionEvent], None]) -> None:
        self._member = member
        self._emit = emit
        self._tracks: dict[tuple[str, str], _Remote] = {}
        self._by_mid: dict[str, _Remote] = {}
        self._described: tuple[TrackInfo, ...] = ()
        self._said: dict[tuple[str, str], bool] = {}
        """What was last said of muting on this connection: newer than any description of it, since a
        description takes the long way and every change is said."""
        self._attached = False

    def describe(self, described: tuple[TrackInfo, ...]) -> None:
        """Take what the member says about its tracks; shown once there is a connection."""
        self._described = described
        if self._attached:
            self.attach()

    def attach(self) -> None:
        """Media can flow: make what is reported equal to what the member described."""
        self._attached = True
        described = {(info.source, info.name): info for info in self._described}
        self._by_mid = {}
        for key, remote in tuple(self._tracks.items()):
            if key not in described or described[key].kind is not remote.kind:
                self._remove(remote)
        for key, info in described.items():
            held = self._tracks.get(key)
            if held is None:
                track_id = TrackId(self._member, info.source, info.name)
                held = self._tracks[key] = _Remote(track_id, info.kind, FrameHub(info.kind))
            self._by_mid[info.mid] = held
            muted = self._said.get(key, info.muted)
            if not held.live:
                held.live = True
                self._emit(TrackAdded(held.track_id, held.hub))
                if held.muted and muted:  # whoever lost it has forgotten that
                    self._emit(TrackMuted(held.track_id, True))
            self._mute(held, muted)

    def detach(self) -> None:
        """The connection is gone; the tracks may come back with the next one."""
        self._attached, self._described, self._by_mid, self._said = False, (), {}, {}
        for remote in self._tracks.values():
            if remote.live:
                remote.live = False
                self._emit(TrackRemoved(remote.track_id))

    def end(self) -> None:
        """The member is gone."""
        for remote in tuple(self._tracks.values()):
            self._remove(remote)

    def set_muted(self, source: str, name: str, muted: bool) -> None:
        """Take word of the member that a track is muted or not."""
        self._said.pop((source, name), None)
        if len(self._said) >= _MAX_SAID:
            del self._said[next(iter(self._said))]
        self._said[source, name] = muted
        remote = self._tracks.get((source, name))
        if remote is not None:
            self._mute(remote, muted)

    def subscribe(self, track_id: TrackId, wanted: bool) -> None:
        """Hand out the frames of a track, or not."""
        remote = self._tracks.get((track_id.source, track_id.name))
        if remote is not None:
            remote.wanted = wanted

    def sink(self, mid: str, kind: Kind) -> FrameHub | None:
        """Name the hub for a frame of a media section."""
        remote = self._by_mid.get(mid)
        if remote is None or remote.kind is not kind or not remote.wanted:
            return None
        return remote.hub

    def _mute(self, remote: _Remote, muted: bool) -> None:
        if remote.muted != muted:
            remote.muted = muted
            self._emit(TrackMuted(remote.track_id, muted))

    def _remove(self, remote: _Remote) -> None:
        # The hub ends first: that tells this removal from one that may be undone.
        del self._tracks[remote.track_id.source, remote.track_id.name]
        remote.hub.end()
        if remote.live:
            remote.live = False
            self._emit(TrackRemoved(remote.track_id))
