"""The suite every focus backend passes: subclass it, name the focus type, run pytest.

In: what the contract promises, asked of a real backend by two or three participants on a `Stage`.
Out: tracks and keys (`conformance_media`), the hooks (`conformance_base`), how the participants are
made (`stage`), what a failing backend looks like (`broken`).

::

    class TestRelay(BackendConformance):
        focus_type = next(iter(rtcfoci_focus_types()))

        @pytest.fixture(autouse=True)
        async def server(self):
            async with serve() as self.url:
                yield

        def config(self, name):
            return {"url": self.url}

Tests skip by capability, never by name. Media may take its time: waits are generous and poll.
"""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from rtcfoci.core.model import JsonObject, Member, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin.backend import Connection, DoctorHop, Health, LeaveDelegation, Role
from rtcfoci.plugin.events import (
    ConditionRaised,
    DataReceived,
    TrackAdded,
    TrackRemoved,
)
from rtcfoci.plugin.hookspecs import FocusType, Security, hookimpl
from rtcfoci.plugin.manager import PluginInfo, PluginManager
from rtcfoci.plugin.stats import ConnectionStats
from rtcfoci.testing.conformance_base import check_figures, data_of
from rtcfoci.testing.conformance_media import MediaConformance
from rtcfoci.testing.stage import Participant, Stage

__all__ = ["BackendConformance"]

_BOTH = frozenset(Role)
_DIALECTS = ("D2", "D3", "D6/D7")
_JUNK: tuple[object, ...] = (None, 7, "", "x" * 10_000, "\0", [], [None], {"a": {"b": []}}, True)
_OVERSIZE_BYTES = 64 << 20
_QUIET_S = 0.5
_FROZEN_SHOWS_S = 4.0
_STALE_PING_S = 2.5
"""A call takes a focus for frozen when its last ping is 3 s old, and looks twice a second."""


