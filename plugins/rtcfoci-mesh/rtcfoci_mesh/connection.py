"""The mesh as a connection: the roster, our own tracks, and the way between two loops.

In: what the call asks of a connection. Out: each member (`peer`), the transport's descriptor and
everything before there is a connection (`backend`).

The call's methods run on the call's loop, the peers on the media loop. Signals go out on the call's
loop, one after the other for each member, so that a slow answer for one holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rtcfoci.core.model import JsonObject, Member, Membership, Transport
from rtcfoci.errors import BackendError, RtcfociError
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci.plugin import (
    ConditionCleared,
    Connection,
    ConnectionStats,
    Context,
    Health,
    Quality,
    SignalSecurity,
)
from rtcfoci_mesh.conditions import FULL, LAGGING, NO_CONCEALMENT, UNSENT, raised
from rtcfoci_mesh.config import IceServer, MeshConfig
from rtcfoci_mesh.data import AppData, pack
from rtcfoci_mesh.engine import MeshEngine
from rtcfoci_mesh.ice import IceServers
from rtcfoci_mesh.loop import MediaLoop
from rtcfoci_mesh.peer import Peer
from rtcfoci_mesh.roster import Seat, own_seat, read_seat, seated
from rtcfoci_mesh.wire import MAX_TRACKS

__all__ = ["MeshConnection", "MeshDrill"]

_EARLY_SIGNALS = 4
_EARLY_MEMBERS = 32
_EARLY_S = 10.0
_OUTBOX = 8
"""Signals that wait for one member; a later one makes earlier ones void."""
_FULL_S = 5.0
_CALM_S = 10.0
_T = TypeVar("_T")


class MeshConnection(Connection):
    """Every member of the mesh, and our tracks to all of them.

    :param media_loop: makes the loop that the engine lives on.
    :param random_bytes: where names that nobody else may have come from.
    """

    def __init__(
        self,
        context: Context,
        config: MeshConfig,
        engine: MeshEngine,
        ice: IceServers,
        transport: Transport,
        *,
        types: Iterable[str],
        media_loop: Callable[[Callable[[float], None]], MediaLoop] = MediaLoop,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        super().__init__(context)
        self.config = config
        self.engine = engine
        self.muted: set[TrackId] = set()
        self._ice = ice
        self._types = tuple(types)
        self._call_loop = asyncio.get_running_loop()
        self._own = own_seat(context.member, transport)
        self._seats: dict[Member, Seat] = {}
        self._full: set[Member] = set()
        self._peers: dict[Member, Peer] = {}
        self._tracks: dict[TrackId, LocalTrack] = {}
        self._early: dict[Member, deque[tuple[float, JsonObject]]] = {}
        self._outbox: dict[Member, deque[JsonObject]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._calm: asyncio.TimerHandle | None = None
        self._closed = False
        self._random_bytes = random_bytes
        self._media = media_loop(self._lagging)
        engine.watch(self._troubled)
        if not engine.conceals:
            self.emit(raised(NO_CONCEALMENT, "libopus was not found"))

    # The call's side

    async def set_own(self, membership: Membership) -> None:
        """Learn our own place: where our clock is ahead it is not what we announced."""
        seat = read_seat(membership, self._types)
        if seat != self._own:
            self._own = seat
            await self._media.run(self._reconcile(()))

    async def set_members(
        self,
        added: Sequence[Membership],
        changed: Sequence[Membership],
        removed: Sequence[Membership],
    ) -> None:
        """Follow the roster."""
        back: list[Member] = []
        for membership in removed:
            self._seats.pop(membership.member, None)
        for membership in (*added, *changed):
            seat = read_seat(membership, self._types)
            held = self._seats.get(seat.member)
            if held is not None and held.claimed_ts_ms != seat.claimed_ts_ms:
                back.append(seat.member)
            self._seats[seat.member] = seat
        await self._media.run(self._reconcile(back))

    async def publish(self, track: LocalTrack) -> None:
        """Send a track to every member."""
        same = sum(t.kind is track.kind for t in self._tracks.values())
        if track.track_id not in self._tracks and same >= MAX_TRACKS:
            raise BackendError(
                f"A member of a mesh publishes at most {MAX_TRACKS} {track.kind.value} tracks.",
                why="every track is sent once to each member",
                do="unpublish one first",
            )
        await self._media.run(self._publish(track))

    async def unpublish(self, track_id: TrackId) -> None:
        """Stop sending a track."""
        await self._media.run(self._unpublish(track_id))

    async def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Send nothing of a track while it is muted, and say so."""
        await self._media.run(self._mute(track_id, muted))

    async def set_subscribed(self, track_id: TrackId, quality: Quality) -> None:
        """Hand out a remote track or not; a mesh has one quality."""
        await self._media.run(self._subscribe(track_id, quality is not Quality.OFF))

    async def send_data(
        self, payload: bytes, *, topic: str, reliable: bool, to: Iterable[Member] | None = None
    ) -> None:
        """Send to members; reliable messages wait for a connection, lossy ones do not.

        Nobody waits for a member that cannot be reached. When no more is kept for one, a message to all
        goes to the others, and a condition names it; a message to itself is refused.
        """
        frame = pack(AppData(topic, payload))
        members = None if to is None else tuple(to)
        deadline_s = self._call_loop.time() + _FULL_S
        while members is None or members:
            refused = await self._media.run(self._send(frame, reliable, members, to is not None))
            if not refused:
                return
            if self._call_loop.time() > deadline_s:
                raise BackendError(
                    "Data could not be sent to " + ", ".join(map(str, refused)) + ".",
                    why="they do not take data as fast as it is sent",
                    do="send less, or later",
                    retryable=True,
                )
            members = refused
            await asyncio.sleep(0.05)

    async def on_signal(
        self, member: Member, payload: JsonObject, security: SignalSecurity
    ) -> None:
        """Take a signal; one that overtakes its sender's membership waits for it."""
        try:
            await self._media.run(self._signalled(member, payload))
        except BackendError:
            if not self._closed:  # signals may still be on their way when we close
                raise

    def health(self) -> Health:
        """Answer from memory.

        A mesh has no focus that could be gone or frozen: while the connection is open it stands, and
        members that are silent show in conditions.
        """
        times = (peer.last_media_s for peer in tuple(self._peers.values()))
        return Health(
            connected=not self._closed,
            last_media_s=max((t for t in times if t is not None), default=None),
        )

    async def stats(self) -> ConnectionStats:
        """Figures per member, and of the media loop."""
        return await self._media.run(self._stats())

    def extension(self, kind: type[_T]) -> _T | None:
        """Give `MeshDrill`."""
        drill = MeshDrill(self)
        return drill if isinstance(drill, kind) else None

    async def suspend(self, suspended: bool, member: Member | None) -> None:
        """See `MeshDrill.suspend`."""
        await self._media.run(self._suspend(suspended, member))

    async def _close(self) -> None:
        self._closed = True
        try:
            await self._media.run(self._close_peers())
        finally:
            await self._media.stop()

    # The media loop's side

    async def _reconcile(self, back: Sequence[Member]) -> None:
        await asyncio.gather(*(peer.close() for peer in self._sort(back)))

    def _sort(self, back: Sequence[Member]) -> list[Peer]:
        """Meet who fits; give those that must go."""
        fits = seated(
            (self._own, *self._seats.values()),
            max_video=self.config.max_video_members,
            max_audio=self.config.max_audio_members,
        )
        own = self._own.member
        meets = fits - {own} if own in fits else set()
        # An established pair is never dropped for want of room; one that tries, or tries again in vain, is.
        stay = {m for m, p in self._peers.items() if p.established and m not in back}
        keep = (stay | meets) & set(self._seats)
        gone = [self._peers.pop(m) for m in tuple(self._peers) if m not in keep]
        for member in sorted(keep, key=lambda m: m.order):
            peer = self._peers.get(member)
            if peer is None:
                self._meet(self._seats[member])
            elif member in back:
                peer.restarted()
        apart = {m for m in self._seats if m not in self._peers}
        full = ({own} if apart else set()) | apart
        self._report_full(full - fits, len(fits))
        return gone

    def _report_full(self, full: set[Member], seats: int) -> None:
        for member in sorted(full - self._full, key=lambda m: m.order):
            cause = f"{seats} came before it, and a mesh has no more room"
            self.emit(raised(FULL, cause, str(member)))
        for member in sorted(self._full - full, key=lambda m: m.order):
            self.emit(ConditionCleared(FULL.code, str(member)))
        self._full = full

    def _meet(self, seat: Seat) -> None:
        member = seat.member
        peer = Peer(
            self, member, offerer=self._own.member.order < member.order, needs_video=seat.video
        )
        self._peers[member] = peer
        peer.begin()
        since_s = self._media.time() - _EARLY_S
        for at_s, payload in self._early.pop(member, ()):
            if at_s > since_s:
                peer.receive(payload)

    async def _publish(self, track: LocalTrack) -> None:
        self._tracks[track.track_id] = track
        (self.muted.add if track.muted else self.muted.discard)(track.track_id)
        for peer in self._peers.values():
            peer.set_muted(track.track_id, track.muted)
            peer.tracks_changed()

    async def _unpublish(self, track_id: TrackId) -> None:
        if self._tracks.pop(track_id, None) is None:
            return
        self.muted.discard(track_id)
        for peer in self._peers.values():
            peer.tracks_changed(gone=track_id)

    async def _mute(self, track_id: TrackId, muted: bool) -> None:
        if track_id not in self._tracks or (track_id in self.muted) == muted:
            return
        (self.muted.add if muted else self.muted.discard)(track_id)
        for peer in self._peers.values():
            peer.set_muted(track_id, muted)

    async def _subscribe(self, track_id: TrackId, wanted: bool) -> None:
        peer = self._peers.get(track_id.member)
        if peer is not None:
            peer.subscribe(track_id, wanted)

    async def _send(
        self, frame: bytes, reliable: bool, to: Sequence[Member] | None, named: bool
    ) -> tuple[Member, ...]:
        slow, unreached = [], []
        for member in tuple(self._peers) if to is None else to:
            peer = self._peers.get(member)
            if peer is None and not named:
                continue  # it left while it was waited for
            if peer is None:
                unreached.append(member)
            elif not peer.send_data(frame, reliable=reliable) and reliable:
                if peer.connected:
                    slow.append(member)
                elif named:
                    unreached.append(member)
                else:
                    peer.lost_data()
        if unreached:
            raise BackendError(
                "Data cannot be sent to " + ", ".join(map(str, unreached)) + ".",
                why="they are not in the mesh, or cannot be reached while enough waits for them",
                do="send to members that are, or again once they can be reached",
                retryable=True,
            )
        return tuple(slow)

    async def _signalled(self, member: Member, payload: JsonObject) -> None:
        peer = self._peers.get(member)
        if peer is not None:
            peer.receive(payload)
            return
        if member not in self._early and len(self._early) >= _EARLY_MEMBERS:
            del self._early[next(iter(self._early))]
        waiting = self._early.setdefault(member, deque(maxlen=_EARLY_SIGNALS))
        waiting.append((self._media.time(), payload))

    async def _suspend(self, suspended: bool, member: Member | None) -> None:
        for other, peer in self._peers.items():
            if member is None or member == other:
                peer.suspend(suspended)

    async def _stats(self) -> ConnectionStats:
        return ConnectionStats(
            pairs=tuple(peer.stats() for peer in self._peers.values()),
            extras={"lag_ms": 1000 * self._media.lag_s, "errors": self._media.errors},
        )

    async def _close_peers(self) -> None:
        peers, self._peers = tuple(self._peers.values()), {}
        await asyncio.gather(*(peer.close() for peer in peers), *self._leaving)

    def _lagging(self, late_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._calm is None:
            self.emit(raised(LAGGING, f"media was late by {1000 * late_s:.0f} ms"))
            self.context.log.warning("the media loop was late by %.0f ms", 1000 * late_s)
        else:
            self._calm.cancel()
        self._calm = loop.call_later(_CALM_S, self._calmed)

    def _calmed(self) -> None:
        self._calm = None
        self.emit(ConditionCleared(LAGGING.code))

    def _troubled(self, track_id: TrackId, why: str | None) -> None:
        subject = str(track_id)
        cleared = ConditionCleared(UNSENT.code, subject)
        self.emit(cleared if why is None else raised(UNSENT, why, subject))

    # What peers are given (`peer.Host`), on the media loop

    def tracks(self) -> Sequence[LocalTrack]:
        """Give our own tracks."""
        return tuple(self._tracks.values())

    def new_instance(self) -> str:
        """Give a fresh random word."""
        return self._random_bytes(8).hex()

    def now_s(self) -> float:
        """Give the call's clock."""
        return self.context.now().s

    def rearrange(self) -> None:
        """Look again who stays."""
        for peer in self._sort(()):
            leaving = asyncio.get_running_loop().create_task(peer.close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def ice_servers(self) -> Sequence[IceServer]:
        """Give the servers to gather with."""
        known = self._ice.known()
        if known is not None:
            return known
        asked = asyncio.run_coroutine_threadsafe(self._ice.get(), self._call_loop)
        return await asyncio.wrap_future(asked)

    def ice_refused(self) -> None:
        """Take note that a server refused our credentials."""
        self._ice.refused()

    def send_signal(self, member: Member, payload: JsonObject) -> None:
        """Queue a signal for a member."""
        with contextlib.suppress(RuntimeError):  # the call's loop is gone, and so is the call
            self._call_loop.call_soon_threadsafe(self._enqueue, member, payload)

    # Signals going out, on the call's loop

    def _enqueue(self, member: Member, payload: JsonObject) -> None:
        if self._closed:
            return
        waiting = self._outbox.get(member)
        if waiting is not None:
            waiting.append(payload)
            return
        self._outbox[member] = deque([payload], maxlen=_OUTBOX)
        self.context.spawn(self._drain(member), name=f"mesh signals to {member}")

    async def _drain(self, member: Member) -> None:
        waiting = self._outbox[member]
        try:
            while waiting:
                try:
                    await self.context.send_signal(member, waiting.popleft())
                except RtcfociError as error:
                    # It is sent again, or its attempt times out.
                    self.context.count("signals_unsent")
                    self.context.log.info("a mesh signal to %s failed: %s", member, error.what)
        finally:
            del self._outbox[member]


class MeshDrill:
    """Faults on demand, for tests and drills: `connection.extension(MeshDrill)`."""

    def __init__(self, connection: MeshConnection) -> None:
        self._connection = connection

    async def suspend(self, suspended: bool = True, *, member: Member | None = None) -> None:
        """Send nothing to a member, or to all, on the connections there are now."""
        await self._connection.suspend(suspended, member)
