"""What a mesh meets in life: silence, loss, restarts, nonsense, and an application that blocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace

import pytest
from meshes import (
    CONFIG,
    Station,
    Wire,
    close_station,
    member,
    membership,
    open_station,
    stations,
    until,
)
from rtcfoci_mesh.aiortc_engine import AiortcSession
from rtcfoci_mesh.connection import MeshDrill
from rtcfoci_mesh.peer import Peer

from rtcfoci.core.model import JsonObject, Member
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import TrackId
from rtcfoci.plugin import ConditionCleared, ConditionRaised, TrackAdded, TrackRemoved


def raised(station: Station) -> list[str]:
    return [e.code for e in station.saw(ConditionRaised) if isinstance(e, ConditionRaised)]


def peer_of(station: Station, other: Station) -> Peer:
    return station.connection._peers[other.member]


@pytest.fixture
async def talking() -> AsyncIterator[tuple[Wire, Station, Station, TrackId]]:
    """Alice hears bob's microphone."""
    wire = Wire()
    async with stations("alice", "bob", wire=wire) as (alice, bob):
        track = await bob.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.frames[track.track_id] > 5)
        await until(alice.reaches)
        yield wire, alice, bob, track.track_id


Talking = tuple[Wire, Station, Station, TrackId]


async def test_a_silent_member_shows_within_four_seconds_and_its_tracks_come_back(
    talking: Talking,
) -> None:
    wire, alice, bob, track_id = talking
    hub = alice.hubs[track_id]
    wire.mangle = lambda sender, to, payload: 0  # its process hangs: signals are unanswered too
    drill = bob.connection.extension(MeshDrill)
    assert drill is not None
    await drill.suspend()
    shown_s = await until(lambda: "media_stalled" in raised(alice), 4.0)
    assert shown_s > 1.0
    assert alice.saw(TrackRemoved) == [TrackRemoved(track_id)]
    assert not hub.ended

    wire.mangle = lambda sender, to, payload: 1
    before = alice.frames[track_id]
    await until(lambda: alice.frames[track_id] > before + 20)
    assert alice.saw(TrackAdded) == [TrackAdded(track_id, hub)] * 2
    await until(lambda: ConditionCleared("media_stalled", str(bob.member)) in alice.events)
    assert peer_of(alice, bob).rebuilt == 1


async def test_a_data_only_pair_is_watched_too() -> None:
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(alice.reaches)
        await asyncio.sleep(3.6)  # longer than the silence that counts
        assert not raised(alice)
        drill = bob.connection.extension(MeshDrill)
        assert drill is not None
        await drill.suspend(member=alice.member)
        await until(lambda: "media_stalled" in raised(alice), 4.0)


async def test_a_member_that_leaves_ends_its_tracks_without_a_complaint(talking: Talking) -> None:
    wire, alice, bob, track_id = talking
    hub = alice.hubs[track_id]
    del wire.ends[bob.member]
    await bob.connection.aclose()
    await until(lambda: alice.saw(TrackRemoved))
    await alice.part(bob)
    assert alice.saw(TrackRemoved) == [TrackRemoved(track_id)]
    assert hub.ended
    assert set(raised(alice)) <= {"mesh_lagging"}, "a busy machine is no complaint about a member"
    assert not alice.connection._peers


@pytest.mark.parametrize(("name", "member_id"), [("bob", "bob-2"), ("bob", "bob-1"), ("aaron", "")])
async def test_a_member_that_crashed_comes_back(name: str, member_id: str) -> None:
    """Under a new member id it is a new peer; under the old one its old connection is replaced."""
    wire = Wire()
    async with stations("alice", wire=wire) as (alice,):
        first = await open_station(wire, member(name))
        second: Station | None = None
        try:
            await first.publish("microphone", Kind.AUDIO)
            await asyncio.gather(alice.meet(first), first.meet(alice))
            await until(lambda: alice.frames)
            drill = first.connection.extension(MeshDrill)
            assert drill is not None
            await drill.suspend()  # gone without a word
            second = await open_station(wire, member(name, member_id))
            track = await second.publish("microphone", Kind.AUDIO)
            await second.meet(alice)
            old, new = membership(first.member), membership(second.member, joined_ts_ms=2000)
            if second.member == first.member:
                await alice.connection.set_members([], [new], [])
            else:
                await alice.connection.set_members([new], [], [old])
            before = alice.frames[track.track_id]
            took_s = await until(lambda: alice.frames[track.track_id] > before + 20, 6.0)
            assert took_s < 5.5
            assert len(alice.connection._peers) == 1
        finally:
            await close_station(first)
            if second is not None:
                await close_station(second)


