"""A call between two aiortc peers signalled over a homeserver, with nothing of ours in between.

This is the peer that our own benchmark is compared with. It makes the round trips that a correct
MatrixRTC mesh client must make, and no more: an initial sync, TURN credentials, a delayed leave, the
membership state event, one to-device offer and one to-device answer (in clear, full SDP). It prints the
time from the call to join until the first remote frame of each kind, and the CPU that one connection
costs, as JSON.

    python bench/bare_aiortc.py SESSION.json --runs 10 --seconds 5 --video

SESSION.json: {"homeserver": URL, "room_id": ID, "peers": [{"user_id", "device_id", "access_token"} x 2]};
both are joined to the room and may send the membership event. The second peer is in the call first and
publishes; the first one joins and is measured. Each runs in a process of its own. Raise the homeserver's
`rc_message` limit, or runs in a row measure that. The processor time is that of both processes over the
same seconds, by halves.
"""

from __future__ import annotations

import argparse
import asyncio
import fractions
import json
import math
import subprocess
import sys
import time
import uuid
from array import array
from pathlib import Path
from urllib.parse import quote

import aiohttp
import aioice.ice
import av
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)

MEMBER = "org.matrix.msc3401.call.member"
SIGNAL = "bench.bare_aiortc.signal"
LEAVE_DELAY_MS = 60_000
"""Longer than a run, so that it need not be restarted; cancelled when leaving."""


class Meter:
    """What this process has cost since it began, asked for afterwards: (monotonic, processor) seconds."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self._samples.append((time.monotonic(), time.process_time()))
            await asyncio.sleep(0.1)

    def rate(self, start_s: float, end_s: float) -> float:
        """Processor seconds a second between two moments; the clock is the same in all processes."""
        self._task.cancel()
        within = [s for s in self._samples if start_s <= s[0] <= end_s]
        return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])


class Tone(MediaStreamTrack):
    """48 kHz mono, 20 ms frames, paced by the clock."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        samples = (int(8000 * math.sin(2 * math.pi * 440 * i / 48_000)) for i in range(48_000))
        self._second = array("h", samples).tobytes()
        self._start = time.monotonic()
        self._count = 0

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(self._start + self._count * 0.02 - time.monotonic())
        at = self._count % 50 * 1920
        frame = av.AudioFrame(format="s16", layout="mono", samples=960)
        frame.planes[0].update(self._second[at : at + 1920])
        frame.sample_rate, frame.time_base = 48_000, fractions.Fraction(1, 48_000)
        frame.pts = self._count * 960
        self._count += 1
        return frame


