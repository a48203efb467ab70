"""The media part of the backend suite: tracks and media keys.

In: what is skipped for a type without audio and video. Out: everything else (`conformance`).
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from rtcfoci.core.model import Slot
from rtcfoci.media.frames import AudioFrame, Kind
from rtcfoci.media.tracks import TrackId
from rtcfoci.plugin.backend import Quality
from rtcfoci.plugin.events import FirstMedia, KeyProblem, TrackAdded, TrackMuted, TrackRemoved
from rtcfoci.plugin.hookspecs import Security
from rtcfoci.testing.conformance_base import ConformanceBase
from rtcfoci.testing.stage import Stage

__all__ = ["MediaConformance"]


class MediaConformance(ConformanceBase):
    """What every backend with audio or video must do."""

    async def test_a_member_who_leaves_takes_its_tracks_along(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        track = await self.publish(stage, alice, bob)
        await stage.part(bob, alice)
        await stage.until(
            lambda: TrackRemoved(track.track_id) in bob.events, "the track of one who left is gone"
        )

    async def test_a_late_joiner_sees_what_is_published(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        track = await self.publish(stage, alice, bob)
        await alice.connection.set_muted(track.track_id, True)
        (carol,) = await stage.join("carol")
        await stage.exchange_keys(alice, bob, carol)
        muted = TrackMuted(track.track_id, True)
        await stage.until(lambda: muted in carol.events, "a late joiner is told what is muted")
        await alice.connection.set_muted(track.track_id, False)
        await self.flows(stage, carol, track)

    async def test_publishing_before_anybody_is_there(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice = await stage.connect("alice")
        track = stage.source(alice, stage.kinds()[0])
        await stage.exchange_keys(alice)
        await alice.connection.publish(track)
        (bob,) = await stage.join("bob")
        await stage.exchange_keys(alice, bob)
        await self.flows(stage, bob, track)

    async def test_every_kind_of_track_arrives_under_its_identity(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        await stage.exchange_keys(alice, bob)
        tracks = [stage.source(alice, kind, name) for kind in stage.kinds() for name in ("1", "b")]
        for track in tracks:
            await alice.connection.publish(track)
        for track in tracks:
            await self.flows(stage, bob, track)
        told = {(event.track_id, event.hub.kind) for event in bob.told(TrackAdded)}
        assert told == {(track.track_id, track.kind) for track in tracks}
        assert bob.told(FirstMedia).count(FirstMedia(alice.member)) == 1, "FirstMedia comes once"

    async def test_what_arrives_is_what_was_sent(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        for kind in stage.kinds():
            track = await self.publish(stage, alice, bob, kind)
            frames = bob.frames[track.track_id]
            stamps = [frame.timestamp_ns for frame in frames]
            assert stamps == sorted(stamps), "timestamps run backwards"
            last = frames[-1]
            if isinstance(last, AudioFrame):
                assert kind is Kind.AUDIO
                assert any(any(f.pcm) for f in frames if isinstance(f, AudioFrame)), "silence"
            else:
                assert kind is Kind.VIDEO
                assert len(last.data) == last.width * last.height * 3 // 2
                assert len(set(last.data[: last.width])) > 8, "the picture has no pattern"

    async def test_an_unpublished_track_goes(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        track = await self.publish(stage, alice, bob)
        await alice.connection.unpublish(track.track_id)
        await alice.connection.unpublish(track.track_id)
        await alice.connection.unpublish(TrackId(alice.member, "camera", "never published"))
        await stage.until(lambda: TrackRemoved(track.track_id) in bob.events, "the track is gone")
        await alice.connection.publish(track)
        await self.flows(stage, bob, track)

    async def test_muting_is_told_and_stops_the_frames(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        track = await self.publish(stage, alice, bob)
        for muted in (True, False):
            await alice.connection.set_muted(track.track_id, muted)
            event = TrackMuted(track.track_id, muted)
            await stage.until(partial(bob.events.__contains__, event), f"muted {muted} is told")
            await (self.quiet if muted else self.flows)(stage, bob, track)

    async def test_one_track_feeds_two_connections(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        track = await self.publish(stage, alice, bob)
        async with self.open_stage(slot=Slot(room_id="!room:test", name="second")) as second:
            again, carol = await second.join("alice", "carol")
            await second.exchange_keys(again, carol)
            await again.connection.publish(track)
            await self.flows(second, carol, track)
            await self.flows(stage, bob, track)
        await self.flows(stage, bob, track)

    async def test_subscriptions_switch_frames(self, stage: Stage) -> None:
        self.needs(stage.kinds(), "media")
        alice, bob = await stage.join("alice", "bob")
        track = await self.publish(stage, alice, bob)
        connection = bob.connections[stage.key(bob, alice)]
        await connection.set_subscribed(track.track_id, Quality.OFF)
        await self.quiet(stage, bob, track)
        await connection.set_subscribed(track.track_id, Quality.HIGH)
        await self.flows(stage, bob, track)
        await connection.set_subscribed(TrackId(bob.member, "camera", "unknown"), Quality.LOW)

    # Media keys

    async def test_media_flows_with_keys(self) -> None:
        self.needs(self.focus_type.media_security is Security.FRAME, "media keys")
        async with self.open_stage(encrypted=True) as stage:
            alice, bob = await stage.join("alice", "bob")
            track = await self.publish(stage, alice, bob)
            for one in (alice, bob):  # a new key, known to all before it is used
                for connection in one.connections.values():
                    await connection.set_key(alice.member, 1, b"another key -----")
            await alice.connection.use_key(1)
            await self.flows(stage, bob, track)
            assert not bob.told(KeyProblem)

    @pytest.mark.parametrize("problem", ["missing", "failed"])
    async def test_a_key_problem_is_told_and_mended(self, problem: str) -> None:
        self.needs(self.focus_type.media_security is Security.FRAME, "media keys")
        async with self.open_stage(encrypted=True) as stage:
            alice, bob = await stage.join("alice", "bob")
            await stage.exchange_keys(alice)
            await stage.exchange_keys(bob)
            theirs = bob.connections[stage.key(bob, alice)]
            if problem == "failed":
                await theirs.set_key(alice.member, 0, b"not the right key")
            track = stage.source(alice, stage.kinds()[0])
            await alice.connection.publish(track)
            await stage.until(lambda: bob.told(KeyProblem), "the problem is told")
            told = bob.told(KeyProblem)[0]
            assert (told.member, told.index, told.problem) == (alice.member, 0, problem)
            assert not bob.heard(track.track_id), "frames came without the key"
            await theirs.set_key(alice.member, 0, stage.media_key(alice))
            await self.flows(stage, bob, track)

    async def test_nothing_leaves_in_clear(self) -> None:
        self.needs(self.focus_type.media_security is Security.FRAME, "media keys")
        async with self.open_stage(encrypted=True) as stage:
            alice, bob = await stage.join("alice", "bob")
            track = stage.source(alice, stage.kinds()[0])
            await alice.connection.publish(track)
            await asyncio.sleep(2.0)
            assert not bob.heard(track.track_id), "in an encrypted room media came without keys"
