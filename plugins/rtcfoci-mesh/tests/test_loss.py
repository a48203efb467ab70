"""A pair over a lossy path: what the application hears and sees."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
from meshes import Station, stations, until
from rtcfoci_mesh.aiortc_engine import AiortcSession

from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId

DELAY_S = 0.05
PICTURES_HZ = 15


class Path:
    """What a station sends, delayed, and a part of it lost: the same part of the media in every run."""

    def __init__(self, station: Station, rate: float, seed: int) -> None:
        (peer,) = station.connection._peers.values()
        session = peer._session
        assert isinstance(session, AiortcSession)
        assert session._link is not None
        self._through: Callable[[bytes], Awaitable[None]] = session._link.send_packet
        self._loop = station.connection._media._loop
        self._media, self._others = random.Random(seed), random.Random(seed + 1)
        self._sending: set[asyncio.Task[None]] = set()
        self.rate = rate
        self.rate_media = rate
        session._link.ice._send = self._send

    async def _send(self, data: bytes) -> None:
        # RTP has 2 in its highest bits, and none of the payload types of RTCP (RFC 5761).
        media = 128 <= data[0] < 192 and not 192 <= data[1] < 224
        draw, rate = (self._media, self.rate_media) if media else (self._others, self.rate)
        if draw.random() >= rate:
            self._loop.call_later(DELAY_S, self._late, data)

    def _late(self, data: bytes) -> None:
        async def send() -> None:
            with contextlib.suppress(ConnectionError):
                await self._through(data)

        task = self._loop.create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


@contextlib.contextmanager
def film() -> Iterator[FrameHub]:
    """Pictures of several packets each."""
    hub, stop, draw = FrameHub(Kind.VIDEO), threading.Event(), np.random.default_rng(1)

    def run() -> None:
        start_s, count = time.monotonic(), 0
        while not stop.wait(max(0.0, start_s + count / PICTURES_HZ - time.monotonic())):
            luma = np.kron(draw.integers(0, 255, (15, 20), "u1"), np.ones((16, 16), "u1"))
            data = luma.tobytes() + bytes([128]) * (320 * 240 // 2)
            at_ns = time.monotonic_ns()
            hub.push(VideoFrame(data=data, width=320, height=240, timestamp_ns=at_ns))
            count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield hub
    finally:
        stop.set()
        thread.join()


async def test_a_tenth_is_lost_and_every_frame_of_sound_comes() -> None:
    async with stations("alice", "bob") as (alice, bob):
        track = await alice.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: bob.frames[track.track_id] > 5)
        _paths = Path(alice, 0.1, 7), Path(bob, 0.1, 8)
        await asyncio.sleep(0.5)
        frames: list[AudioFrame] = []

        def take(frame: Frame | None) -> None:
            if isinstance(frame, AudioFrame):
                frames.append(frame)

        stop = bob.hubs[track.track_id].consume(take)
        await until(lambda: len(frames) >= 300)
        stop()
    seconds = (frames[-1].timestamp_ns - frames[0].timestamp_ns) / 1e9
    real = [frame for frame in frames if not frame.concealed]
    assert len(frames) / seconds >= 49
    assert len(real) / seconds >= 43
    assert len(real) < len(frames), "the path lost nothing: this test tells nothing"


async def test_a_twentieth_is_lost_and_pictures_go_on() -> None:
    async with stations("alice", "bob") as (alice, bob):
        with film() as hub:
            track = LocalTrack(TrackId(alice.member, "camera", "0"), hub)
            await alice.connection.publish(track)
            await asyncio.gather(alice.meet(bob), bob.meet(alice))
            await until(lambda: bob.frames[track.track_id] > 5)
            path, _back = Path(alice, 0.05, 3), Path(bob, 0.05, 4)
            times_s: list[float] = []
            bob.hubs[track.track_id].consume(lambda frame: times_s.append(time.monotonic()))
            await asyncio.sleep(6)
            gaps_s = [b - a for a, b in itertools.pairwise(times_s)]
            assert max(gaps_s) < 1.0
            assert len(times_s) > 0.75 * 6 * PICTURES_HZ
            # Nothing comes for longer than packets are asked for: a new key picture is needed.
            path.rate_media = 1.0
            await asyncio.sleep(0.8)
            path.rate_media, count, again_s = 0.05, len(times_s), time.monotonic()
            await until(lambda: len(times_s) > count + 2)
            assert time.monotonic() - again_s < 1.5
