import asyncio
import time
from itertools import pairwise

import pytest

from rtcfoci.errors import MediaError, UsageError
from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pattern import Stamp, draw, read
from rtcfoci.media.push import PushSource

from .making import until


def collect(source: PushSource) -> list[Frame]:
    frames: list[Frame] = []
    source.hubs[source.kind].consume(lambda f: frames.append(f) if f is not None else None)
    return frames


def pcm(seconds: float, rate: int = 48_000, channels: int = 1) -> bytes:
    return b"\x01\x02" * (round(seconds * rate) * channels)


async def test_what_is_pushed_plays_at_its_pace() -> None:
    source = PushSource(Kind.AUDIO)
    frames = collect(source)
    start_s = time.monotonic()
    assert await source.push(pcm(0.5))
    assert source.queued_s > 0.3
    assert await source.wait_played()
    took_s = time.monotonic() - start_s
    assert 0.45 <= took_s <= 1.0
    assert len(frames) == 25
    assert source.queued_s == 0
    assert {b.timestamp_ns - a.timestamp_ns for a, b in pairwise(frames)} == {20_000_000}
    await source.aclose()


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (16_000, 1), (44_100, 2), (8000, 2)])
async def test_any_rate_is_taken(rate: int, channels: int) -> None:
    source = PushSource(Kind.AUDIO)
    frames = collect(source)
    for _ in range(10):  # in odd pieces
        assert await source.push(pcm(0.033, rate, channels), sample_rate=rate, channels=channels)
    assert await source.wait_played()
    assert 16 <= len(frames) <= 18
    for frame in frames:
        assert isinstance(frame, AudioFrame)
        assert (frame.sample_rate, frame.channels, frame.samples) == (48_000, 1, 960)
    await source.aclose()


async def test_a_full_queue_holds_the_pusher_back() -> None:
    source = PushSource(Kind.AUDIO, limit_s=0.2)
    collect(source)
    start_s = time.monotonic()
    assert await source.push(pcm(0.6))
    assert 0.3 <= time.monotonic() - start_s <= 1.0
    assert source.queued_s <= 0.2
    await source.aclose()


async def test_clear_throws_away_at_once() -> None:
    source = PushSource(Kind.AUDIO, limit_s=0.5)
    frames = collect(source)
    pushing = asyncio.create_task(source.push(pcm(10)))
    waiting = asyncio.create_task(source.wait_played())
    await until(lambda: len(frames) >= 3)
    source.clear()
    count = len(frames)
    async with asyncio.timeout(0.5):
        assert not await pushing
        assert not await waiting
    assert source.queued_s == 0
    await asyncio.sleep(0.1)
    assert len(frames) <= count + 1
    assert await source.push(pcm(0.1)), "it goes on afterwards"
    assert await source.wait_played()
    await source.aclose()


async def test_waiting_with_nothing_pushed_is_over_at_once() -> None:
    source = PushSource(Kind.AUDIO)
    async with asyncio.timeout(0.5):
        assert await source.wait_played()
    await source.aclose()


async def test_closing_frees_whoever_waits() -> None:
    source = PushSource(Kind.AUDIO, limit_s=0.1)
    pushing = asyncio.create_task(source.push(pcm(10)))
    waiting = asyncio.create_task(source.wait_played())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        await source.aclose()
        with pytest.raises(MediaError, match="any more"):
            await pushing
        assert not await waiting
    with pytest.raises(MediaError, match="any more"):
        await source.push(pcm(0.1))


async def test_a_cancelled_push_leaves_the_source_usable() -> None:
    source = PushSource(Kind.AUDIO, limit_s=0.1)
    pushing = asyncio.create_task(source.push(pcm(10)))
    await asyncio.sleep(0.05)
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert await source.push(pcm(0.05))
    assert await source.wait_played()
    await source.aclose()


async def test_after_a_pause_it_plays_from_now() -> None:
    source = PushSource(Kind.AUDIO)
    frames = collect(source)
    await source.push(pcm(0.04))
    await source.wait_played()
    await asyncio.sleep(0.3)
    before_ns = time.monotonic_ns()
    await source.push(pcm(0.04))
    await source.wait_played()
    assert [f.timestamp_ns >= before_ns for f in frames] == [False, False, True, True]
    await source.aclose()


async def test_pictures_are_held_to_the_rate() -> None:
    source = PushSource(Kind.VIDEO, fps=20)
    frames = collect(source)
    for i in range(6):
        assert await source.push(draw(Stamp(3, i), 320, 240, 0))
    assert await source.wait_played()
    assert [read(f) for f in frames if isinstance(f, VideoFrame)] == [Stamp(3, i) for i in range(6)]
    assert {b.timestamp_ns - a.timestamp_ns for a, b in pairwise(frames)} == {50_000_000}
    await source.aclose()


async def test_what_does_not_fit_is_refused() -> None:
    source = PushSource(Kind.AUDIO)
    with pytest.raises(MediaError, match="no PCM"):
        await source.push(b"123")
    with pytest.raises(MediaError, match="VideoFrame cannot be pushed"):
        await source.push(draw(Stamp(1, 1), 320, 240, 0))
    with pytest.raises(UsageError):
        PushSource(Kind.AUDIO, limit_s=0)
    await source.aclose()
