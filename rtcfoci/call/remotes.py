"""The others in a call and what they publish, as the application sees them.

In: participants, tracks that keep their identity while connections come and go, and the patience with
which both are given up. Out: who is in the session (`presence`), connections (`foci`, `link`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rtcfoci.call import events as ev
from rtcfoci.call.link import Link
from rtcfoci.core.model import Member, Membership
from rtcfoci.media.tracks import FrameHub, RemoteTrack, TrackId
from rtcfoci.plugin import events as pe

__all__ = ["Participant", "Remotes"]

_LOST_GRACE_S = 30.0
"""How long a track whose connection was lost may be without a feed before it counts as removed."""
_ENDED_GRACE_S = 1.0
"""The same when its frames have ended too: a dying focus says so as well, just before it is gone."""
_LINGER_S = 30.0
"""How long a member stays whose membership is gone while its media flows (design.md, invariant 1)."""
_LINGER_LOOK_S = 0.25
_MAX_EARLY_MEMBERS = 64
_MAX_EARLY_EVENTS = 16


class Participant:
    """Another device in the session; the same object for as long as it stays."""

    def __init__(
        self, membership: Membership, trusts: Callable[[str, str | None], bool | None]
    ) -> None:
        self.membership = membership
        self._trusts = trusts
        self.tracks: dict[TrackId, RemoteTrack] = {}
        """What it publishes now."""

    @property
    def member(self) -> Member:
        return self.membership.member

    @property
    def user_id(self) -> str:
        return self.membership.member.user_id

    @property
    def device_id(self) -> str | None:
        return self.membership.member.device_id

    @property
    def trusted(self) -> bool | None:
        """Whether its device is cross-signed; None: nothing is known of that, as in a clear room."""
        return self._trusts(self.user_id, self.device_id)

    def __repr__(self) -> str:
        return f"Participant({self.member})"


class _Feed(NamedTuple):
    """What brings a track now."""

    link: Link
    hub: FrameHub


class Remotes:
    """Participants and their tracks.

    :param tell: takes every event for the application.
    :param changed: called when somebody who lingered is given up, so that the foci follow.
    :param trusts: says whether a device is cross-signed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[ev.CallEvent], None],
        changed: Callable[[], None],
        trusts: Callable[[str, str | None], bool | None],
    ) -> None:
        self._trusts = trusts
        self.participants: dict[Member, Participant] = {}
        self._loop = loop
        self._tell = tell
        self._changed = changed
        self._feeds: dict[TrackId, _Feed] = {}
        self._orphans: dict[TrackId, tuple[asyncio.TimerHandle, Link]] = {}
        """Tracks without a feed: when they are given up, and which link brought them last."""
        self._early: dict[Member, list[tuple[Link, pe.TrackAdded | pe.TrackMuted]]] = {}
        """What links report of somebody whose membership has not arrived."""
        self._lingering: dict[Member, asyncio.TimerHandle] = {}

    @property
    def lingering(self) -> Mapping[Member, Membership]:
        """Members that are out of the session and still sending."""
        return {member: self.participants[member].membership for member in self._lingering}

    def joined(self, membership: Membership) -> None:
        """Take in a member, or welcome back one whose media never stopped."""
        timer = self._lingering.pop(membership.member, None)
        if timer is not None:
            timer.cancel()
            self.changed(membership)
            return
        self._replace(membership.member)
        participant = self.participants[membership.member] = Participant(membership, self._trusts)
        self._tell(ev.ParticipantJoined(participant))
        for link, event in self._early.pop(membership.member, ()):
            self.take(link, event)

    def changed(self, membership: Membership) -> None:
        """Note what a member says of itself now."""
        participant = self.participants.get(membership.member)
        if participant is not None:
            participant.membership = membership
            self._tell(ev.ParticipantChanged(participant))

    def left(self, member: Member, reason: str, *, may_linger: bool) -> None:
        """Let a member go: at once, or, if it may linger, when its media has stopped as well.

        A homeserver that comes back after an outage withdraws members whose media never stopped, and
        who join again within seconds.
        """
        participant = self.participants.get(member)
        if participant is None:
            return
        if may_linger and any(track_id in self._feeds for track_id in participant.tracks):
            self._linger(participant, reason, self._loop.time() + _LINGER_S)
        else:
            self._remove(participant, reason)

    def take(self, link: Link, event: pe.TrackAdded | pe.TrackRemoved | pe.TrackMuted) -> None:
        """Follow what a link reports of tracks."""
        track_id = event.track_id
        participant = self.participants.get(track_id.member)
        if isinstance(event, pe.TrackRemoved):
            self._forget_early(link, track_id)
            feed = self._feeds.get(track_id)
            if feed is not None and feed.link is link:
                self._orphan(track_id, link, _ENDED_GRACE_S if feed.hub.ended else _LOST_GRACE_S)
        elif participant is None:
            self._keep_early(track_id.member, link, event)
        elif isinstance(event, pe.TrackAdded):
            self._added(participant, link, track_id, event.hub)
        elif (track := participant.tracks.get(track_id)) is not None:
            track.muted = event.muted
            self._tell(ev.TrackMuted(track))

    def link_gone(self, link: Link) -> None:
        """Whatever came through this link has no feed until another brings it."""
        self._forget_early(link)
        lost = [t for t, feed in self._feeds.items() if feed.link is link]
        lost += [t for t, (_, last) in self._orphans.items() if last is link]
        for track_id in lost:
            self._orphan(track_id, link, _LOST_GRACE_S)

    def close(self) -> None:
        """End every track, without events."""
        for timer in (*self._lingering.values(), *(t for t, _ in self._orphans.values())):
            timer.cancel()
        self._lingering.clear()
        self._orphans.clear()
        for participant in self.participants.values():
            for track in participant.tracks.values():
                track.end()
        self.participants.clear()

    def _replace(self, member: Member) -> None:
        """Give up an earlier join of the same device: one device never shows as two."""
        for other in list(self._lingering):
            same_device = (other.user_id, other.device_id) == (member.user_id, member.device_id)
            if same_device and member.device_id is not None:
                self._remove(self.participants[other], "replaced")

    def _linger(self, participant: Participant, reason: str, until_s: float) -> None:
        member = participant.member
        sends = any(track_id in self._feeds for track_id in participant.tracks)
        if sends and self._loop.time() < until_s:
            self._lingering[member] = self._loop.call_later(
                _LINGER_LOOK_S, self._linger, participant, reason, until_s
            )
            return
        self._lingering.pop(member, None)
        self._remove(participant, reason)
        self._changed()

    def _remove(self, participant: Participant, reason: str) -> None:
        timer = self._lingering.pop(participant.member, None)
        if timer is not None:
            timer.cancel()
        for track_id in list(participant.tracks):
            self._remove_track(participant, track_id)
        self.participants.pop(participant.member, None)
        self._tell(ev.ParticipantLeft(participant, reason))

    def _added(
        self, participant: Participant, link: Link, track_id: TrackId, hub: FrameHub
    ) -> None:
        back = track_id in self._orphans
        self._adopt(track_id)
        track = participant.tracks.get(track_id)
        new = track is None
        if track is None:
            track = participant.tracks[track_id] = RemoteTrack(track_id, hub.kind)
        track.attach(hub)
        self._feeds[track_id] = _Feed(link, hub)
        if new:
            self._tell(ev.TrackAdded(track))
        elif back and track.muted:  # published anew; that it is muted would be said again
            track.muted = False
            self._tell(ev.TrackMuted(track))

    def _keep_early(self, member: Member, link: Link, event: pe.TrackAdded | pe.TrackMuted) -> None:
        # Media may outrun the membership by a sync; a stranger cannot make us keep much.
        if member in self._early or len(self._early) < _MAX_EARLY_MEMBERS:
            waiting = self._early.setdefault(member, [])
            if len(waiting) < _MAX_EARLY_EVENTS:
                waiting.append((link, event))

    def _forget_early(self, link: Link, track_id: TrackId | None = None) -> None:
        """What a link no longer brings, all or one track of it, is not given to a late member."""
        for member, waiting in list(self._early.items()):
            waiting[:] = [
                (by, event)
                for by, event in waiting
                if by is not link or track_id not in (None, event.track_id)
            ]
            if not waiting:
                del self._early[member]

    def _orphan(self, track_id: TrackId, link: Link, grace_s: float) -> None:
        """A track lost its feed: it is removed unless another comes in time."""
        self._feeds.pop(track_id, None)
        self._adopt(track_id)
        participant = self.participants.get(track_id.member)
        track = participant.tracks.get(track_id) if participant else None
        if participant is not None and track is not None:
            track.detach()
            due = self._loop.call_later(grace_s, self._remove_track, participant, track_id)
            self._orphans[track_id] = due, link

    def _adopt(self, track_id: TrackId) -> None:
        due, _ = self._orphans.pop(track_id, (None, None))
        if due is not None:
            due.cancel()

    def _remove_track(self, participant: Participant, track_id: TrackId) -> None:
        self._adopt(track_id)
        self._feeds.pop(track_id, None)
        track = participant.tracks.pop(track_id, None)
        if track is not None:
            track.end()
            self._tell(ev.TrackRemoved(track))