@pytest.mark.parametrize("fault", ["lost", "twice", "late"])
async def test_bad_signalling_is_survived(fault: str) -> None:
    wire = Wire()
    seen: dict[str, int] = {}

    def mangle(sender: Member, to: Member, payload: JsonObject) -> int:
        kind = str(payload["kind"])
        seen[kind] = seen.get(kind, 0) + 1
        if fault == "lost":
            return int(seen[kind] > 1)
        return 2

    wire.mangle = mangle
    async with stations("alice", "bob", wire=wire) as (alice, bob):
        for station in (alice, bob):
            await station.publish("microphone", Kind.AUDIO)
        if fault == "late":  # the offer is there before the roster names its sender
            await alice.meet(bob)
            await asyncio.sleep(0.2)
            await bob.meet(alice)
        else:
            await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.frames and bob.frames)
        if fault == "twice":
            dropped = (
                peer_of(alice, bob)._negotiation.dropped + peer_of(bob, alice)._negotiation.dropped
            )
            assert dropped["duplicate"] >= 2
        assert peer_of(alice, bob).rebuilt == 0


async def test_an_unreachable_member_is_reported_and_tried_again() -> None:
    config = CONFIG.model_copy(update={"connect_timeout_s": 0.8})
    wire = Wire()
    wire.mangle = lambda sender, to, payload: 0
    async with stations("alice", "bob", wire=wire, config=config) as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: "peer_unreachable" in raised(alice), 2.0)
        assert not alice.reaches()
        wire.mangle = lambda sender, to, payload: 1
        await until(alice.reaches)
        await until(lambda: alice.saw(ConditionCleared))
        attempts = {str(p["attempt"]) for a, _, p in wire.sent if a == alice.member}
        assert len(attempts) >= 2


async def test_a_machine_without_an_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [])
    config = CONFIG.model_copy(update={"loopback": False, "ice_servers": ()})
    async with stations("alice", "bob", config=config) as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: "no_candidates" in raised(alice))
        said = {e.code: e.remedy for e in alice.events if isinstance(e, ConditionRaised)}
        assert not said["no_candidates"]  # its general one holds: it is no matter of servers


async def test_both_sides_count_a_rebuilt_connection_whoever_gave_it_up(talking: Talking) -> None:
    _, alice, bob, _ = talking
    answerer = peer_of(bob, alice)
    assert not answerer._negotiation.offerer
    await bob.connection._media.run(_give_up(answerer))
    await until(lambda: peer_of(alice, bob).rebuilt == answerer.rebuilt == 1)
    assert alice.reaches()
    assert bob.reaches()


async def _give_up(peer: Peer) -> None:
    peer._lose(peer._negotiation.attempt, "a test")


HOSTILE = [
    "",
    "v=0",
    "v=0\r\nm=audio",
    "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=fingerprint:sha-256 AA\r\nm=application 9 x y\r\n",
    "v=0\r\n" + "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n" * 40,
    "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=fingerprint:sha-256 \r\n"
    "a=ice-ufrag:x\r\na=ice-pwd:y\r\na=mid:0\r\na=setup:actpass\r\na=sctp-port:x\r\n",
    "\x00" * 1000,
]


@pytest.mark.parametrize("sdp", HOSTILE)
async def test_nonsense_does_not_raise_and_does_not_keep_the_member_out(sdp: str) -> None:
    async with stations("alice", "bob") as (alice, bob):
        nonsense = {
            "kind": "offer",
            "instance": "evil",
            "attempt": "evil.1",
            "seq": 1,
            "sdp": sdp,
            "tracks": [],
        }
        await bob.connection.set_members([membership(alice.member)], [], [])
        await bob.connection.on_signal(alice.member, nonsense, "bound")
        await bob.connection.on_signal(alice.member, {**nonsense, "sdp": 7}, "bound")
        await alice.meet(bob)
        await until(bob.reaches)


