"""Calls of two and three in one process, over loopback."""

from __future__ import annotations

import asyncio
import time
from array import array

import pytest
from meshes import Source, Wire, frequency_hz, member, pairs, stations, until
from rtcfoci_mesh.connection import MeshDrill
from rtcfoci_mesh.data import MAX_DATA_BYTES

from rtcfoci.errors import BackendError
from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pattern import read
from rtcfoci.media.sources import PacedSource, PatternSource
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci.plugin import (
    ConditionRaised,
    DataReceived,
    FirstMedia,
    PathStats,
    Quality,
    TrackAdded,
    TrackMuted,
    TrackRemoved,
)


async def test_two_hear_see_and_write_to_each_other() -> None:
    wire = Wire()
    async with stations("alice", "bob", wire=wire) as (alice, bob):
        for station, hz in ((alice, 400.0), (bob, 700.0)):
            await station.publish("microphone", Kind.AUDIO, hz)
            await station.publish("camera", Kind.VIDEO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: min(len(alice.frames), len(bob.frames)) == 2)
        await bob.connection.send_data(b"hello", topic="chat", reliable=True)
        await alice.connection.send_data(b"x" * 1000, topic="", reliable=False, to=[bob.member])
        await until(lambda: alice.saw(DataReceived) and bob.saw(DataReceived))
        counted = dict(alice.frames)
        await asyncio.sleep(1.0)

        assert [s["kind"] for _, _, s in wire.sent] == ["offer", "answer"]
        assert alice.saw(DataReceived) == [DataReceived(bob.member, b"hello", "chat", True)]
        assert bob.saw(DataReceived) == [DataReceived(alice.member, b"x" * 1000, "", False)]
        for station, other, hz in ((alice, bob, 700.0), (bob, alice, 400.0)):
            microphone = TrackId(other.member, "microphone", "0")
            camera = TrackId(other.member, "camera", "0")
            sound, picture = station.last[microphone], station.last[camera]
            assert isinstance(sound, AudioFrame)
            assert isinstance(picture, VideoFrame)
            assert (sound.samples, sound.sample_rate, sound.channels) == (960, 48_000, 1)
            assert frequency_hz(sound) == pytest.approx(hz, abs=60)
            assert (picture.width, picture.height, len(picture.data)) == (64, 48, 64 * 72)
            assert 30 < picture.data[100] < 210  # the grey that was sent
            assert abs(sound.timestamp_ns - time.monotonic_ns()) < 500_000_000
            assert station.saw(FirstMedia) == [FirstMedia(other.member)]
            assert not station.saw(ConditionRaised)
        microphone = TrackId(bob.member, "microphone", "0")
        assert alice.frames[microphone] > counted[microphone] + 35
        health = alice.connection.health()
        assert health.connected
        assert health.last_media_s is not None
        assert time.monotonic() - health.last_media_s < 0.5
        (figures,) = (await alice.connection.stats()).pairs
        assert (figures.member, figures.state, figures.rebuilt) == (bob.member, "connected", 0)
        assert (figures.audio_codec, figures.video_codec) == ("opus", "VP8")
        assert figures.path == PathStats(local="host", remote="host", protocol="udp")
        assert not figures.path.relayed
        for measured in (figures.rtt_ms, figures.packets_sent, figures.connect_time_s):
            assert measured is not None
            assert 0 < measured < 2000
        assert (figures.loss_received_ratio, figures.frames_concealed) == (0.0, 0)
        assert figures.bitrate_received_bps is not None
        assert 20_000 < figures.bitrate_received_bps < 5_000_000  # sound and small pictures


