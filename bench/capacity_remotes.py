"""The other members of `capacity.py`, in a process of their own, the same for both that are measured.

    python bench/capacity_remotes.py --remotes 8 --video

Each is a stock aiortc connection that answers one offer and sends prepared Opus and VP8 packets, each
from a moment of its own within a frame's time. They report as aiortc does (RTCP), but decode nothing, so
that they take as little as they can of the machine. On stdin and stdout, one JSON object a line: an offer
is answered; `{"count": true}` is answered with what was sent so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from fractions import Fraction

import aioice.ice
import av
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    rtcrtpreceiver,
)
from bare_aiortc import Picture, Tone

RATES = {"audio": 50, "video": 15}
CLOCKS = {"audio": 48_000, "video": 90_000}
LOOP_S = 4


def drain(loop: object, taken: object, given: object, *_: object) -> None:
    """Take what would be decoded, in the place of aiortc's decoder."""
    while taken.get() is not None:
        pass


async def prepared(kind: str) -> list[bytes]:
    """Encode a few seconds of a tone or a picture; the first and every 30th picture is a keyframe."""
    source = Tone() if kind == "audio" else Picture()
    source._start -= 60  # at once, not in real time
    if kind == "audio":
        codec = av.CodecContext.create("libopus", "w")
        codec.format, codec.layout, codec.sample_rate = "s16", "mono", 48_000
        codec.bit_rate = 64_000
    else:
        codec = av.CodecContext.create("libvpx", "w")
        codec.width, codec.height, codec.pix_fmt = 320, 240, "yuv420p"
        codec.bit_rate, codec.gop_size = 300_000, 30
        codec.options = {"deadline": "realtime", "cpu-used": "-6", "lag-in-frames": "0"}
    codec.time_base = Fraction(1, CLOCKS[kind])
    packets = []
    for _ in range(LOOP_S * RATES[kind]):
        packets += [bytes(packet) for packet in codec.encode(await source.recv())]
    return packets


class Prepared(MediaStreamTrack):
    """Packets that were made before, in real time."""

    def __init__(self, kind: str, packets: list[bytes]) -> None:
        self.kind = kind
        super().__init__()
        self._packets = packets
        self._start_s = time.monotonic() + random.random() / RATES[kind]
        self.count = 0

    async def recv(self) -> av.Packet:
        due_s = self._start_s + self.count / RATES[self.kind]
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        packet = av.Packet(self._packets[self.count % len(self._packets)])
        packet.pts = self.count * CLOCKS[self.kind] // RATES[self.kind]
        packet.time_base = Fraction(1, CLOCKS[self.kind])
        self.count += 1
        return packet


class Remotes:
    """The process, as the one that is measured sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def ask(self, what: dict) -> dict:
        async with self._turn:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            return json.loads(await self._process.stdout.readline())

    async def answer(self, sdp: str) -> str:
        """Have the next remote answer an offer."""
        return (await self.ask({"offer": sdp}))["answer"]

    async def sent(self) -> dict[str, int]:
        """Frames that all have sent so far, by kind."""
        return await self.ask({"count": True})


@contextlib.asynccontextmanager
async def remotes(video: bool) -> AsyncIterator[Remotes]:
    """Start them; they end with this process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *(["--video"] if video else []),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
    )  # fmt: skip
    try:
        yield Remotes(process)
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()


async def main(video: bool) -> None:
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    rtcrtpreceiver.decoder_worker = drain
    packets = {kind: await prepared(kind) for kind in (RATES if video else ("audio",))}
    tracks: list[Prepared] = []
    connections: list[RTCPeerConnection] = []
    config = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)

    async def answer(sdp: str) -> str:
        pc = RTCPeerConnection(config)
        connections.append(pc)
        await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        for kind, made in packets.items():
            tracks.append(Prepared(kind, made))
            pc.addTrack(tracks[-1])
        pc.createDataChannel("rtcfoci", negotiated=True, id=0)
        await pc.setLocalDescription(await pc.createAnswer())
        return pc.localDescription.sdp

    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        if "offer" in asked:
            said = {"answer": await answer(asked["offer"])}
        else:
            said = {k: sum(t.count for t in tracks if t.kind == k) for k in packets}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
    await asyncio.gather(*(pc.close() for pc in connections))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", action="store_true")
    asyncio.run(main(parser.parse_args().video))