async def test_a_track_may_change_while_signals_do_not_arrive(talking: Talking) -> None:
    """As in an outage of the homeserver: media goes on, and the change follows when it is back."""
    wire, alice, bob, track_id = talking
    wire.mangle = lambda sender, to, payload: 0
    camera = [await s.publish("camera", Kind.VIDEO) for s in (alice, bob)][1]
    await asyncio.sleep(CONFIG.connect_timeout_s + 1)
    before = alice.frames[track_id]
    await asyncio.sleep(0.5)
    assert alice.frames[track_id] > before + 15
    wire.mangle = lambda sender, to, payload: 1
    await until(lambda: alice.frames[camera.track_id] > 3)
    assert not raised(alice)
    assert peer_of(alice, bob).rebuilt == peer_of(bob, alice).rebuilt == 0


async def test_signals_that_cannot_be_sent_do_not_pile_up(talking: Talking) -> None:
    _, alice, bob, _ = talking
    sent: list[JsonObject] = []
    gate = asyncio.Event()

    async def stuck(member: Member, payload: JsonObject) -> None:
        await gate.wait()
        sent.append(payload)

    alice.context.send_signal = stuck  # type: ignore[method-assign]
    for number in range(100):
        alice.connection.send_signal(bob.member, {"number": number})
    await asyncio.sleep(0.1)
    gate.set()
    await until(lambda: sent and sent[-1] == {"number": 99})
    assert len(sent) < 12


async def test_a_clock_that_is_ahead_is_no_new_life(talking: Talking) -> None:
    """Its claim is cut to the event's own time, which another event moves; the claim stays."""
    _, alice, bob, _ = talking
    before = peer_of(alice, bob)._negotiation.attempt
    await asyncio.sleep(3.1)  # news of a restart is not believed sooner
    refreshed = replace(membership(bob.member), created_ts_ms=500)
    await alice.connection.set_members([], [refreshed], [])
    assert peer_of(alice, bob)._negotiation.attempt == before


async def test_a_consumer_that_raises_stops_nobody_else(talking: Talking) -> None:
    _, alice, _, track_id = talking
    calls: list[object] = []

    def faulty(frame: object) -> None:
        calls.append(frame)
        raise ValueError("the application's fault")

    alice.hubs[track_id].consume(faulty)
    await until(lambda: calls)
    before = alice.frames[track_id]
    await until(lambda: alice.frames[track_id] > before + 20)
    assert len(calls) == 1


async def test_a_member_that_opens_channels_without_end_is_cut_off(talking: Talking) -> None:
    _, alice, bob, track_id = talking
    session = peer_of(bob, alice)._session
    assert isinstance(session, AiortcSession)

    async def flood() -> None:
        for number in range(40):
            session._pc.createDataChannel("x" * 1000 + str(number))

    await bob.connection._media.run(flood())
    await until(lambda: peer_of(alice, bob).rebuilt == 1)
    assert not raised(alice)
    before = alice.frames[track_id]
    await until(lambda: alice.frames[track_id] > before + 20)


async def test_media_goes_on_while_the_application_blocks(talking: Talking) -> None:
    _, alice, _, track_id = talking
    await asyncio.sleep(0.2)
    before = alice.frames[track_id]
    time.sleep(1.0)  # noqa: ASYNC251 - what applications do
    assert alice.frames[track_id] - before > 40


async def test_a_closed_connection_refuses_in_words(talking: Talking) -> None:
    _, alice, _, _ = talking
    await alice.connection.aclose()
    await alice.connection.aclose()
    with pytest.raises(BackendError, match="closed"):
        await alice.connection.send_data(b"x", topic="", reliable=True)


async def test_work_that_is_cancelled_before_it_begins_was_never_made() -> None:
    """Else Python warns of a coroutine that nobody awaited."""
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        peer = peer_of(alice, bob)
        made: list[str] = []

        async def offer() -> None:
            made.append("awaited")

        def make() -> Coroutine[object, object, None]:
            made.append("made")
            return offer()

        async def begin_and_end() -> None:
            peer._work("another", make)
            peer._end_session()
            await asyncio.sleep(0)

        await alice.connection._media.run(begin_and_end())
        assert made == []