async def test_media_keeps_its_time_within_100_ms_across_a_connection() -> None:
    """Both ends have one clock here: a beep every second, and numbered pictures."""
    made: dict[Kind, dict[int, int]] = {kind: {} for kind in Kind}
    came: dict[Kind, dict[int, int]] = {kind: {} for kind in Kind}

    class Beeps(PacedSource):
        def _frame(self, index: int, timestamp_ns: int) -> AudioFrame:
            loud = index % 50 == 0
            if loud:
                made[Kind.AUDIO][index] = timestamp_ns
            pcm = array("h", [8000 if loud and n // 24 % 2 else 0 for n in range(960)]).tobytes()
            return AudioFrame(pcm=pcm, timestamp_ns=timestamp_ns)

    class Pictures(PatternSource):
        def _frame(self, index: int, timestamp_ns: int) -> VideoFrame:
            made[Kind.VIDEO][index] = timestamp_ns
            return super()._frame(index, timestamp_ns)

    def take(frame: Frame | None) -> None:
        if isinstance(frame, AudioFrame):
            loud = [n for n, level in enumerate(array("h", frame.pcm)) if abs(level) > 3000]
            if loud:
                at_ns = frame.timestamp_ns + loud[0] * 1_000_000_000 // 48_000
                sent = min(made[Kind.AUDIO], key=lambda n: abs(made[Kind.AUDIO][n] - at_ns))
                came[Kind.AUDIO].setdefault(sent, at_ns)
        elif frame is not None and (stamp := read(frame)) is not None:
            came[Kind.VIDEO][stamp.number] = frame.timestamp_ns

    async with stations("alice", "bob") as (alice, bob):
        sources = {Kind.AUDIO: Beeps(Kind.AUDIO, 50), Kind.VIDEO: Pictures(7)}
        for kind, source in sources.items():
            track_id = TrackId(bob.member, kind.value, "0")
            await bob.connection.publish(LocalTrack(track_id, source.hubs[kind]))
            source.start()
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: len(alice.frames) == 2)
        await asyncio.sleep(0.5)  # the first frames tell the clock where it stands
        for hub in alice.hubs.values():
            hub.consume(take)
        await until(lambda: len(came[Kind.AUDIO]) > 2 and len(came[Kind.VIDEO]) > 20)
        for source in sources.values():
            await source.aclose()
    for kind, most_ms in ((Kind.AUDIO, 85), (Kind.VIDEO, 50)):
        off_ms = sorted((at - made[kind][n]) / 1e6 for n, at in came[kind].items())
        # What a recorder adds of its own is in tests/media/test_recording.py.
        assert abs(off_ms[len(off_ms) // 2]) < most_ms, (kind, off_ms)


async def test_three_meet_one_after_the_other() -> None:
    async with stations("alice", "bob", "carol") as (alice, bob, carol):
        for station, hz in ((alice, 300.0), (bob, 500.0), (carol, 900.0)):
            await station.publish("microphone", Kind.AUDIO, hz)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.frames and bob.frames)
        await asyncio.gather(carol.meet(alice, bob), alice.meet(bob, carol), bob.meet(carol))
        await until(lambda: all(len(s.frames) == 2 for s in (alice, bob, carol)))
        await asyncio.sleep(0.5)
        pitch = {alice.member: 300.0, bob.member: 500.0, carol.member: 900.0}
        for station, other in pairs([alice, bob, carol]):
            heard = station.last[TrackId(other.member, "microphone", "0")]
            assert isinstance(heard, AudioFrame)
            assert frequency_hz(heard) == pytest.approx(pitch[other.member], abs=60)


@pytest.mark.parametrize("publisher", ["alice", "bob"])
async def test_tracks_come_and_go_in_a_call(publisher: str) -> None:
    """Alice offers, bob answers: both can add more than the first offer had room for."""
    async with stations("alice", "bob") as (alice, bob):
        sender, receiver = (alice, bob) if publisher == "alice" else (bob, alice)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(alice.reaches)
        for source, kind in (
            ("microphone", Kind.AUDIO),
            ("screen_audio", Kind.AUDIO),
            ("camera", Kind.VIDEO),
            ("screen", Kind.VIDEO),
        ):
            await sender.publish(source, kind)
        await until(lambda: len(receiver.frames) == 4)
        screen = TrackId(sender.member, "screen", "0")
        await sender.connection.unpublish(screen)
        await until(lambda: receiver.saw(TrackRemoved))
        assert receiver.saw(TrackRemoved) == [TrackRemoved(screen)]
        assert receiver.hubs[screen].ended
        await sender.publish("slides", Kind.VIDEO)
        await until(lambda: receiver.frames[TrackId(sender.member, "slides", "0")] > 3)
        assert len(receiver.saw(TrackAdded)) == 5
        assert (await alice.connection.stats()).pairs[0].rebuilt == 0


async def test_muted_tracks_send_nothing_and_say_so() -> None:
    async with stations("alice", "bob") as (alice, bob):
        track = await alice.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: bob.frames[track.track_id] > 5)
        await alice.connection.set_muted(track.track_id, True)
        await until(lambda: bob.saw(TrackMuted))
        await asyncio.sleep(0.3)
        counted = bob.frames[track.track_id]
        await asyncio.sleep(0.5)
        assert bob.frames[track.track_id] == counted
        await alice.connection.set_muted(track.track_id, False)
        await until(lambda: bob.frames[track.track_id] > counted + 5)
        muted = [e.muted for e in bob.saw(TrackMuted) if isinstance(e, TrackMuted)]
        assert muted == [True, False]


async def test_a_newcomer_learns_what_is_muted() -> None:
    async with stations("alice", "bob") as (alice, bob):
        track = await alice.publish("camera", Kind.VIDEO)
        await alice.connection.set_muted(track.track_id, True)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: bob.saw(TrackMuted))
        assert bob.saw(TrackMuted) == [TrackMuted(track.track_id, True)]
        assert not bob.frames


