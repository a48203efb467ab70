"""One member of the mesh: the negotiation, the session it drives, the tracks behind it.

In: running effects, watching that the member lives, keeping the member's tracks the same while
connections to it come and go. Out: who is in the mesh (`connection`), the rules of negotiation
(`signalling`). Everything here runs on the media loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Protocol

from rtcfoci.core.model import JsonObject, Member
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import (
    ConditionCleared,
    ConditionRaised,
    ConnectionEvent,
    DataReceived,
    FirstMedia,
    PairStats,
)
from rtcfoci_mesh import steps
from rtcfoci_mesh.conditions import DATA_LOST, raised
from rtcfoci_mesh.config import IceServer, MeshConfig
from rtcfoci_mesh.data import Acknowledged, AppData, Mute, Ping, Pong, Small, Stream, pack, unpack
from rtcfoci_mesh.delivery import WINDOW_BYTES, Delivery
from rtcfoci_mesh.engine import (
    Diagnosis,
    EngineError,
    LocalDescription,
    MeshEngine,
    PeerSession,
    SessionOptions,
)
from rtcfoci_mesh.meter import Meter
from rtcfoci_mesh.signalling import Negotiation
from rtcfoci_mesh.tracks import RemoteTracks
from rtcfoci_mesh.wire import Lines, TrackInfo, write_signal

__all__ = ["Host", "Peer"]

_CLOSED_PATIENCE_S = 2.0
"""A member that ends the connection is about to leave; the roster says so within this time."""
_APART_S = 30.0
"""So long a pair that lost its connection keeps a place that it would not get anew."""
_LATE_BYTES = 1 << 16
"""Lossy messages behind so many bytes would come late: they are dropped instead."""
_LOOK_EVERY_S = 0.5


class Host(Protocol):
    """What a peer is given by its connection; called on the media loop."""

    config: MeshConfig
    engine: MeshEngine
    muted: set[TrackId]

    def tracks(self) -> Sequence[LocalTrack]:
        """Give our own tracks."""

    async def ice_servers(self) -> Sequence[IceServer]:
        """Give the servers to gather with."""

    def ice_refused(self) -> None:
        """Take note that a server refused our credentials."""

    def emit(self, event: ConnectionEvent) -> None:
        """Report an event."""

    def send_signal(self, member: Member, payload: JsonObject) -> None:
        """Queue a signal for a member."""

    def new_instance(self) -> str:
        """Give a fresh random word."""

    def now_s(self) -> float:
        """Give the call's clock."""

    def rearrange(self) -> None:
        """Look again who stays: a pair is not established any more."""