class Picture(MediaStreamTrack):
    """320x240 at 15 frames a second, a moving bar."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()
        self._count = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(self._start + self._count / 15 - time.monotonic())
        frame = av.VideoFrame(320, 240, "yuv420p")
        row = bytes(200 if (x + 4 * self._count) % 320 < 40 else 60 for x in range(320))
        y, u, v = frame.planes
        y.update(b"".join(row.ljust(y.line_size, b"\0") for _ in range(240)))
        u.update(b"\x80" * u.buffer_size)
        v.update(b"\x80" * v.buffer_size)
        frame.pts, frame.time_base = self._count * 6000, fractions.Fraction(1, 90_000)
        self._count += 1
        return frame


class Homeserver:
    """The requests of a call, as one user."""

    def __init__(self, http: aiohttp.ClientSession, base: str, peer: dict[str, str]) -> None:
        self._http = http
        self._base = base
        self._auth = {"Authorization": f"Bearer {peer['access_token']}"}
        self.user_id, self.device_id = peer["user_id"], peer["device_id"]
        self.since = ""
        self._delay_id = ""

    async def ask(self, method: str, path: str, body: object = None, **query: str) -> dict:
        url = f"{self._base}/_matrix/client/{path}"
        data = None if body is None else json.dumps(body).encode()
        while True:
            async with self._http.request(
                method, url, params=query, data=data, headers=self._auth
            ) as answer:
                content = await answer.json()
                if answer.status != 429:
                    return content if answer.status == 200 else {"errcode": str(answer.status)}
                await asyncio.sleep(content.get("retry_after_ms", 500) / 1000)

    async def sync(self, timeout_ms: int) -> dict:
        query = {"timeout": str(timeout_ms)}
        if self.since:
            query["since"] = self.since
        content = await self.ask("GET", "v3/sync", **query)
        self.since = content["next_batch"]
        return content

    def _state_path(self, room: str) -> str:
        key = f"_{self.user_id}_{self.device_id}_m.call"
        return f"v3/rooms/{quote(room)}/state/{MEMBER}/{quote(key)}"

    async def announce(self, room: str) -> None:
        path = self._state_path(room)
        leave = await self.ask("PUT", path, {}, **{"org.matrix.msc4140.delay": str(LEAVE_DELAY_MS)})
        self._delay_id = leave.get("delay_id", "")
        content = {
            "application": "m.call", "call_id": "", "scope": "m.room",
            "device_id": self.device_id, "expires": 14_400_000,
            "focus_active": {"type": "livekit", "focus_selection": "multi_sfu"},
            "foci_preferred": [{"type": "rtcfoci.mesh", "joined_ts_ms": int(time.time() * 1000)}],
        }  # fmt: skip
        answer = await self.ask("PUT", path, content)
        if "event_id" not in answer:
            raise SystemExit(f"the membership was refused: {answer}")

    async def withdraw(self, room: str) -> None:
        await self.ask("PUT", self._state_path(room), {})
        if self._delay_id:
            path = f"unstable/org.matrix.msc4140/delayed_events/{quote(self._delay_id)}"
            await self.ask("POST", path, {"action": "cancel"})

    async def signal(self, to: tuple[str, str], content: dict) -> None:
        path = f"v3/sendToDevice/{SIGNAL}/{uuid.uuid4()}"
        await self.ask("PUT", path, {"messages": {to[0]: {to[1]: content}}})


class Peer:
    """One side of the call."""

    def __init__(self, server: Homeserver, room: str, video: bool) -> None:
        self.server, self.room, self.video = server, room, video
        self.first_s: dict[str, float] = {}
        self.frames = {"audio": 0, "video": 0}
        self.all_media = asyncio.Event()
        self.pc: RTCPeerConnection | None = None
        self.other: tuple[str, str] | None = None
        self._tasks: list[asyncio.Task] = []

    async def join(self) -> None:
        """Announce, then follow the room until cancelled."""
        first, turn = await asyncio.gather(
            self.server.sync(0), self.server.ask("GET", "v3/voip/turnServer")
        )
        uris = turn.get("uris")
        self._ice = [RTCIceServer(uris, turn["username"], turn["password"])] if uris else []
        await self.server.announce(self.room)
        await self._take(first)
        self._tasks.append(asyncio.create_task(self._follow()))

    async def _follow(self) -> None:
        while True:
            await self._take(await self.server.sync(10_000))

    async def _take(self, sync: dict) -> None:
        room = sync.get("rooms", {}).get("join", {}).get(self.room, {})
        events = room.get("state", {}).get("events", []) + room.get("timeline", {}).get(
            "events", []
        )
        members = {e["state_key"]: e for e in events if e["type"] == MEMBER}
        for event in members.values():
            who = (event["sender"], event["content"].get("device_id", ""))
            mine = (self.server.user_id, self.server.device_id)
            if who[0] == mine[0]:
                continue
            if event["content"] and mine < who and self.pc is None:
                await self._offer(who)
            elif not event["content"] and self.pc is not None:
                await self.hang_up()
        for event in sync.get("to_device", {}).get("events", []):
            if event["type"] == SIGNAL:
                await self._signalled(event["sender"], event["content"])

    def _open(self, who: tuple[str, str]) -> RTCPeerConnection:
        self.other = who
        config = RTCConfiguration(iceServers=self._ice, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        pc = self.pc = RTCPeerConnection(config)

        @pc.on("track")
        def track(track: MediaStreamTrack) -> None:
            self._tasks.append(asyncio.create_task(self._count(track)))

        return pc

    def _publish(self, pc: RTCPeerConnection) -> None:
        pc.addTrack(Tone())
        if self.video:
            pc.addTrack(Picture())

    async def _offer(self, who: tuple[str, str]) -> None:
        pc = self._open(who)
        self._publish(pc)
        pc.createDataChannel("data", negotiated=True, id=0)
        await pc.setLocalDescription(await pc.createOffer())
        await self.server.signal(who, self._described(pc))

    async def _signalled(self, sender: str, content: dict) -> None:
        description = RTCSessionDescription(content["sdp"], content["type"])
        if description.type == "answer":
            if self.pc is not None and content["call"] == self._call:
                await self.pc.setRemoteDescription(description)
            return
        await self.hang_up()
        pc = self._open((sender, content["device_id"]))
        self._call = content["call"]
        await pc.setRemoteDescription(description)
        self._publish(pc)
        pc.createDataChannel("data", negotiated=True, id=0)
        await pc.setLocalDescription(await pc.createAnswer())
        await self.server.signal((sender, content["device_id"]), self._described(pc))

    def _described(self, pc: RTCPeerConnection) -> dict:
        local = pc.localDescription
        if local.type == "offer":
            self._call = uuid.uuid4().hex
        return {
            "type": local.type, "sdp": local.sdp,
            "device_id": self.server.device_id, "call": self._call,
        }  # fmt: skip

    async def _count(self, track: MediaStreamTrack) -> None:
        while True:
            frame = await track.recv()
            if isinstance(frame, av.AudioFrame):
                bytes(frame.planes[0])
            else:
                [bytes(plane) for plane in frame.planes]
            self.frames[track.kind] += 1
            self.first_s.setdefault(track.kind, time.monotonic())
            if len(self.first_s) == (2 if self.video else 1):
                self.all_media.set()

    async def hang_up(self) -> None:
        pc, self.pc = self.pc, None
        if pc is not None:
            await pc.close()

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hang_up()
        await self.server.withdraw(self.room)


async def joiner(peer: Peer, seconds: float) -> dict[str, float]:
    start_s = time.monotonic()
    await peer.join()
    try:
        await asyncio.wait_for(peer.all_media.wait(), 20)
        await asyncio.sleep(1)
        before, meter, at_s = dict(peer.frames), Meter(), time.monotonic()
        await asyncio.sleep(seconds)
        end_s = time.monotonic()
        figures = {f"join_to_{k}_s": s - start_s for k, s in peer.first_s.items()}
        figures |= {f"{k}_fps": (n - before[k]) / (end_s - at_s) for k, n in peer.frames.items()}
        return figures | {"from_s": at_s, "to_s": end_s, "cpu": meter.rate(at_s, end_s)}
    finally:
        await peer.leave()


async def resident(peer: Peer) -> dict[str, float]:
    await peer.join()
    meter = Meter()
    print("ready", flush=True)
    try:
        asked = await asyncio.to_thread(sys.stdin.read)
    finally:
        await peer.leave()
    return {"cpu": meter.rate(*json.loads(asked))} if asked else {}


async def play(role: str, session: dict, seconds: float, video: bool) -> dict[str, float]:
    if session.get("loopback", True):
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    who = session["peers"][0 if role == "joiner" else 1]
    async with aiohttp.ClientSession() as http:
        server = Homeserver(http, session["homeserver"], who)
        peer = Peer(server, session["room_id"], video)
        return await (joiner(peer, seconds) if role == "joiner" else resident(peer))


def one_run(script: str, session: Path, seconds: float, video: bool) -> dict[str, float]:
    """A resident process, and when it is in the call a joiner process."""
    command = [sys.executable, script, str(session), "--seconds", str(seconds)]
    command += ["--video"] if video else []
    waiting = subprocess.Popen(
        [*command, "--role", "resident"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    asked = ""
    try:
        if waiting.stdout is None or waiting.stdout.readline().strip() != "ready":
            raise SystemExit("the resident peer did not come up")
        time.sleep(1)  # it has settled: what a start costs is not measured here
        done = subprocess.run(
            [*command, "--role", "joiner"], stdout=subprocess.PIPE, check=True, timeout=90
        )
        figures = json.loads(done.stdout)
        asked = json.dumps([figures.pop("from_s"), figures.pop("to_s")])
    finally:
        try:
            told, _ = waiting.communicate(asked, timeout=20)
        except subprocess.TimeoutExpired:
            waiting.kill()
            raise
    joiner_cpu = figures.pop("cpu")
    return figures | {"cpu_per_connection": (joiner_cpu + json.loads(told)["cpu"]) / 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session", type=Path)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the CPU measurement")
    parser.add_argument("--video", action="store_true", help="audio and video; default audio alone")
    parser.add_argument("--role", choices=("resident", "joiner"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        session = json.loads(arguments.session.read_text())
        result = asyncio.run(play(arguments.role, session, arguments.seconds, arguments.video))
        if result:
            print(json.dumps(result))
        return
    runs = [
        one_run(__file__, arguments.session, arguments.seconds, arguments.video)
        for _ in range(arguments.runs)
    ]
    print(json.dumps({"peer": "bare aiortc", "video": arguments.video, "runs": runs}))


if __name__ == "__main__":
    main()
