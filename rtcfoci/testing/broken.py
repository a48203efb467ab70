"""Backends that break one promise each: proof that the suite can fail, and for what.

In: for every test of the suite, a memory backend with the fault it is there to find. Out: the suite
(`conformance`). Whoever adds a test to the suite adds here the backend that fails it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from rtcfoci.core.model import JsonObject, Member, Membership, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import AudioFrame, Frame
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci.plugin.backend import DoctorHop, Health, LeaveDelegation, Quality, Role
from rtcfoci.plugin.events import (
    ConditionRaised,
    ConnectionEvent,
    DataReceived,
    KeyProblem,
    TrackAdded,
    TrackMuted,
    TrackRemoved,
)
from rtcfoci.plugin.hookspecs import FocusType, Topology
from rtcfoci.plugin.stats import ConnectionStats, PairStats
from rtcfoci.plugin.stream import EventStream
from rtcfoci.testing.memory import Elected, MemoryBackend, MemoryConnection, Pairwise
from rtcfoci.testing.memory_types import rtcfoci_focus_types

__all__ = ["BROKEN"]

_Broken = TypeVar("_Broken", MemoryBackend, MemoryConnection)
_BACKENDS: dict[str, type[MemoryBackend]] = {}


def _fails(
    *tests: str, base: type[MemoryBackend] = Elected
) -> Callable[[type[_Broken]], type[_Broken]]:
    """Say which tests of the suite a backend, or a connection of `base`, must fail."""

    def register(broken: type[_Broken]) -> type[_Broken]:
        for test in tests:
            if issubclass(broken, MemoryConnection):
                _BACKENDS[f"test_{test}"] = _connecting(broken, base)
            elif issubclass(broken, MemoryBackend):
                _BACKENDS[f"test_{test}"] = broken
        return broken

    return register


def _connecting(made: type[MemoryConnection], base: type[MemoryBackend]) -> type[MemoryBackend]:
    async def connect(
        self: MemoryBackend, key: str, transport: Transport, roles: frozenset[Role]
    ) -> MemoryConnection:
        connection = made(self, self._place(transport), roles)
        await self.world.enter(connection)
        return connection

    return type(made.__name__, (base,), {"connect": connect})


@_fails("own_transports_are_offered_and_written")
class _RendersNothing(Elected):
    def render(self, transport: Transport, dialect: str) -> JsonObject:
        return {} if dialect == "D3" else transport.raw


@_fails("transports_keep_unknown_keys")
class _RendersWhatItKnows(Elected):
    def render(self, transport: Transport, dialect: str) -> JsonObject:
        return {key: transport.raw[key] for key in ("type", "focus")}


@_fails("foreign_transports_are_left_alone")
class _ClaimsAll(Elected):
    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        return [*await super().local_transports(advertised), *advertised]


@_fails("malformed_transports_raise_backend_errors_only")
class _ReadsUnchecked(Elected):
    def connection_key(
        self, transport: Transport, member: Member, local_transports: Sequence[Transport]
    ) -> str | None:
        return str(transport.raw["focus"])


@_fails("an_unreachable_focus_is_a_retryable_error")
class _GivesUpForGood(Elected):
    async def connect(
        self, key: str, transport: Transport, roles: frozenset[Role]
    ) -> MemoryConnection:
        try:
            return await super().connect(key, transport, roles)
        except BackendError as error:
            raise BackendError(error.what, why=error.why) from error


@_fails(
    "a_cancelled_connect_returns_at_once", "a_cancelled_connect_to_a_frozen_focus_returns_at_once"
)
class _ConnectsStubbornly(Elected):
    async def connect(
        self, key: str, transport: Transport, roles: frozenset[Role]
    ) -> MemoryConnection:
        for _ in range(3):
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                continue  # as a library does that cannot be cancelled
        return await super().connect(key, transport, roles)


@_fails("preparing_can_be_repeated_or_left_out")
class _NeedsPreparing(Elected):
    async def connect(
        self, key: str, transport: Transport, roles: frozenset[Role]
    ) -> MemoryConnection:
        if not self._tokens:
            raise BackendError("there is no token", why="prepare() was not called")
        return await super().connect(key, transport, roles)


@_fails("a_closed_focus_can_be_connected_to_again")
class _ConnectsOnce(Elected):
    async def connect(
        self, key: str, transport: Transport, roles: frozenset[Role]
    ) -> MemoryConnection:
        self.world.tokens[str(self.context.member)] += 1
        if self.world.tokens[str(self.context.member)] > 1:
            raise BackendError("already connected", why="the first connection is remembered")
        return await super().connect(key, transport, roles)


@_fails("the_delayed_leave_can_be_delegated")
class _RefusesLeaves(Elected):
    async def delegate_leave(self, transport: Transport, leave: LeaveDelegation) -> bool:
        return False


@_fails("what_it_tells_a_doctor_has_a_remedy")
class _ComplainsOnly(Elected):
    def doctor_hops(self) -> Sequence[DoctorHop]:
        async def check() -> BackendError:
            return BackendError("the focus does not answer", why="it is down")

        return (DoctorHop("focus", check),)


@_fails("closing_twice_is_harmless")
class _ClosesOnce(MemoryConnection):
    async def aclose(self) -> None:
        if not self._stream.close():
            raise BackendError("already closed")
        await self._close()


@_fails("the_event_stream_ends_at_close")
class _ClosesHalf(MemoryConnection):
    async def aclose(self) -> None:
        self.world.leave(self)


@_fails("nothing_is_left_behind")
class _LeavesTasks(MemoryConnection):
    async def _close(self) -> None:
        await super()._close()
        self.pinging = asyncio.create_task(asyncio.sleep(60))


@_fails("the_roster_is_idempotent")
class _AddsTwice(MemoryConnection):
    async def set_members(
        self,
        added: Sequence[Membership],
        changed: Sequence[Membership],
        removed: Sequence[Membership],
    ) -> None:
        if removed and not self.members >= {m.member for m in removed}:
            raise KeyError("this member is not there")
        await super().set_members(added, changed, removed)


@_fails("a_member_who_leaves_takes_its_tracks_along")
class _KeepsMembers(MemoryConnection):
    async def set_members(
        self,
        added: Sequence[Membership],
        changed: Sequence[Membership],
        removed: Sequence[Membership],
    ) -> None:
        await super().set_members(added, changed, ())


@_fails("a_late_joiner_sees_what_is_published")
class _TellsMutesOnce(MemoryConnection):
    def emit(self, event: ConnectionEvent) -> None:
        new = isinstance(event, TrackMuted) and event.track_id not in self.off
        if isinstance(event, TrackAdded):
            self.context.call_later(0.01, lambda: self.off.discard(event.track_id))
            self.off.add(event.track_id)
        if not isinstance(event, TrackMuted) or new:
            super().emit(event)


@_fails("publishing_before_anybody_is_there")
class _ForgetsEarlyTracks(MemoryConnection):
    async def publish(self, track: LocalTrack) -> None:
        if self.members:
            await super().publish(track)


@_fails("every_kind_of_track_arrives_under_its_identity")
class _NamesTracksItself(MemoryConnection):
    def emit(self, event: ConnectionEvent) -> None:
        if isinstance(event, TrackAdded):
            event = TrackAdded(replace(event.track_id, name="0"), event.hub)
        super().emit(event)


@_fails("what_arrives_is_what_was_sent")
class _SendsSilence(MemoryConnection):
    def take_frame(self, track_id: TrackId, frame: Frame, index: int, key: bytes | None) -> None:
        if isinstance(frame, AudioFrame):
            frame = replace(frame, pcm=bytes(len(frame.pcm)))
        super().take_frame(track_id, frame, index, key)


@_fails("an_unpublished_track_goes")
class _KeepsTracks(MemoryConnection):
    async def unpublish(self, track_id: TrackId) -> None:
        return None


@_fails("muting_is_told_and_stops_the_frames")
class _SendsWhileMuted(MemoryConnection):
    async def set_muted(self, track_id: TrackId, muted: bool) -> None:
        await super().set_muted(track_id, muted)
        self.muted.clear()


@_fails("one_track_feeds_two_connections")
class _TakesTracksAway(MemoryConnection):
    async def publish(self, track: LocalTrack) -> None:
        for other in self.world.connections:
            await other.unpublish(track.track_id)
        await super().publish(track)


@_fails("subscriptions_switch_frames")
class _SendsUnasked(MemoryConnection):
    async def set_subscribed(self, track_id: TrackId, quality: Quality) -> None:
        return None


@_fails("reliable_data_comes_in_order")
class _Overtakes(MemoryConnection):
    def take(self, event: DataReceived) -> None:
        delay_s = 0.3 if event.payload[:1] == b"\7" else 0.0
        self.context.call_later(delay_s, lambda: MemoryConnection.take(self, event))


@_fails("lossy_data_comes")
class _CallsItReliable(MemoryConnection):
    def take(self, event: DataReceived) -> None:
        super().take(replace(event, reliable=True))


@_fails("data_comes_only_to_those_named")
class _TellsAll(MemoryConnection):
    async def send_data(
        self, payload: bytes, *, topic: str, reliable: bool, to: Iterable[Member] | None = None
    ) -> None:
        await super().send_data(payload, topic=topic, reliable=reliable)


@_fails("oversize_data_is_refused_clearly")
class _CutsData(MemoryConnection):
    async def send_data(
        self, payload: bytes, *, topic: str, reliable: bool, to: Iterable[Member] | None = None
    ) -> None:
        await super().send_data(payload[:1000], topic=topic, reliable=reliable, to=to)


@_fails("media_flows_with_keys")
class _LosesNewKeys(MemoryConnection):
    async def use_key(self, index: int) -> None:
        await super().use_key(2 * index)


@_fails("a_key_problem_is_told_and_mended")
class _HidesKeyProblems(MemoryConnection):
    def emit(self, event: ConnectionEvent) -> None:
        if not isinstance(event, KeyProblem):
            super().emit(event)


@_fails("nothing_leaves_in_clear")
class _SendsClear(MemoryConnection):
    def take_frame(self, track_id: TrackId, frame: Frame, index: int, key: bytes | None) -> None:
        self.remote[track_id].push(frame)

    def _send_frame(self, track_id: TrackId, frame: Frame | None) -> None:
        for other in self.world.reached(self):
            if frame is not None:
                other.take_frame(track_id, frame, 0, None)


@_fails("hostile_signals_do_no_harm", base=Pairwise)
class _BelievesSignals(MemoryConnection):
    async def on_signal(self, member: Member, payload: JsonObject, security: str) -> None:
        if not isinstance(payload["hello"], bool):
            raise TypeError("hello is not a bool")
        await super().on_signal(member, payload, security)


@_fails(
    "health_is_cheap_and_true", "a_frozen_focus_shows_within_four_seconds", "a_killed_focus_shows"
)
class _AlwaysWell(MemoryConnection):
    def health(self) -> Health:
        return Health(connected=True, last_ping_s=self.context.now().s)

    def emit(self, event: ConnectionEvent) -> None:
        if not isinstance(event, (ConditionRaised, TrackRemoved)):
            super().emit(event)


@_fails("overflow_drops_only_data")
class _DropsAnything(MemoryConnection):
    def __init__(self, backend: MemoryBackend, place: str, roles: frozenset[Role]) -> None:
        super().__init__(backend, place, roles)
        self._stream = EventStream(droppable=(object,))


@_fails("figures_have_the_shape_that_everybody_reads")
class _CountsInPerCent(MemoryConnection):
    async def stats(self) -> ConnectionStats:
        pairs = (PairStats(member=m, state="up", loss_sent_ratio=12.5) for m in self.members)
        return ConnectionStats(pairs=tuple(pairs))


def __getattr__(name: str) -> type[MemoryBackend]:
    """Find the backend that fails a test, so that descriptors can name it."""
    if name in _BACKENDS:
        return _BACKENDS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _all() -> Mapping[str, FocusType]:
    types = {kind.topology: kind for kind in rtcfoci_focus_types()}
    elected = types[Topology.ELECTED]
    broken = {
        test: replace(types[backend.topology], backend=f"{__name__}:{test}")
        for test, backend in _BACKENDS.items()
    }
    unsound = replace(elected, backend=f"{__name__}:NothingOfThatName")
    silent = replace(elected, capabilities=replace(elected.capabilities, data=False))
    return {
        **broken,
        "test_the_descriptor_is_sound": unsound,
        "test_what_it_cannot_do_is_refused_by_name": silent,
    }


BROKEN = _all()
"""For each test of the suite, a focus type that must fail it."""
