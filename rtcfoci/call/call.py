"""A call as an application sees it: participants, tracks, data, conditions, one stream of events.

In: the `Call` and its `Participant`s. Out: how it comes up and goes (`join`), our own membership
(`presence`), connections (`foci`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from rtcfoci.call import events as ev
from rtcfoci.call.clock import ServerClock
from rtcfoci.call.foci import Foci
from rtcfoci.call.link import Link, Offer
from rtcfoci.call.locals import Locals
from rtcfoci.call.metrics import METRICS
from rtcfoci.call.remotes import Participant, Remotes
from rtcfoci.call.sessions import wall_now
from rtcfoci.call.stats import FocusStats, gather
from rtcfoci.core.conditions import Condition, Conditions
from rtcfoci.core.dialects.notification import NotificationKind
from rtcfoci.core.diffs import SessionDiff
from rtcfoci.core.key_messages import Key
from rtcfoci.core.model import JsonObject, Member, Membership, Now, RoomEvent, Slot
from rtcfoci.core.signals import Signal
from rtcfoci.errors import BackendError, MediaError, Problem, RtcfociError, UsageError
from rtcfoci.matrix.client import MatrixClient, ToDevice
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack, RemoteTrack, TrackId
from rtcfoci.plugin import events as pe
from rtcfoci.plugin.backend import Quality
from rtcfoci.plugin.hookspecs import Security
from rtcfoci.plugin.stream import EventStream

if TYPE_CHECKING:
    from rtcfoci.call.keys import MediaKeys
    from rtcfoci.call.presence import Presence
    from rtcfoci.call.ringing import Calling
    from rtcfoci.call.signalling import Signalling
    from rtcfoci.call.trace import Trace

__all__ = ["Call", "Participant"]

_T = TypeVar("_T")
_MAY_LINGER = frozenset({"left", "expired"})
"""Reasons for being out of the session that a homeserver's outage can cause."""
_TASKS_TIMEOUT_S = 5.0
"""Work of a backend that does not let itself be cancelled in time is left behind."""
_log = logging.getLogger("rtcfoci.call")


