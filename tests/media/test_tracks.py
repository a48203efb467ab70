import asyncio
import threading
import time

import pytest

from rtcfoci.core.model import Member
from rtcfoci.errors import MediaError
from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, RemoteTrack, TrackId

from .making import until

ADA = Member(user_id="@ada:x", device_id="D", member_id="m")


def frame(number: int) -> AudioFrame:
    return AudioFrame(pcm=bytes(1920), timestamp_ns=number)


def numbers(frames: list[Frame]) -> list[int]:
    return [f.timestamp_ns for f in frames]


def remote() -> RemoteTrack:
    return RemoteTrack(TrackId(ADA, "microphone", ""), Kind.AUDIO)


async def test_every_reader_gets_every_frame_in_order() -> None:
    hub = FrameHub(Kind.AUDIO)
    readers = [hub.open() for _ in range(3)]
    for i in range(10):
        hub.push(frame(i))
    hub.end()
    for reader in readers:
        assert numbers([f async for f in reader]) == list(range(10))
        assert reader.dropped == 0


async def test_a_slow_reader_loses_the_oldest_and_counts_them() -> None:
    hub = FrameHub(Kind.AUDIO)
    slow, quick = hub.open(limit=5), hub.open(limit=100)
    for i in range(20):
        hub.push(frame(i))
    hub.end()
    assert numbers([f async for f in slow]) == [15, 16, 17, 18, 19]
    assert slow.dropped == 15
    assert len([f async for f in quick]) == 20


async def test_a_producer_thread_and_a_loop_lose_nothing_between_them() -> None:
    hub = FrameHub(Kind.AUDIO)
    count = 3000

    def produce() -> None:
        for i in range(count):
            hub.push(frame(i))
            if i % 50 == 0:
                time.sleep(0.001)
        hub.end()

    reader = hub.open(limit=count)
    thread = threading.Thread(target=produce)
    thread.start()
    seen = numbers([f async for f in reader])
    thread.join()
    assert seen == list(range(count))


async def test_a_blocked_loop_never_stalls_the_producer() -> None:
    """While the reader's loop sleeps, pushing costs microseconds and wakes it once, not each time."""
    hub = FrameHub(Kind.AUDIO)
    reader = hub.open(limit=10)
    waiting = asyncio.create_task(anext(reader))
    await asyncio.sleep(0.01)
    slowest_s: list[float] = []

    def produce() -> None:
        for i in range(2000):
            before_s = time.perf_counter()
            hub.push(frame(i))
            slowest_s.append(time.perf_counter() - before_s)

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join()  # on the loop: it is blocked until all are pushed
    assert sum(slowest_s) < 1.0
    assert reader.dropped == 1990
    assert (await waiting).timestamp_ns == 1990


async def test_readers_come_and_go_while_frames_flow() -> None:
    hub = FrameHub(Kind.AUDIO)
    stop = threading.Event()

    def produce() -> None:
        number = 0
        while not stop.is_set():
            hub.push(frame(number))
            number += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        for _ in range(50):
            async with hub.open() as reader:
                first, second = await anext(reader), await anext(reader)
                assert second.timestamp_ns == first.timestamp_ns + 1
        assert not hub.wanted
    finally:
        stop.set()
        thread.join()


def test_a_reader_whose_loop_is_gone_lets_go() -> None:
    hub = FrameHub(Kind.AUDIO)
    loop = asyncio.new_event_loop()
    reader = hub.open()
    hub.push(frame(0))
    loop.run_until_complete(anext(reader))
    loop.close()
    hub.push(frame(1))
    assert not hub.wanted


def test_wanted_is_told_at_the_edges_only() -> None:
    hub = FrameHub(Kind.AUDIO)
    told: list[bool] = []
    hub.on_wanted = told.append
    first, second = hub.open(), hub.open()
    first.close()
    first.close()
    second.close()
    assert told == [True, False]


async def test_an_ended_hub_ends_new_readers_at_once() -> None:
    hub = FrameHub(Kind.AUDIO)
    hub.end()
    hub.end()
    assert [f async for f in hub.open()] == []
    assert not hub.wanted


