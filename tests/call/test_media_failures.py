"""What a call makes of its own media failing: sources that die, recordings with no room."""

import asyncio
import errno
import threading
from functools import partial
from pathlib import Path

import pytest

import rtcfoci
from rtcfoci.cli.recordings import Recordings
from rtcfoci.errors import MediaError
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby
from rtcfoci.testing.stage import TestSource

BROKEN = MediaError("the microphone gives no more", why="it was unplugged", do="plug it in")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")


def codes(call):
    return [(c.code, c.subject) for c in call.conditions]


def test_a_source_that_dies_is_told_and_muted_and_the_call_goes_on():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            source = TestSource(ann.call.member, Kind.AUDIO)
            feeding = asyncio.create_task(source.feed())
            dying = await ann.call.publish(source.hub)
            await ann.publish(Kind.AUDIO)
            await bob.until(lambda: len(bob.call.tracks) == 2)
            feeding.cancel()
            source.hub.end(BROKEN)
            await bob.until(lambda: [t.muted for t in bob.call.tracks].count(True) == 1)
            (muted,) = [t for t in bob.call.tracks if t.muted]
            assert muted.track_id == dying.track_id
            (condition,) = ann.call.conditions
            assert (condition.code, condition.subject) == ("source_failed", "microphone 0")
            assert condition.cause == "the microphone gives no more: it was unplugged"
            assert not condition.terminal
            (other,) = [t for t in bob.call.tracks if not t.muted]
            frames = []
            other.consume(frames.append)
            await bob.until(lambda: len(frames) > 10)
            await ann.call.unpublish(dying)
            assert ann.call.conditions == ()
            await ann.publish(Kind.AUDIO, name="0")
            await bob.until(lambda: not any(t.muted for t in bob.call.tracks))

    run(main())


def test_what_is_played_out_or_published_no_more_is_no_failure():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            played, gone = (TestSource(ann.call.member, Kind.AUDIO) for _ in range(2))
            track = await ann.call.publish(played.hub)
            played.hub.end()
            other = await ann.call.publish(gone.hub)
            await ann.call.unpublish(other)
            gone.hub.end(BROKEN)
            await asyncio.sleep(0.1)
            assert not track.muted
            assert ann.call.conditions == ()

    run(main())


async def test_a_source_dies_on_a_thread_of_its_own_before_or_after_it_is_published():
    async with Lobby() as lobby:
        ann = await lobby.peer("ann")
        sources = [TestSource(ann.call.member, Kind.VIDEO) for _ in range(2)]
        for source, early in zip(sources, (True, False), strict=True):
            dying = threading.Thread(target=source.hub.end, args=(BROKEN,))
            if early:
                dying.start()
                dying.join()
            await ann.call.publish(source.hub)
            if not early:
                dying.start()
        await ann.until(lambda: len(ann.call.conditions) == 2)
        assert codes(ann.call) == [("source_failed", f"camera {n}") for n in range(2)]


@full
async def test_a_full_disk_ends_recordings_and_not_the_call(tmp_path):
    """The device `full` takes nothing, as a full disk does."""
    for ending in ("mkv", "jsonl"):
        (tmp_path / f"bob.{ending}").symlink_to("/dev/full")
    async with Lobby() as lobby:
        ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
        recordings = Recordings(tmp_path, ann.call.recording_failed, by_user=True)
        await bob.publish(Kind.AUDIO)
        await ann.until(lambda: ann.call.tracks)
        recordings.add(ann.call.tracks[0])
        for _ in range(3):
            recordings.note(bob.call.member, b"{}")
        await ann.until(lambda: len(ann.call.conditions) == 2)
        assert sorted(codes(ann.call)) == [
            ("recording_failed", "bob.jsonl"),
            ("recording_failed", "bob.mkv"),
        ]
        assert all("No space left" in c.cause for c in ann.call.conditions)
        await recordings.aclose()
        frames = []
        ann.call.tracks[0].consume(frames.append)
        await ann.until(lambda: len(frames) > 10)
        heard = [e for e in ann.events if isinstance(e, rtcfoci.ConditionRaised)]
        assert len(heard) == 2


def test_a_full_disk_ends_the_trace_and_not_the_call(tmp_path, monkeypatch):
    from rtcfoci.call import trace

    def no_room(_file, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main():
        async with Lobby() as lobby:
            client, _ = await lobby.client("me")
            join = partial(rtcfoci.join, foci=lobby.foci, plugins=lobby.plugins, now=lobby.now)
            async with join(client, lobby.room_id, trace=tmp_path / "trace") as call:
                monkeypatch.setattr(trace.os, "write", no_room)
                ann = await lobby.peer("ann")
                await ann.until(lambda: call.conditions and call.participants)
                assert codes(call) == [("recording_failed", "the trace")]
                assert "No space left" in call.conditions[0].cause

    run(main())