class Call:
    """One participation in one slot; made by `rtcfoci.join`, never directly."""

    def __init__(
        self,
        client: MatrixClient,
        slot: Slot,
        member: Member,
        *,
        encrypted: bool,
        announced: frozenset[Kind],
        now: Callable[[], Now] | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        trace: Trace | None = None,
    ) -> None:
        self.client = client
        self.slot = slot
        self.member = member
        """Who we are in this call; a new member id at every join."""
        self.encrypted = encrypted
        """Whether the room is encrypted."""
        self.announced = announced
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.counters: Counter[str] = Counter()
        self._sealed_before = client.sealed(slot.room_id)
        self.random_bytes = random_bytes
        self.trace = trace
        """Records what goes into the core and what comes out; None when nobody asked."""
        self.clock: ServerClock = ServerClock(now or wall_now)
        self._stream: EventStream[ev.CallEvent] = EventStream(
            droppable=(ev.DataReceived, ev.SpeakingChanged)
        )
        self._remotes = Remotes(self.loop, self._stream.put, self._follow, client.trusts)
        self._session: Sequence[Membership] = ()
        self._conditions = Conditions()
        if trace is not None:
            trace.watch("conditions", self._conditions)
            trace.on_failed = partial(self.recording_failed, "the trace")
        self._locals = Locals(
            member, self.loop, lambda tracks: self.foci.set_tracks(tracks), self.on_condition
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: dict[Link, set[tuple[str, str]]] = {}
        self._qualities: WeakKeyDictionary[RemoteTrack, Quality] = WeakKeyDictionary()
        self._ended = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        self.ended_by: Condition | None = None
        """The terminal condition that ended the call; None while it goes on, or when we left."""
        self.remarks: tuple[str, ...] = ()
        """Where others will not see us, though nothing is wrong (`rtcfoci.call.preflight`)."""
        self._closers: list[Callable[[], Coroutine[object, object, None]]] = []
        self.foci: Foci
        self.calling: Calling
        self.presence: Presence
        self.signalling: Signalling
        self.keys: MediaKeys | None = None
        """None where nothing is protected by media keys."""

    # What an application asks.

    @property
    def room_id(self) -> str:
        return self.slot.room_id

    @property
    def participants(self) -> tuple[Participant, ...]:
        """Everybody else in the session, oldest first."""
        return tuple(
            sorted(
                self._remotes.participants.values(),
                key=lambda p: (p.membership.created_ts_ms, p.member.order),
            )
        )

    @property
    def tracks(self) -> tuple[RemoteTrack, ...]:
        """Every remote track."""
        return tuple(t for p in self.participants for t in p.tracks.values())

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is not well now."""
        return tuple(self._conditions)

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters of this call, such as refused signals, by their published names
        (`rtcfoci.call.metrics`).
        """
        sealed = asdict(self.client.sealed(self.room_id).since(self._sealed_before))
        counted = {f"sealed_{what}": count for what, count in sealed.items()}
        return {**dict.fromkeys(METRICS, 0), **self.counters, **counted}

    @property
    def focus_type(self) -> str:
        """The type of the focus we publish on."""
        return self.foci.own_offer.focus_type.type

    def events(self) -> AsyncIterator[ev.CallEvent]:
        """Yield what happens, from the join on, until `CallEnded`; one reader.

        When the reader lags, data and speaking events are dropped, and counted.
        """
        return self._stream.read()

    async def publish(self, hub: FrameHub, *, source: str = "", name: str = "") -> LocalTrack:
        """Publish a stream of frames as a track; when its source dies, it is muted (`source_failed`).

        :param source: `microphone` or `camera` unless said otherwise.
        :param name: tells equal sources apart; the source's ordinal unless said otherwise.
        :raises UsageError: when the track exists, or the focus cannot carry its kind.
        """
        self._require_running()
        focus = self.foci.own_offer.focus_type
        return self._locals.publish(hub, focus, source=source, name=name)

    async def unpublish(self, track: LocalTrack) -> None:
        """Stop publishing a track; idempotent."""
        self._locals.unpublish(track)

    async def mute(self, track: LocalTrack, muted: bool = True) -> None:
        """Mute or unmute a local track: nothing of it is sent meanwhile, and the others are told."""
        self._locals.mute(track, muted)

    async def subscribe(self, track: RemoteTrack, quality: Quality) -> None:
        """Say how much of a remote track is wanted, on whatever focus it comes; it starts at `HIGH`."""
        self._qualities[track] = quality
        for link in self.foci.links_of(track.track_id.member):
            if link.connection is not None:
                await link.connection.set_subscribed(track.track_id, quality)

    async def send_data(
        self,
        payload: bytes,
        *,
        topic: str = "",
        reliable: bool = True,
        to: Iterable[Member] | None = None,
    ) -> None:
        """Send data to the members named, or to all.

        :raises BackendError: when it is too large, or no focus is connected.
        """
        self._require_running()
        links = [link for link in self.foci.publishing_links() if link.connection is not None]
        if not links:
            raise BackendError(
                "no focus is connected",
                why="the connection is still being made, or was lost",
                do="wait for the condition focus_failed to clear, then send again",
                retryable=True,
            )
        security = links[-1].focus_type.data_security
        if self.encrypted and security in (Security.NONE, Security.HOP) and not self.insecure:
            raise BackendError(
                "data is not sent in clear from an encrypted room",
                why=f"{links[-1].focus_type.type} protects data only as '{security.value}'",
                do="join with allow_insecure=True if the application can bear that",
            )
        connection = links[-1].connection
        assert connection is not None
        await connection.send_data(payload, topic=topic, reliable=reliable, to=to)

    insecure = False
    """Whether the application accepted less protection than the room asks."""

    async def ring(
        self,
        users: Iterable[str] | None = None,
        *,
        kind: NotificationKind = "ring",
        lifetime_s: float = 90.0,
    ) -> str:
        """Tell others of this call (MSC4075); give back the id of the notification.

        Who declines it is told by `CallDeclined`. Who begins a call rings, so: `if not call.participants`.

        :param users: user ids; everybody in the room unless given, which needs power there (usually 50).
        :param kind: `ring`, or a mere `notification`.
        :param lifetime_s: how long it counts, at most 120.
        :raises UsageError: when nobody would hear it.
        :raises ClientError: when the homeserver refuses or does not answer.
        """
        self._require_running()
        return await self.calling.ring(users, kind=kind, lifetime_s=lifetime_s)

    async def stats(self) -> tuple[FocusStats, ...]:
        """Give the figures of every focus that we are connected to, member by member."""
        return await gather(self.foci.links)

    def extension(self, kind: type[_T]) -> _T | None:
        """Return a backend's typed extra from the first connection that has it."""
        for link in self.foci.links:
            found = link.connection.extension(kind) if link.connection else None
            if found is not None:
                return found
        return None

    def recording_failed(self, subject: str, error: MediaError | str) -> None:
        """Tell of a recording that ended early, as a condition; thread-safe, for a recorder's thread:
        `Recorder(path, epoch_ns=..., on_error=partial(call.recording_failed, path.name))`.
        """
        cause = error if isinstance(error, str) else f"{error.what}: {error.why}"
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the call over
            self.loop.call_soon_threadsafe(self._raise, "recording_failed", subject, cause)

    async def leave(self) -> None:
        """Leave: withdraw the membership, close the connections. Idempotent.

        Cancelling this stops the waiting, not the leaving.
        """
        await asyncio.shield(self._finish_once(None))

    async def wait_ended(self) -> None:
        """Wait until the call is over, by `leave` or by a terminal condition."""
        await self._ended.wait()

    # What the parts report.

    def now(self) -> Now:
        """Give our monotonic clock and the homeserver's."""
        return self.clock.now()

    def spawn(
        self, work: Coroutine[object, object, None], *, name: str, vital: bool = False
    ) -> asyncio.Task[None]:
        """Run work that ends with the call.

        :param vital: whether the call ends when it fails.
        """
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_done, vital))
        return task

    async def send_signal(self, focus_type: str, member: Member, payload: JsonObject) -> None:
        await self.signalling.send(focus_type, member, payload)

    def on_closing(self, close: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run this when the call ends, last registered first."""
        self._closers.append(close)

    def on_to_device(self, message: ToDevice) -> None:
        self.signalling.receive(message)
        if self.keys is not None:
            self.keys.receive(message)

    def on_signal(self, signal: Signal) -> None:
        """Hand a believed signal to the backend it is for."""
        if not self.foci.signal(signal.focus_type, signal.member, signal.payload, signal.security):
            self.counters["signals_refused.no_such_focus"] += 1

    def on_members(self, members: Sequence[Membership]) -> None:
        """The session changed: bring the foci into step."""
        self._session = members
        self._follow()
        self.signalling.members_changed(m.member for m in members)

    def _follow(self) -> None:
        lingering = tuple(self._remotes.lingering.values())
        if self.keys is not None:
            self.keys.members_changed(self._session, lingering)
        self.foci.follow((*self._session, *lingering))

    def on_keys(self, keys: Mapping[tuple[Member, int], Key], index: int | None) -> None:
        self.foci.set_keys(keys, index)

    def on_event(self, event: RoomEvent, changes: Sequence[SessionDiff], now: Now) -> None:
        for user_id, event_id in self.calling.receive(event, changes, now):
            self._stream.put(ev.CallDeclined(user_id, event_id))

    def on_ignored(self, sender: str, problems: Sequence[Problem]) -> None:
        self.counters["events_ignored"] += 1
        _log.info("ignored a membership of %s: %s", sender, ", ".join(p.code for p in problems))

    def on_joined(self, membership: Membership) -> None:
        if membership.member != self.member:
            self._remotes.joined(membership)

    def on_changed(self, membership: Membership) -> None:
        self._remotes.changed(membership)

    def on_left(self, member: Member, reason: str) -> None:
        self._remotes.left(member, reason, may_linger=reason in _MAY_LINGER)

    def on_own_focus(self, offer: Offer, reason: str) -> None:
        self._stream.put(ev.FocusChanged(offer.focus_type.type, reason))
        self.presence.move_to(offer)

    def on_condition(
        self, code: str, subject: str, cause: str | None, retry_at_s: float | None = None
    ) -> None:
        if cause is None:
            self._clear(code, subject)
        else:
            self._raise(code, subject, cause, retry_at_s=retry_at_s)

    def on_link_up(self, link: Link) -> None:
        self.foci.on_link_up(link)

    def on_link_down(self, link: Link, error: BackendError) -> None:
        self.on_link_gone(link)
        self.foci.on_link_down(link, error)

    def on_link_gone(self, link: Link) -> None:
        self._remotes.link_gone(link)
        for code, subject in self._said.pop(link, ()):
            self._clear(code, subject)

    def on_link_event(self, link: Link, event: pe.ConnectionEvent) -> None:
        match event:
            case pe.TrackAdded() | pe.TrackRemoved() | pe.TrackMuted():
                self._remotes.take(link, event)
                if isinstance(event, pe.TrackAdded):
                    self._keep_quality(link, event.track_id)
            case pe.DataReceived(member, payload, topic, reliable):
                if member in self._remotes.participants:
                    self._tell_or_drop(ev.DataReceived(member, payload, topic, reliable))
            case pe.Speaking(member, level):
                if member in self._remotes.participants:
                    self._tell_or_drop(ev.SpeakingChanged(member, level))
            case pe.ConditionRaised(code, cause, subject, what, remedy, terminal):
                self._said.setdefault(link, set()).add((code, subject))
                self._raise(code, subject, cause, what=what, remedy=remedy)
                if terminal:
                    _log.warning("%s says it cannot go on: %s", link.focus_type.type, cause)
            case pe.ConditionCleared(code, subject):
                self._said.get(link, set()).discard((code, subject))
                self._clear(code, subject)
            case pe.KeyProblem(member, index, problem):
                self.counters[f"keys_{problem}"] += 1
                _log.info("media key %d of %s: %s", index, member, problem)
                if self.keys is not None:
                    self.keys.problem(member, index, problem)
            case pe.FirstMedia(member):
                if self.keys is not None:
                    self.keys.heard(member)

    def _keep_quality(self, link: Link, track_id: TrackId) -> None:
        """Ask a focus to which a track moved for as much of it as the former one was asked for."""
        participant = self._remotes.participants.get(track_id.member)
        track = participant.tracks.get(track_id) if participant else None
        quality = self._qualities.get(track) if track else None
        if quality is not None and link.connection is not None:
            self.spawn(
                link.connection.set_subscribed(track_id, quality), name=f"subscribe {track_id}"
            )

    def _tell_or_drop(self, event: ev.DataReceived | ev.SpeakingChanged) -> None:
        """Tell the application, or count and say that it reads too slowly."""
        before = self._stream.dropped
        self._stream.put(event)
        if self._stream.dropped > before:
            self.on_dropped(1)

    def on_dropped(self, count: int) -> None:
        self.counters["events_dropped"] += count
        self._raise("events_dropped", "", "too many are waiting to be read")

    def _raise(
        self,
        code: str,
        subject: str,
        cause: str,
        *,
        what: str = "",
        remedy: str = "",
        retry_at_s: float | None = None,
        terminal: bool | None = None,
    ) -> None:
        condition = self._conditions.raise_(
            code,
            self.now(),
            cause=cause,
            subject=subject,
            what=what,
            remedy=remedy,
            retry_at_s=retry_at_s,
            terminal=terminal,
        )
        if condition is not None:
            self._stream.put(ev.ConditionRaised(condition))
            if condition.terminal:
                self._finish_once(condition)

    def _clear(self, code: str, subject: str) -> None:
        condition = self._conditions.clear(code, subject)
        if condition is not None:
            self._stream.put(ev.ConditionCleared(replace(condition, retry_at_s=None)))

    def _require_running(self) -> None:
        if self._finishing is not None:
            raise UsageError(
                "the call is over", why="we left, or a terminal condition ended it", do="join again"
            )

    def _task_done(self, vital: bool, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        assert error is not None
        if isinstance(error, RtcfociError) and not vital:
            self._raise("focus_failed", task.get_name(), str(error).replace("\n", ": "))
            return
        _log.error("%s failed", task.get_name(), exc_info=error)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]  # a task group's own message says nothing
        cause = f"{type(error).__name__}: {error}"
        self._raise("internal_error", task.get_name(), cause, terminal=vital)

    def _finish_once(self, condition: Condition | None) -> asyncio.Task[None]:
        """Begin to leave, in a task of its own: who waits for it may be cancelled, we must not be."""
        if self._finishing is None:
            self.ended_by = condition
            self._finishing = self.loop.create_task(self._finish(condition), name="leave")
        return self._finishing

    async def _finish(self, condition: Condition | None) -> None:
        try:
            for close in reversed(self._closers):
                try:
                    await close()
                except RtcfociError as error:
                    _log.warning("leaving: %s", error.what)
                except Exception:  # the rest has to be closed all the same
                    _log.exception("leaving failed in part")
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_TASKS_TIMEOUT_S)
            self._remotes.close()
        finally:
            self._stream.put(ev.CallEnded(condition))
            self._stream.close()
            self._ended.set()