async def test_a_remote_track_outlives_its_feeds() -> None:
    """The same track, and the same reader on it, while its media moves from one focus to another."""
    track = remote()
    first, second = FrameHub(Kind.AUDIO), FrameHub(Kind.AUDIO)
    identity = track.track_id
    async with track.frames() as reader:
        assert not track.live
        track.attach(first)
        first.push(frame(1))
        track.attach(second)  # make before break: the first still flows, and is no longer heard
        first.push(frame(-1))
        second.push(frame(2))
        track.detach(first)  # not the present feed: nothing changes
        second.push(frame(3))
        assert track.live
        track.detach(second)
        second.push(frame(-1))
        assert not track.live
        track.attach(first)
        first.push(frame(4))
        seen = [(await anext(reader)).timestamp_ns for _ in range(4)]
        assert seen == [1, 2, 3, 4]
    assert track.track_id is identity
    assert not first.wanted
    assert not second.wanted


async def test_a_feed_that_ends_does_not_end_the_track() -> None:
    track, feed, next_feed = remote(), FrameHub(Kind.AUDIO), FrameHub(Kind.AUDIO)
    reader = track.frames()
    track.attach(feed)
    feed.end()
    assert not track.ended
    track.attach(next_feed)
    next_feed.push(frame(1))
    track.end()
    assert numbers([f async for f in reader]) == [1]
    assert track.ended


def test_a_feed_is_taken_only_while_somebody_reads() -> None:
    track, feed = remote(), FrameHub(Kind.AUDIO)
    track.attach(feed)
    assert not feed.wanted
    reader = track.frames()
    assert feed.wanted
    reader.close()
    assert not feed.wanted


async def test_a_track_is_read_at_the_rate_asked_for() -> None:
    track, feed = remote(), FrameHub(Kind.AUDIO)
    track.attach(feed)
    plain, low = track.frames(), track.frames(sample_rate=16_000, channels=2, limit=100)
    for i in range(50):
        feed.push(AudioFrame(pcm=bytes(1920), timestamp_ns=i * 20_000_000))
    track.end()
    assert len([f async for f in plain]) == 50
    frames = [f async for f in low]
    assert len(frames) == 50
    for each in frames:
        assert isinstance(each, AudioFrame)
        assert (each.sample_rate, each.channels, each.samples) == (16_000, 2, 320)
    assert not feed.wanted


async def test_switching_feeds_under_load_keeps_order() -> None:
    """Feeds pushed by threads of their own while the track moves between them: no stall, no crash."""
    track, stop = remote(), threading.Event()
    feeds = [FrameHub(Kind.AUDIO) for _ in range(3)]

    def produce(hub: FrameHub) -> None:
        number = 0
        while not stop.is_set():
            hub.push(frame(number))
            number += 1
            time.sleep(0.0005)

    threads = [threading.Thread(target=produce, args=(hub,)) for hub in feeds]
    for thread in threads:
        thread.start()
    try:
        async with track.frames() as reader:
            for i in range(60):
                track.attach(feeds[i % 3])
                await anext(reader)
        await until(lambda: not any(hub.wanted for hub in feeds))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_consumer_that_raises_is_left_out_and_stops_nobody() -> None:
    hub, wanted, got = FrameHub(Kind.AUDIO), [], []
    hub.on_wanted = wanted.append

    def faulty(_: object) -> None:
        raise ValueError("the application's fault")

    hub.consume(faulty)
    hub.push(frame(0))
    assert wanted == [True, False]
    hub.consume(faulty)
    hub.consume(got.append)
    for i in range(3):
        hub.push(frame(i))
    hub.consume(faulty)
    hub.end()
    assert got == [frame(0), frame(1), frame(2), None]


@pytest.mark.parametrize(
    "fault", [{"pcm": b"123"}, {"channels": 0}, {"sample_rate": 0}, {"channels": 3}]
)
def test_sound_that_is_none_is_refused_where_it_is_made(fault: dict[str, object]) -> None:
    with pytest.raises(MediaError, match="no PCM"):
        AudioFrame(**{"pcm": b"1234", "timestamp_ns": 0, **fault})


@pytest.mark.parametrize(("width", "height"), [(4, 4), (3, 2), (0, 0), (-4, -2)])
def test_a_picture_that_is_none_is_refused_where_it_is_made(width: int, height: int) -> None:
    with pytest.raises(MediaError, match="no I420"):
        VideoFrame(data=bytes(12), width=width, height=height, timestamp_ns=0)