class Peer:
    """One member. :param needs_video: whether the member means to send video."""

    def __init__(self, host: Host, member: Member, *, offerer: bool, needs_video: bool) -> None:
        self.member = member
        self.last_media_s: float | None = None
        self.rtt_ms: float | None = None
        self._connections = 0
        self._host = host
        self._subject = str(member)
        self._loop = asyncio.get_running_loop()
        expected = Lines(audio=1, video=int(needs_video))
        self._negotiation = Negotiation(
            host.new_instance(),
            offerer=offerer,
            need=self._need() | expected if offerer else self._need(),
            connect_timeout_s=host.config.connect_timeout_s,
            resend_s=host.config.resend_s,
        )
        self._session: PeerSession | None = None
        self._handle: _Events | None = None
        self._works: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tracks = RemoteTracks(member, host.emit)
        self._delivery = Delivery(
            host.new_instance(), partial(self._transmit, reliable=True), self._loop.call_later
        )
        self._conditions: set[str] = set()
        self._lost_code = "peer_unreachable"
        self._diagnosis = Diagnosis()
        self._pings: dict[int, float] = {}
        self._ping_number = 0
        self._meter = Meter()
        self._met = False
        self.established: bool = False
        """Whether there is a connection, or was until just now."""
        self._apart: asyncio.TimerHandle | None = None
        self._closed = False

    # What the connection asks of a peer

    @property
    def connected(self) -> bool:
        """Whether media can flow."""
        return self._negotiation.connected

    @property
    def rebuilt(self) -> int:
        """How many connections to this member came after the first."""
        return max(0, self._connections - 1)

    def begin(self) -> None:
        """Start reaching the member."""
        self._feed(steps.Begin())

    def restarted(self) -> None:
        """Take note that the member came back under the same id."""
        self._feed(steps.Restarted())

    def receive(self, payload: JsonObject) -> None:
        """Take a signal of the member."""
        self._feed(steps.Received(payload))

    def tracks_changed(self, gone: TrackId | None = None) -> None:
        """Take note that our own tracks changed."""
        if gone is not None and self._session is not None:
            self._session.drop(gone)
        self._feed(steps.TracksChanged(self._need()))

    def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Stop or resume sending one of our tracks, and say so."""
        if self._session is not None:
            self._session.set_muted(track_id, muted)
            self._say(Mute(track_id.source, track_id.name, muted))

    def subscribe(self, track_id: TrackId, wanted: bool) -> None:
        """Hand out the frames of a track, or not."""
        self._tracks.subscribe(track_id, wanted)

    def send_data(self, frame: bytes, *, reliable: bool) -> bool:
        """Send to the member; a reliable message is kept until it has come. False: not taken."""
        if reliable:
            return self._delivery.send(frame)
        if self._session is None or not self._delivery.open:
            return False
        late = self._session.buffered(reliable=False) > _LATE_BYTES
        return not late and self._transmit(frame, reliable=False)

    def lost_data(self) -> None:
        """Say that a reliable message was not taken, and will never come."""
        if DATA_LOST.code not in self._conditions:
            self._conditions.add(DATA_LOST.code)
            cause = f"{WINDOW_BYTES >> 10} KiB wait for it already"
            self._host.emit(raised(DATA_LOST, cause, self._subject))

    def suspend(self, suspended: bool) -> None:
        """Send nothing at all to the member while suspended."""
        if self._session is not None:
            self._session.suspend(suspended)

    def stats(self) -> PairStats:
        """Figures about the member."""
        return self._meter.figures(
            self.member,
            state="connected" if self.connected else self._negotiation.state.value,
            rebuilt=self.rebuilt,
            rtt_ms=self.rtt_ms if self.connected else None,
            extras={"signals_dropped": sum(self._negotiation.dropped.values())},
        )

    async def close(self) -> None:
        """Let go of the member: its tracks end."""
        self._closed = True
        for timer in (self._timer, self._apart):
            if timer is not None:
                timer.cancel()
        self._end_session()
        self._tracks.end()
        for code in tuple(self._conditions):
            self._clear(code)
        await asyncio.gather(*self._works, *self._closing, return_exceptions=True)

    # Negotiation

    def _need(self) -> Lines:
        kinds = [track.kind for track in self._host.tracks()]
        return Lines(kinds.count(Kind.AUDIO), kinds.count(Kind.VIDEO))

    def _feed(self, event: steps.Input) -> None:
        if self._closed:
            return
        for effect in self._negotiation.handle(event, self._loop.time()):
            self._run(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._negotiation.timer
        if due_s is not None:
            self._timer = self._loop.call_at(due_s, self._feed, steps.Tick())

    def _run(self, effect: steps.Effect) -> None:
        match effect:
            case steps.Open(attempt):
                self._handle = _Events(self, attempt)
                self._meter.opened(self._loop.time())
            case steps.Close():
                self._end_session()
            case steps.MakeOffer(attempt, lines):
                self._work(attempt, partial(self._offer, attempt, lines))
            case steps.MakeAnswer(attempt, sdp, tracks):
                self._work(attempt, partial(self._answer, attempt, sdp, tracks))
            case steps.Apply(attempt, sdp, tracks):
                self._work(attempt, partial(self._apply, attempt, sdp, tracks))
            case steps.Send(signal):
                self._host.send_signal(self.member, write_signal(signal))
            case steps.Unreachable(cause):
                if self._lost_code:
                    self._raise(self._lost_code, cause, self._diagnosis)
                self._lost_code = "peer_unreachable"

    def _work(self, attempt: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
        async def guarded() -> None:
            try:
                await work()  # made here: it may be cancelled before it begins
            except EngineError as error:
                cause = f"{error.what}: {error.why}" if error.why else error.what
                self._lose(attempt, cause, code=error.code, patience_s=1.0)

        task = self._loop.create_task(guarded())
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def _open_session(self, attempt: str) -> PeerSession | None:
        if self._session is None:
            servers = await self._host.ice_servers()
            if attempt != self._negotiation.attempt or self._closed or self._handle is None:
                return None
            config = self._host.config
            options = SessionOptions(
                ice_servers=servers,
                loopback=config.loopback,
                gather_timeout_s=config.gather_timeout_s,
                relay_only=config.relay_only,
            )
            self._session = self._host.engine.open(options, self._handle)
            for track_id in self._host.muted:
                self._session.set_muted(track_id, True)
        return self._session

    async def _offer(self, attempt: str, lines: Lines) -> None:
        session = await self._open_session(attempt)
        if session is not None:
            description = await session.offer(self._host.tracks(), lines)
            self._tell(attempt, description, description.lines)

    async def _answer(self, attempt: str, sdp: str, tracks: tuple[TrackInfo, ...]) -> None:
        session = await self._open_session(attempt)
        if session is not None:
            description = await session.answer(sdp, self._host.tracks())
            if attempt == self._negotiation.attempt:
                self._tracks.describe(tracks)
            self._tell(attempt, description, self._need())

    async def _apply(self, attempt: str, sdp: str, tracks: tuple[TrackInfo, ...]) -> None:
        session = self._session
        if session is not None:
            await session.apply(sdp)
            if attempt == self._negotiation.attempt:
                self._tracks.describe(tracks)
            self._feed(steps.Applied(attempt))

    def _tell(self, attempt: str, description: LocalDescription, lines: Lines) -> None:
        infos = tuple(
            TrackInfo(
                mid=description.placed[track.track_id],
                kind=track.kind,
                source=track.track_id.source,
                name=track.track_id.name,
                muted=track.track_id in self._host.muted,
            )
            for track in self._host.tracks()
            if track.track_id in description.placed
        )
        self._feed(steps.Described(attempt, description.sdp, infos, lines))

    def _end_session(self) -> None:
        session, self._session, self._handle = self._session, None, None
        for task in self._works:
            if task is not asyncio.current_task():
                task.cancel()
        # What was tried, while the session still knows.
        self._diagnosis = Diagnosis() if session is None else session.explain()
        if self._diagnosis.refused:
            self._host.ice_refused()
        self._meter.ended()
        self._delivery.ended()
        self._tracks.detach()
        if self.established and self._apart is None and not self._closed:
            self._apart = self._loop.call_later(_APART_S, self._drift_apart)
        if session is not None:
            closing = self._loop.create_task(session.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _drift_apart(self) -> None:
        # Maybe the connection stood on our side alone, and the member has no place for us.
        self._apart, self.established = None, False
        self._host.rearrange()

    # What a session reports, through `_Events`

    def _connected(self, attempt: str) -> None:
        if attempt != self._negotiation.attempt or self.connected:
            return
        self._connections += 1
        self.established = True
        if self._apart is not None:
            self._apart.cancel()
            self._apart = None
        self._feed(steps.Connected(attempt))
        self._meter.connected(self._loop.time())
        for code in tuple(self._conditions):
            self._clear(code)
        self._tracks.attach()
        watch = self._loop.create_task(self._watch(attempt))
        self._works.add(watch)
        watch.add_done_callback(self._works.discard)

    def _lose(
        self, attempt: str, cause: str, *, code: str = "peer_unreachable", patience_s: float = 0.0
    ) -> None:
        if attempt != self._negotiation.attempt or self._closed:
            return
        self._lost_code = code
        self._feed(steps.Failed(attempt, cause, patience_s))

    def _opened(self) -> None:
        for track in self._host.tracks():
            track_id = track.track_id
            self._say(Mute(track_id.source, track_id.name, track_id in self._host.muted))
        self._delivery.opened()

    def _message(self, data: bytes, *, reliable: bool) -> None:
        match unpack(data):
            case AppData(topic, payload, number) if (number is not None) == reliable:
                self._came()
                if number is None or self._delivery.is_next(number, len(data)):
                    self._host.emit(DataReceived(self.member, payload, topic, reliable))
                else:
                    self._negotiation.dropped["double_message"] += 1
            case (Stream() | Acknowledged()) as told if reliable and self._delivery.take(told):
                return
            case Mute(source, name, muted):
                self._tracks.set_muted(source, name, muted)
            case Ping(number):
                self._say(Pong(number), reliable=False)
            case Pong(number):
                sent_s = self._pings.pop(number, None)
                if sent_s is not None:
                    self.rtt_ms = 1000 * (self._loop.time() - sent_s)
            case _:
                self._negotiation.dropped["bad_message"] += 1

    def _came(self) -> None:
        self.last_media_s = self._host.now_s()
        if not self._met:
            self._met = True
            self._host.emit(FirstMedia(self.member))

    def _say(self, message: Small, *, reliable: bool = True) -> None:
        # Before the channels are open it is not said: `_opened` tells what is muted and what is not.
        self._transmit(pack(message), reliable=reliable)

    def _transmit(self, frame: bytes, *, reliable: bool) -> bool:
        try:
            if self._session is not None:
                self._session.send(frame, reliable=reliable)
                return True
        except EngineError:
            pass
        return False

    async def _watch(self, attempt: str) -> None:
        """Notice within `stall_s` that the member is silent; a live one is heard once a second."""
        config, seen, last_s, before_s = self._host.config, -1, 0.0, self._loop.time()
        pinged_s = 0.0
        while attempt == self._negotiation.attempt and self._session is not None:
            now_s = self._loop.time()
            packets = self._session.packets_received
            # When we were late ourselves, silence proves nothing.
            if packets != seen or now_s - before_s > 3 * _LOOK_EVERY_S:
                seen, last_s = packets, now_s
            elif now_s - last_s >= config.stall_s:
                cause = f"nothing came for {now_s - last_s:.1f} s"
                self._lose(attempt, cause, code="media_stalled")
                return
            if now_s - pinged_s >= config.ping_s:
                pinged_s = now_s
                self._ping_number += 1
                self._pings[self._ping_number] = now_s
                self._pings.pop(self._ping_number - 10, None)
                self._say(Ping(self._ping_number), reliable=False)
            self._meter.take(await self._session.stats(), now_s)
            before_s = now_s
            await asyncio.sleep(_LOOK_EVERY_S)

    # Conditions

    def _raise(self, code: str, cause: str, found: Diagnosis) -> None:
        self._conditions.add(code)
        said = f"{cause}; {found.cause}" if found.cause else cause
        remedy = "" if code == "media_stalled" else found.remedy
        self._host.emit(ConditionRaised(code, said, self._subject, remedy=remedy))

    def _clear(self, code: str) -> None:
        self._conditions.discard(code)
        self._host.emit(ConditionCleared(code, self._subject))


class _Events:
    """A session's way back to its peer: silent once the attempt is over."""

    def __init__(self, peer: Peer, attempt: str) -> None:
        self._peer = peer
        self._attempt = attempt

    @property
    def _current(self) -> bool:
        return self._peer._handle is self

    def connected(self) -> None:
        if self._current:
            self._peer._connected(self._attempt)

    def lost(self, cause: str, *, closed: bool) -> None:
        if self._current:
            # Ended by the member: no condition unless the next attempt fails too.
            code, patience_s = ("", _CLOSED_PATIENCE_S) if closed else ("peer_unreachable", 0.0)
            self._peer._lose(self._attempt, cause, code=code, patience_s=patience_s)

    def opened(self) -> None:
        if self._current:
            self._peer._opened()

    def message(self, data: bytes, *, reliable: bool) -> None:
        if self._current:
            self._peer._message(data, reliable=reliable)

    def sink(self, mid: str, kind: Kind) -> FrameHub | None:
        return self._peer._tracks.sink(mid, kind) if self._current else None

    def received(self, mid: str) -> None:
        if self._current:
            self._peer._came()

    def handed(self, *, concealed: bool = False) -> None:
        if self._current:
            self._peer._meter.frame(concealed=concealed)
