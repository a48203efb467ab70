"""A mesh of stock aiortc connections that encodes once: what `capacity.py` compares ours with.

    python bench/bare_encode_once.py --remotes 8 --seconds 10 [--video] [--stock]

Nothing of ours in it. The sound and the picture of this process are each encoded once, and every
connection is given the same `av.Packet`s over a queue of its own, as aiortc has it for encoded media.
Every frame of every remote is decoded and copied, as an application would that does something with it.
With `--stock`, every connection encodes for itself. Prints what the remotes sent, what arrived, and the
processor time of this process, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from fractions import Fraction

import aioice.ice
import av
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from bare_aiortc import Picture, Tone
from capacity_remotes import CLOCKS, remotes

KEY_EVERY = 30
"""Pictures: two seconds, so that whoever comes waits no longer."""


class Fed(MediaStreamTrack):
    """One connection's share of the packets."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__()
        self.queue: asyncio.Queue[av.Packet] = asyncio.Queue()

    async def recv(self) -> av.Packet:
        return await self.queue.get()


def encoder(kind: str) -> av.CodecContext:
    """As aiortc sets them up, but sound in mono and at our rate."""
    if kind == "audio":
        codec = av.CodecContext.create("libopus", "w")
        codec.format, codec.layout, codec.sample_rate = "s16", "mono", 48_000
        codec.bit_rate = 64_000
    else:
        codec = av.CodecContext.create("libvpx", "w")
        codec.width, codec.height, codec.pix_fmt = 320, 240, "yuv420p"
        codec.bit_rate, codec.gop_size, codec.qmin, codec.qmax = 500_000, KEY_EVERY, 2, 56
        codec.options = {
            "bufsize": "500000", "minrate": "500000", "maxrate": "500000", "cpu-used": "-6",
            "deadline": "realtime", "lag-in-frames": "0", "noise-sensitivity": "4",
            "overshoot-pct": "15", "partitions": "0", "static-thresh": "1", "undershoot-pct": "100",
        }  # fmt: skip
        codec.thread_count = 1
    codec.time_base = Fraction(1, CLOCKS[kind])
    return codec


async def encode(kind: str, tracks: list[Fed]) -> None:
    """Encode for all of them; pictures on a thread."""
    source, codec = (Tone() if kind == "audio" else Picture()), encoder(kind)
    loop = asyncio.get_running_loop()
    while True:
        frame = await source.recv()
        if kind == "audio":
            packets = codec.encode(frame)
        else:
            packets = await loop.run_in_executor(None, codec.encode, frame)
        for packet in packets:
            packet.pts, packet.time_base = frame.pts, frame.time_base
            for track in tracks:
                track.queue.put_nowait(packet)


async def run(count: int, seconds: float, video: bool, stock: bool) -> dict:
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    kinds = ["audio", "video"] if video else ["audio"]
    got = dict.fromkeys(kinds, 0)
    heard: set[MediaStreamTrack] = set()
    fed: dict[str, list[Fed]] = {kind: [] for kind in kinds}
    tasks: list[asyncio.Task] = []
    connections: list[RTCPeerConnection] = []

    async def read(track: MediaStreamTrack) -> None:
        while True:
            frame = await track.recv()
            if isinstance(frame, av.AudioFrame):
                bytes(frame.planes[0])
            else:
                [bytes(plane) for plane in frame.planes]
            got[track.kind] += 1
            heard.add(track)

    async with remotes(video) as others:
        for _ in range(count):
            config = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
            pc = RTCPeerConnection(config)
            connections.append(pc)
            pc.on("track", lambda track: tasks.append(asyncio.create_task(read(track))))
            for kind in kinds:
                if stock:
                    pc.addTrack(Tone() if kind == "audio" else Picture())
                else:
                    fed[kind].append(Fed(kind))
                    pc.addTrack(fed[kind][-1])
            pc.createDataChannel("rtcfoci", negotiated=True, id=0)
            await pc.setLocalDescription(await pc.createOffer())
            sdp = await others.answer(pc.localDescription.sdp)
            await pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        if not stock:
            tasks += [asyncio.create_task(encode(kind, fed[kind])) for kind in kinds]
        figures = await count_frames(others, got, lambda: len(heard) == count * len(kinds), seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(pc.close() for pc in connections))
    return figures


async def count_frames(others, got: dict[str, int], ready, seconds: float) -> dict:
    """Wait for all to be heard and settled, then count for so many seconds."""
    for _ in range(150):
        if ready():
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    sent, had, cpu_s, at_s = await others.sent(), dict(got), time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu_s, took_s = time.process_time() - cpu_s, time.monotonic() - at_s
    had = {kind: got[kind] - had[kind] for kind in got}
    sent = {kind: count - sent[kind] for kind, count in (await others.sent()).items()}
    return {"sent": sent, "got": had, "cpu": cpu_s / took_s, "seconds": took_s, "all": ready()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--remotes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--video", action="store_true")
    parser.add_argument("--stock", action="store_true")
    arguments = parser.parse_args()
    work = run(arguments.remotes, arguments.seconds, arguments.video, arguments.stock)
    print(json.dumps(asyncio.run(work)))
