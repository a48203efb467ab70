"""One connection key of one backend, kept connected and in step.

In: connecting and reconnecting, bringing roster, keys, tracks and signals to the connection in their
order, watching its health. Out: which links there are and who is on them (`rtcfoci.call.foci`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rtcfoci.core.key_messages import Key
from rtcfoci.core.model import JsonObject, Member, Membership, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import LocalTrack
from rtcfoci.plugin.backend import Backend, Connection, Role, SignalSecurity
from rtcfoci.plugin.context import Context
from rtcfoci.plugin.events import ConnectionEvent
from rtcfoci.plugin.hookspecs import FocusType

__all__ = ["Link", "LinkObserver", "Offer"]

_HEALTH_INTERVAL_S = 0.5
_PING_DEADLINE_S = 3.0
"""A focus that acknowledges pings and stops for this long is dead: with the interval, within 4 s."""
_RETRY_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIGNALS_WAITING = 200
_CONNECT_TIMEOUT_S = 15.0
"""A focus that has not let us in by then has failed, whatever its backend still waits for."""
_STEADY_S = 10.0
"""A connection that stood for this long was no part of a row of failures."""
_CLOSE_TIMEOUT_S = 5.0
"""A backend that closes more slowly is left behind."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A place where we could publish."""

    focus_type: FocusType
    backend: Backend
    transport: Transport


class LinkObserver(Protocol):
    """Who is told what happens on links; all on the call's loop."""

    def on_link_event(self, link: Link, event: ConnectionEvent) -> None: ...
    def on_link_up(self, link: Link) -> None: ...
    def on_link_down(self, link: Link, error: BackendError) -> None:
        """The connection failed or died; the link goes on trying by itself."""

    def on_dropped(self, count: int) -> None:
        """The connection reported data and speaking faster than it was read."""