class BackendConformance(MediaConformance):
    """What every backend must do; an author gives the focus type and its configuration."""

    # Descriptor and transports

    async def test_the_descriptor_is_sound(self, stage: Stage) -> None:
        manager = PluginManager()
        assert manager.add(PluginInfo("under test"), lambda: _plugin(self.focus_type))
        failures = [failure.error for failure in manager.check().failures]
        assert not failures, f"rtcfoci plugins would say: {failures}"
        assert self.can.audio or self.can.video or self.can.data, "it can do nothing"

    async def test_own_transports_are_offered_and_written(self, stage: Stage) -> None:
        alice = await stage.prepare("alice")
        names = {self.focus_type.type, *self.focus_type.aliases}
        for transport in alice.local:
            assert transport.type in names, f"{transport} is not of this type"
            assert transport.raw.get("type") == transport.type
            for dialect in _DIALECTS:
                # An empty or typeless transport crashes deployed clients.
                written = alice.backend.render(transport, dialect)
                assert written.get("type"), f"render() for {dialect} leaves no type: {written}"
                json.dumps(written)

    async def test_foreign_transports_are_left_alone(self, stage: Stage) -> None:
        alice = stage.backend("alice")
        foreign = Transport("org.example.foreign", {"type": "org.example.foreign", "url": "x"})
        names = {self.focus_type.type, *self.focus_type.aliases}
        found = await alice.backend.local_transports([foreign])
        assert {transport.type for transport in found} <= names, "it claims a foreign transport"

    async def test_transports_keep_unknown_keys(self, stage: Stage) -> None:
        alice, bob = await stage.prepare("alice"), await stage.prepare("bob")
        more = {**bob.transport.raw, "org.example.more": [1, {"a": None}]}
        manager = PluginManager()
        manager.add(PluginInfo("under test"), lambda: _plugin(self.focus_type))
        extended = manager.parse_transport(more)
        assert extended.raw == more
        keys = {
            alice.backend.connection_key(transport, bob.member, alice.local)
            for transport in (bob.transport, extended)
        }
        assert len(keys) == 1, f"an unknown key changes where it leads: {keys}"
        for dialect in _DIALECTS:
            written = alice.backend.render(extended, dialect)
            assert written.get("org.example.more") == more["org.example.more"]

    async def test_malformed_transports_raise_backend_errors_only(self, stage: Stage) -> None:
        alice = await stage.prepare("alice")
        own = alice.transport.raw
        malformed: list[JsonObject] = [{"type": own["type"]}]
        malformed += [{**own, key: junk} for key in own if key != "type" for junk in _JUNK]
        for raw in malformed:
            transport = Transport(self.focus_type.type, raw)
            key = alice.backend.connection_key(transport, alice.member, alice.local)
            assert key is None or isinstance(key, str)
            try:
                async with asyncio.timeout(2.0):
                    connection = await alice.backend.connect(key or "key", transport, _BOTH)
                await connection.aclose()
            except (BackendError, TimeoutError):
                continue

    async def test_an_unreachable_focus_is_a_retryable_error(self, stage: Stage) -> None:
        raw = self.unreachable()
        self.needs(raw, "transport that leads nowhere")
        assert raw is not None
        alice = await stage.prepare("alice")
        with pytest.raises(BackendError) as error:
            async with asyncio.timeout(self.wait_s):
                await alice.backend.connect("key", Transport(self.focus_type.type, raw), _BOTH)
        assert error.value.retryable
        assert error.value.what
        assert error.value.why

    # Connecting and closing

    async def test_closing_twice_is_harmless(self, stage: Stage) -> None:
        alice, bob = await stage.join("alice", "bob")
        for connection in (alice.connection, bob.connection):
            await connection.aclose()
            await connection.aclose()
        await alice.backend.aclose()
        await alice.backend.aclose()

    async def test_the_event_stream_ends_at_close(self, stage: Stage) -> None:
        alice, _ = await stage.join("alice", "bob")
        for connection in alice.connections.values():
            await connection.aclose()
        await alice.finished()

    async def test_a_closed_focus_can_be_connected_to_again(self, stage: Stage) -> None:
        alice, bob = await stage.join("alice", "bob")
        await alice.aclose()
        await stage.part(bob, alice)
        alice, bob = await stage.connect("alice"), bob
        await stage.meet(alice, bob)
        await self.connected(stage, alice, bob)

    async def test_a_cancelled_connect_returns_at_once(self, stage: Stage) -> None:
        alice = await stage.prepare("alice")
        key = stage.key(alice, alice)
        for wait_s in (0.0, 0.001, 0.02):
            work = alice.backend.connect(key, alice.transport, _BOTH)
            connecting = asyncio.ensure_future(work)
            await asyncio.sleep(wait_s)
            connecting.cancel()
            await asyncio.wait([connecting], timeout=1.0)
            assert connecting.done(), "1 s after it was cancelled, connect() goes on"
            if not connecting.cancelled():
                await connecting.result().aclose()

    async def test_a_cancelled_connect_to_a_frozen_focus_returns_at_once(
        self, stage: Stage
    ) -> None:
        self.needs_hook("freeze")
        self.needs(self.can.needs_server, "server")
        alice = await stage.prepare("alice")
        await self.freeze(stage, alice)
        try:
            work = alice.backend.connect(stage.key(alice, alice), alice.transport, _BOTH)
            connecting = asyncio.ensure_future(work)
            await asyncio.sleep(0.2)
            connecting.cancel()
            await asyncio.wait([connecting], timeout=1.0)
            assert connecting.done(), "1 s after it was cancelled, connect() goes on"
            if not connecting.cancelled():  # it was frozen too late, or not for newcomers
                await connecting.result().aclose()
        finally:
            await self.thaw(stage, alice)

    async def test_preparing_can_be_repeated_or_left_out(self, stage: Stage) -> None:
        alice = await stage.prepare("alice")
        key = stage.key(alice, alice)
        await (await alice.backend.connect(key, alice.transport, _BOTH)).aclose()
        await alice.backend.prepare(alice.transport)
        await alice.backend.prepare(alice.transport)
        await (await alice.backend.connect(key, alice.transport, _BOTH)).aclose()

    async def test_what_it_cannot_do_is_refused_by_name(self, stage: Stage) -> None:
        (alice,) = await stage.join("alice")
        track = LocalTrack(TrackId(alice.member, "microphone", "1"), FrameHub(Kind.AUDIO))
        if not stage.kinds():
            with pytest.raises(BackendError):
                await alice.connection.publish(track)
        if not self.can.data:
            with pytest.raises(BackendError):
                await alice.connection.send_data(b"", topic="", reliable=True)
        if self.focus_type.media_security is not Security.FRAME:
            with pytest.raises(BackendError):
                await alice.connection.set_key(alice.member, 0, bytes(16))
        leave = LeaveDelegation(delay_id="secret", delay_ms=1000, homeserver_url="https://test")
        accepted = await alice.backend.delegate_leave(alice.transport, leave)
        assert accepted is self.can.delegated_leave or not accepted

    async def test_the_delayed_leave_can_be_delegated(self, stage: Stage) -> None:
        self.needs(self.can.delegated_leave, "delegated leave")
        (alice,) = await stage.join("alice")
        leave = LeaveDelegation(delay_id="secret", delay_ms=1000, homeserver_url="https://test")
        assert await alice.backend.delegate_leave(alice.transport, leave)

    async def test_what_it_tells_a_doctor_has_a_remedy(self, stage: Stage) -> None:
        alice = await stage.prepare("alice")
        for hop in alice.backend.doctor_hops():
            assert isinstance(hop, DoctorHop)
            assert hop.name
            async with asyncio.timeout(self.wait_s):
                problem = await hop.check()
            if problem is not None:
                assert isinstance(problem, BackendError), "a problem is returned, not described"
                assert problem.what
                assert problem.why
                assert problem.do, f"{hop.name}: {problem.what} has no remedy"

    # The roster

    async def test_the_roster_is_idempotent(self, stage: Stage) -> None:
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        added = len(bob.told(TrackAdded))
        connection = bob.connections[stage.key(bob, alice)]
        for _ in range(2):
            await connection.set_members([alice.membership], [], [])
            await connection.set_members([], [alice.membership], [])
        await self.still_connected(stage, alice, bob)
        assert len(bob.told(TrackAdded)) == added, "adding a member twice adds its tracks twice"
        for _ in range(2):
            await connection.set_members([], [], [alice.membership])

    # Data

    async def test_reliable_data_comes_in_order(self, stage: Stage) -> None:
        self.needs(self.can.data, "data")
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        sent = [bytes([number]) * (1 + 20 * number) for number in range(50)]
        for payload in sent:
            await alice.connection.send_data(payload, topic="ordered", reliable=True)
        await stage.until(lambda: len(data_of(bob, "ordered")) >= len(sent), "all 50 have come")
        assert [event.payload for event in data_of(bob, "ordered")] == sent
        for event in data_of(bob, "ordered"):
            assert event.member == alice.member
            assert event.reliable

    async def test_lossy_data_comes(self, stage: Stage) -> None:
        self.needs(self.can.data, "data")
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        for number in range(50):
            await alice.connection.send_data(bytes([number]), topic="lossy", reliable=False)
        await stage.until(lambda: len(data_of(bob, "lossy")) > 25, "most of 50 have come")
        assert not any(event.reliable for event in data_of(bob, "lossy"))

    async def test_data_comes_only_to_those_named(self, stage: Stage) -> None:
        self.needs(self.can.data, "data")
        alice, bob, carol = await stage.join("alice", "bob", "carol")
        await self.connected(stage, alice, bob)
        await self.connected(stage, alice, carol)
        await alice.connection.send_data(b"1", topic="secret", reliable=True, to=[bob.member])
        await alice.connection.send_data(b"2", topic="none", reliable=True, to=[])
        await alice.connection.send_data(b"3", topic="open", reliable=True)
        await stage.until(
            lambda: data_of(bob, "open") and data_of(carol, "open"), "the last has come"
        )
        assert len(data_of(bob, "secret")) == 1
        assert not data_of(carol, "secret"), "data came to one who was not named"
        assert not [*data_of(bob, "none"), *data_of(carol, "none")], "nobody was named"
        assert not data_of(alice, "open"), "one's own data came back"

    async def test_oversize_data_is_refused_clearly(self, stage: Stage) -> None:
        self.needs(self.can.data, "data")
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        with pytest.raises(BackendError) as error:
            await alice.connection.send_data(bytes(_OVERSIZE_BYTES), topic="big", reliable=True)
        assert not error.value.retryable, "sending it again cannot help"
        assert error.value.why
        await self.still_connected(stage, alice, bob)

    # Signals, health, events

    async def test_hostile_signals_do_no_harm(self, stage: Stage) -> None:
        self.needs(self.can.needs_signalling, "signalling")
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        stranger = Member(user_id="@mallory:test", device_id="M", member_id="stranger")
        connection = alice.connections[stage.key(alice, bob)]
        deep: JsonObject = {"x": 1}
        for _ in range(100):
            deep = {"x": deep}
        keys = ("type", "kind", "sdp", "candidates", "hello", "attempt", "seq", "description")
        payloads: list[JsonObject] = [{}, deep, *({key: junk} for key in keys for junk in _JUNK)]
        for payload in payloads:
            await connection.on_signal(stranger, payload, "bound")
            await connection.on_signal(bob.member, payload, "clear")
            await connection.on_signal(bob.member, payload, "bound")
        await self.still_connected(stage, alice, bob)

    async def test_health_is_cheap_and_true(self, stage: Stage) -> None:
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, bob, alice)
        start_s = time.perf_counter()
        for _ in range(1000):
            health = alice.connection.health()
        took_s = time.perf_counter() - start_s
        assert isinstance(health, Health)
        assert health.connected
        assert took_s < 0.5, f"health() takes {took_s * 1000:.0f} us"
        silent_s = alice.context.now().s - (_freshest_s(alice) or -1e9)
        assert silent_s < self.wait_s, "nothing received or acknowledged is in health()"
        await alice.connection.aclose()
        assert not alice.connection.health().connected, "a closed connection says it is connected"

    async def test_a_frozen_focus_shows_within_four_seconds(self, stage: Stage) -> None:
        self.needs_hook("freeze")
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, bob, alice)
        assert not _broken(alice, 0), "it looks broken before anything is"
        seen = len(alice.events)
        await self.freeze(stage, bob)
        try:
            await stage.until(lambda: _broken(alice, seen), "the freeze shows", _FROZEN_SHOWS_S)
        finally:
            await self.thaw(stage, bob)

    async def test_a_killed_focus_shows(self, stage: Stage) -> None:
        self.needs_hook("kill")
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, bob, alice)
        seen = len(alice.events)
        await self.kill(stage, bob)
        await stage.until(lambda: _broken(alice, seen), "the end shows", _FROZEN_SHOWS_S)

    async def test_figures_have_the_shape_that_everybody_reads(self, stage: Stage) -> None:
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, bob, alice)
        for connection in alice.connections.values():
            stats = await connection.stats()
            assert isinstance(stats, ConnectionStats)
            members = [pair.member for pair in stats.pairs]
            assert len(members) == len(set(members)), "two pairs with the same other side"
            assert set(members) <= {None, bob.member}, "figures of one who is not in the roster"
            for pair in stats.pairs:
                check_figures(pair)

    async def test_overflow_drops_only_data(self, stage: Stage) -> None:
        alice = await stage.prepare("alice")
        key = stage.key(alice, alice)
        connection: Connection = await alice.backend.connect(key, alice.transport, _BOTH)
        for number in range(5000):
            connection.emit(DataReceived(alice.member, b"", "flood", False))
            if number % 1000 == 0:
                connection.emit(ConditionRaised("org.example.flood", str(number)))
        await connection.aclose()
        events = [event async for event in connection.events()]
        kept = [event.cause for event in events if isinstance(event, ConditionRaised)]
        assert kept == ["0", "1000", "2000", "3000", "4000"], "more than data was dropped"
        assert connection.dropped_events > 0, "what was dropped is not counted"
        assert len(events) < 2500, "the event stream is not bounded"

    async def test_nothing_is_left_behind(self, stage: Stage) -> None:
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        await self.connected(stage, bob, alice)
        await stage.aclose()


def _plugin(focus_type: FocusType) -> object:
    @hookimpl
    def rtcfoci_focus_types() -> list[FocusType]:
        return [focus_type]

    return SimpleNamespace(rtcfoci_focus_types=rtcfoci_focus_types)


def _freshest_s(who: Participant) -> float | None:
    healths = [connection.health() for connection in who.connections.values()]
    times = [t for health in healths for t in (health.last_media_s, health.last_ping_s)]
    return max((t for t in times if t is not None), default=None)


def _broken(who: Participant, since: int) -> bool:
    """Whether it shows to a call: not connected, a stale ping, a condition, or a track that went."""
    now_s = who.context.now().s
    for connection in who.connections.values():
        health = connection.health()
        if not health.connected:
            return True
        if health.last_ping_s is not None and now_s - health.last_ping_s > _STALE_PING_S:
            return True
    later = who.events[since:]
    return any(isinstance(event, (ConditionRaised, TrackRemoved)) for event in later)