async def test_a_track_published_muted_sends_nothing_until_it_is_unmuted() -> None:
    """In a call that stands, where the connection could be faster than the word of it."""
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(alice.reaches)
        source = Source(Kind.AUDIO)
        alice.sources.append(source)
        track = LocalTrack(TrackId(alice.member, "microphone", "0"), source.hub)
        track.muted = True
        await alice.connection.publish(track)
        await alice.connection.set_muted(track.track_id, True)  # as a call does, having published
        await until(lambda: TrackMuted(track.track_id, True) in bob.events)
        await asyncio.sleep(0.5)
        assert not bob.frames
        await alice.connection.set_muted(track.track_id, False)
        await until(lambda: bob.frames[track.track_id] > 5)


async def test_lossy_data_does_not_pile_up() -> None:
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await alice.connection.send_data(b"open", topic="", reliable=True)
        await until(lambda: bob.saw(DataReceived))
        drill = bob.connection.extension(MeshDrill)
        assert drill is not None
        await drill.suspend()  # nothing is acknowledged
        for _ in range(100):
            await alice.connection.send_data(bytes(10_000), topic="", reliable=False)
        session = alice.connection._peers[bob.member]._session
        assert session is not None
        assert 0 < session.buffered(reliable=False) < 100_000


async def test_an_unsubscribed_track_is_not_handed_out() -> None:
    async with stations("alice", "bob") as (alice, bob):
        track = await alice.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: bob.frames[track.track_id] > 5)
        await bob.connection.set_subscribed(track.track_id, Quality.OFF)
        counted = bob.frames[track.track_id]
        await asyncio.sleep(0.4)
        assert bob.frames[track.track_id] <= counted + 1
        await bob.connection.set_subscribed(track.track_id, Quality.HIGH)
        await until(lambda: bob.frames[track.track_id] > counted + 5)


async def test_reliable_data_waits_for_the_connection_and_goes_where_it_is_sent() -> None:
    async with stations("alice", "bob", "carol") as (alice, bob, carol):
        await asyncio.gather(alice.meet(bob, carol), bob.meet(alice), carol.meet(alice))
        for number in range(20):
            await alice.connection.send_data(
                bytes([number]), topic="count", reliable=True, to=[carol.member]
            )
        await until(lambda: len(carol.saw(DataReceived)) == 20)
        got = [e.payload for e in carol.saw(DataReceived) if isinstance(e, DataReceived)]
        assert got == [bytes([n]) for n in range(20)]
        assert not bob.saw(DataReceived)


async def test_data_that_cannot_be_sent_is_refused_in_words() -> None:
    async with stations("alice", "bob") as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        whole = bytes(MAX_DATA_BYTES)
        await alice.connection.send_data(whole, topic="", reliable=True)
        with pytest.raises(BackendError, match="too large"):
            await alice.connection.send_data(whole, topic="t", reliable=True)
        await until(lambda: bob.saw(DataReceived))
        stranger = member("mallory")
        with pytest.raises(BackendError, match="mallory"):
            await alice.connection.send_data(b"x", topic="", reliable=True, to=[stranger])