class Link:
    """One connection key of one backend: connected, reconnected, kept in step.

    :param key: the backend's name for the connection.
    :param keyed: whether nothing may be published here before media keys are set.
    """

    def __init__(
        self,
        offer: Offer,
        key: str,
        roles: frozenset[Role],
        observer: LinkObserver,
        spawn: Callable[..., asyncio.Task[None]],
        context: Context,
        *,
        keyed: bool = False,
    ) -> None:
        self.offer = offer
        self.key = key
        self.roles: frozenset[Role] = roles
        self.connection: Connection | None = None
        self.members: dict[Member, Membership] = {}
        self.own: Membership | None = None
        self.tracks: dict[object, LocalTrack] = {}
        self.keyed: bool = keyed
        self.keys: Mapping[tuple[Member, int], Key] = {}
        self.key_index: int | None = None
        self.failures: int = 0
        self._observer = observer
        self._context = context
        self._applied: dict[Member, Membership] = {}
        self._applied_own: Membership | None = None
        self._applied_keys: dict[tuple[Member, int], Key] = {}
        self._applied_index: int | None = None
        self._published: dict[object, tuple[LocalTrack, bool]] = {}
        self._signals: deque[tuple[Member, JsonObject, SignalSecurity]] = deque(
            maxlen=_SIGNALS_WAITING
        )
        self._dirty = asyncio.Event()
        self._again = asyncio.Event()
        self._closed = False
        self._task = spawn(self._run(), name=f"link {offer.focus_type.type} {key}")

    @property
    def focus_type(self) -> FocusType:
        return self.offer.focus_type

    @property
    def up(self) -> bool:
        """Whether the connection stands."""
        return self.connection is not None

    def set_members(self, members: Iterable[Membership]) -> None:
        """Say who is reached through this link from now on."""
        self.members = {m.member: m for m in members}
        self._dirty.set()

    def set_own(self, membership: Membership | None) -> None:
        """Say how our own membership reads; None: nobody has seen it yet, or it is gone."""
        if membership is not None:
            self.own = membership
            self._dirty.set()

    def set_tracks(self, tracks: Iterable[LocalTrack]) -> None:
        """Say what we publish here from now on; call again when a track was muted."""
        can = self.focus_type.capabilities
        kinds = {Kind.AUDIO: can.audio, Kind.VIDEO: can.video}
        self.tracks = {track.track_id: track for track in tracks if kinds[track.kind]}
        self._dirty.set()

    def set_keys(self, keys: Mapping[tuple[Member, int], Key], index: int | None) -> None:
        """Say which media keys there are, and which of ours is in use; None: not yet any."""
        if self.keyed:
            self.keys, self.key_index = keys, index
            self._dirty.set()

    def require(self, roles: frozenset[Role]) -> None:
        """Make sure that the connection has these roles; connects anew when one is missing."""
        if not roles <= self.roles:
            self.roles |= roles
            self._again.set()

    def signal(self, member: Member, payload: JsonObject, security: SignalSecurity) -> None:
        """Hand over a signal; kept, bounded, until the connection stands."""
        self._signals.append((member, payload, security))
        self._dirty.set()

    async def aclose(self) -> None:
        """Close and stop trying; idempotent."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task], timeout=2 * _CLOSE_TIMEOUT_S)
        connection, self.connection = self.connection, None
        if connection is not None:
            await _close_quietly(connection)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            if not self._again.is_set():
                await asyncio.sleep(_RETRY_S[min(self.failures, len(_RETRY_S) - 1)])
            self._again.clear()
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    connection = await self._connect()
            except TimeoutError:
                self._fail(_closed_door())
                continue
            except Exception as error:
                self._fail(self._named(error))
                continue
            began_s = loop.time()
            self.connection = connection
            self._applied, self._applied_own, self._published = {}, None, {}
            self._applied_keys, self._applied_index = {}, None
            self._dirty.set()
            reader = asyncio.create_task(self._read(connection))
            keeper = asyncio.create_task(self._keep(connection))
            watcher = asyncio.create_task(self._watch(connection))
            again = asyncio.create_task(self._again.wait())
            tasks = (reader, keeper, watcher, again)
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                errors = [t.exception() for t in done if not t.cancelled()]
            finally:
                for task in tasks:
                    task.cancel()
                self.connection = None
                await asyncio.gather(*tasks, return_exceptions=True)
                await _close_quietly(connection)
            if loop.time() - began_s > _STEADY_S:
                self.failures = 0
            if not self._again.is_set():
                self._fail(self._named(next((e for e in errors if e), _gone())))

    async def _connect(self) -> Connection:
        backend = self.offer.backend
        await backend.prepare(self.offer.transport)
        # Shielded: cancelling returns at once, and a late success is closed in the background.
        attempt = asyncio.ensure_future(backend.connect(self.key, self.offer.transport, self.roles))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            attempt.cancel()
            attempt.add_done_callback(_close_late)
            raise

    def _named(self, error: BaseException) -> BackendError:
        """A backend that raises anything else breaks its contract, but must not end the call."""
        if isinstance(error, BackendError):
            return error
        self._context.log.error("the backend broke its contract", exc_info=error)
        return BackendError(
            f"the {self.focus_type.type} backend failed unexpectedly",
            why=f"{type(error).__name__} escaped from it",
            do="report it to the authors of that plugin, with the log",
            retryable=True,
        )

    def _fail(self, error: BackendError) -> None:
        self.failures += 1
        self._observer.on_link_down(self, error)

    async def _read(self, connection: Connection) -> None:
        async for event in connection.events():
            self._observer.on_link_event(self, event)

    async def _keep(self, connection: Connection) -> None:
        """Bring members, tracks and signals to the connection, in that order, as they change."""
        first = True
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self.keyed:
                # A key belongs to a member that the connection knows, and comes before any media.
                await self._apply_members(connection)
                await self._apply_keys(connection)
            await self._apply_tracks(connection)
            await self._apply_members(connection)
            while self._signals:
                await self._hand_over(connection, *self._signals.popleft())
            if first:
                first = False
                self._observer.on_link_up(self)

    async def _hand_over(
        self, connection: Connection, member: Member, payload: JsonObject, security: SignalSecurity
    ) -> None:
        try:
            await connection.on_signal(member, payload, security)
        except Exception as error:
            # What one member sends must not cost us the connection to all the others.
            self._context.count("signals_failed")
            self._context.log.warning("a signal of %s failed: %s", member, type(error).__name__)

    async def _apply_members(self, connection: Connection) -> None:
        own = self.own
        if own is not None and own != self._applied_own:
            await connection.set_own(own)
            self._applied_own = own
        wanted = self.members
        added = [m for k, m in wanted.items() if k not in self._applied]
        changed = [m for k, m in wanted.items() if k in self._applied and self._applied[k] != m]
        removed = [m for k, m in self._applied.items() if k not in wanted]
        if added or changed or removed:
            await connection.set_members(added, changed, removed)
            self._applied = dict(wanted)

    async def _apply_keys(self, connection: Connection) -> None:
        for (member, index), key in self.keys.items():
            theirs = member in self.members
            if not (theirs or member == self._context.member):
                continue
            if self._applied_keys.get((member, index)) is key:
                continue
            try:
                await connection.set_key(member, index, key.reveal())
            except Exception as error:
                if not theirs:
                    raise
                # What one member sends must not cost us the connection to all the others.
                self._context.count("keys_failed")
                self._context.log.warning("a key of %s failed: %s", member, type(error).__name__)
            self._applied_keys[member, index] = key
        if self.key_index is not None and self.key_index != self._applied_index:
            await connection.use_key(self.key_index)
            self._applied_index = self.key_index

    async def _apply_tracks(self, connection: Connection) -> None:
        if Role.PUBLISH not in self.roles or (self.keyed and self._applied_index is None):
            return
        wanted = self.tracks
        for track_id, (track, _) in list(self._published.items()):
            if wanted.get(track_id) is not track:  # another may have taken its name
                del self._published[track_id]
                await connection.unpublish(track.track_id)
        for track_id, track in wanted.items():
            muted = track.muted  # it may change while we wait, and then we come again
            _, muted_before = self._published.get(track_id, (track, False))
            if track_id not in self._published:
                await connection.publish(track)
            if muted != muted_before:
                await connection.set_muted(track.track_id, muted)
            self._published[track_id] = (track, muted)

    async def _watch(self, connection: Connection) -> None:
        dropped = 0
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            if connection.dropped_events > dropped:
                self._observer.on_dropped(connection.dropped_events - dropped)
                dropped = connection.dropped_events
            health = connection.health()
            if not health.connected:
                raise _gone()
            if health.last_ping_s is not None:
                silent_s = self._context.now().s - health.last_ping_s
                if silent_s > _PING_DEADLINE_S:
                    raise BackendError(
                        "the focus is frozen",
                        why=f"it acknowledged nothing for {silent_s:.1f} s",
                        do="nothing: another focus, or a new connection, is tried",
                        retryable=True,
                    )


def _closed_door() -> BackendError:
    return BackendError(
        "the focus did not let us in",
        why=f"connecting took longer than {_CONNECT_TIMEOUT_S:.0f} s",
        do="nothing: another focus, or a new connection, is tried",
        retryable=True,
    )


def _gone() -> BackendError:
    return BackendError(
        "the focus closed the connection",
        why="its server ended or dropped us",
        do="nothing: another focus, or a new connection, is tried",
        retryable=True,
    )


def _close_late(attempt: asyncio.Future[Connection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        closing = asyncio.ensure_future(_close_quietly(attempt.result()))
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)


_CLOSING: set[asyncio.Future[None]] = set()


async def _close_quietly(connection: Connection) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await connection.aclose()
    except Exception as error:  # it is gone either way, and must not hold up our leaving
        connection.context.log.warning("closing a connection failed: %s", type(error).__name__)
