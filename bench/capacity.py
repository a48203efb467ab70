"""How many remote peers one process carries, against bare aiortc that encodes once too.

    python bench/capacity.py --runs 3 --seconds 10

A number of remotes is carried when the application in the process under test is handed at least 99 % of
the frames that they sent, of each kind, over the seconds of a run. The remotes are in another process
(`capacity_remotes.py`), the same for both sides, and decode nothing. What is measured: 320x240 at 15
pictures a second in VP8 with sound, and sound alone. Each side's number is searched for by halving, to
one part in sixteen, a fresh process for each step; a step that fails is tried once more, for the machine
may have been busy. Then the processor time of a pair where both carry the budget, with stock aiortc that
encodes for each pair beside them.

Ours is the mesh's own connection, engine and media thread; its signals go over a pipe in place of a
homeserver. The bare script (`bare_encode_once.py`) is what a user of aiortc would write.

Budgets: at least 8 remotes with pictures and 20 with sound alone; at least 0.95x what bare aiortc
carries in the same run (medians). Exits with 1 when one is missed. At most about `--limit` minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from bare_encode_once import count_frames
from capacity_remotes import remotes
from startup import machine

ROOT = Path(__file__).parents[1]
CARRIED = 0.99
RATIO = 0.95
BUDGETS = {"video": 8, "audio": 20}
MOST = {"video": 32, "audio": 64}
"""Where the search ends: beyond, the remotes themselves are what a small machine cannot carry."""
BARE = str(Path(__file__).with_name("bare_encode_once.py"))


async def run(count: int, seconds: float, video: bool) -> dict:
    """Our process."""
    # The tests' context, which is the plugin's contract without Matrix.
    sys.path.insert(0, str(ROOT / "plugins" / "rtcfoci-mesh" / "tests"))
    from meshes import CONFIG, FakeContext, Wire, member, membership
    from rtcfoci_mesh.backend import MeshBackend
    from rtcfoci_mesh.wire import Answer, Lines, TrackInfo, write_signal

    from rtcfoci.media.frames import Kind
    from rtcfoci.media.sources import PatternSource, ToneSource
    from rtcfoci.media.tracks import LocalTrack, TrackId
    from rtcfoci.plugin import Role, TrackAdded

    kinds = [Kind.AUDIO, Kind.VIDEO] if video else [Kind.AUDIO]
    got = {kind.value: 0 for kind in kinds}
    heard: set[TrackId] = set()
    names = {Kind.AUDIO: "microphone", Kind.VIDEO: "camera"}

    class Piped(FakeContext):
        """Signals go to the remotes, which answer with a description alone."""

        async def send_signal(self, to, payload) -> None:
            if payload["kind"] != "offer":
                return
            sdp = await others.answer(payload["sdp"])
            mids = sdp.split("a=group:BUNDLE ")[1].split("\r\n")[0].split()
            answer = Answer(
                instance=to.device_id.lower(), attempt=payload["attempt"], seq=payload["seq"],
                sdp=sdp, need=Lines(1, int(video)),
                tracks=tuple(
                    TrackInfo(mid=mid, kind=kind, source=names[kind], name="0", muted=False)
                    for mid, kind in zip(mids, kinds, strict=False)
                ),
            )  # fmt: skip
            await connection.on_signal(to, write_signal(answer), "bound")

    def taker(track_id: TrackId):
        def take(frame: object) -> None:
            if frame is not None:
                got[track_id_kind[track_id]] += 1
                heard.add(track_id)

        return take

    track_id_kind: dict[TrackId, str] = {}

    async def follow() -> None:
        async for event in connection.events():
            if isinstance(event, TrackAdded):
                track_id_kind[event.track_id] = event.hub.kind.value
                event.hub.consume(taker(event.track_id))

    async with remotes(video) as others:
        config = CONFIG.model_copy(
            update={"max_video_members": 99, "max_audio_members": 99, "connect_timeout_s": 15.0,
                    "resend_s": 15.0}
        )  # fmt: skip
        context = Piped(member("a"), Wire())
        backend = MeshBackend(context, config)
        (transport,) = await backend.local_transports(())
        connection = await backend.connect("all", transport, frozenset(Role))
        following = asyncio.create_task(follow())
        sources = [ToneSource(440), *([PatternSource(1)] if video else [])]
        for source in sources:
            for kind, hub in source.hubs.items():
                track_id = TrackId(context.member, names[kind], "0")
                await connection.publish(LocalTrack(track_id, hub))
            source.start()
        await connection.set_members(
            [membership(member(f"b{n:02}"), video=video) for n in range(count)], [], []
        )
        figures = await count_frames(others, got, lambda: len(heard) == count * len(kinds), seconds)
        for source in sources:
            await source.aclose()
        await connection.aclose()
        await following
        await context.aclose()
    return figures


def once(script: str, count: int, seconds: float, video: bool, *extra: str) -> dict:
    """One run in a fresh process."""
    command = [sys.executable, script, "--remotes", str(count), "--seconds", str(seconds), *extra]
    done = subprocess.run(
        [*command, *(["--video"] if video else [])],
        stdout=subprocess.PIPE, check=True, timeout=seconds + 90,
    )  # fmt: skip
    figures = json.loads(done.stdout)
    figures["part"] = min(
        figures["got"][kind] / figures["sent"][kind] if figures["sent"][kind] else 0.0
        for kind in figures["sent"]
    )
    rates = {"audio": 50, "video": 15}
    figures["offered"] = min(
        sent / (count * rates[kind] * figures["seconds"]) for kind, sent in figures["sent"].items()
    )
    side = "bare" if script == BARE else "ours"
    print(
        f"  {side} {count}: {figures['part']:.1%} of what was sent ({figures['offered']:.1%} of "
        f"what was due), processor {figures['cpu']:.0%}", file=sys.stderr,
    )  # fmt: skip
    return figures


def carries(script: str, count: int, seconds: float, video: bool) -> bool:
    """Whether so many remotes are carried; they themselves must have sent what was due."""
    for _ in range(2):
        figures = once(script, count, seconds, video)
        if figures["all"] and min(figures["part"], figures["offered"]) >= CARRIED:
            return True
    return False


def capacity(script: str, seconds: float, kind: str, start: int) -> int:
    """Search for the most that are carried, from where it was last time."""
    video, least, most = kind == "video", 0, MOST[kind] + 1
    step, count = 4, start
    while most - least > max(1, least // 16):
        if carries(script, count, seconds, video):
            least = count
        else:
            most = count
        if most > MOST[kind] and least:
            count = min(MOST[kind], least + step)
        elif not least:
            count = max(1, most - step)
        else:
            count = (least + most) // 2
        step *= 2
    return least


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kinds", nargs="+", default=["video", "audio"], choices=list(BUDGETS))
    parser.add_argument(
        "--limit", type=float, default=40.0, help="minutes after which no run begins"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--remotes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--video", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    if arguments.remotes:
        print(json.dumps(asyncio.run(run(arguments.remotes, seconds, arguments.video))))
        return 0
    print(machine())
    print(f"aiortc {version('aiortc')}, av {version('av')}")
    ends_s = time.monotonic() + 60 * arguments.limit
    sides = {"bare": BARE, "ours": __file__}
    found: dict[str, dict[str, list[int]]] = {}
    costs: dict[str, dict[str, list[float]]] = {}
    missed = []
    for kind in arguments.kinds:
        budget, video = BUDGETS[kind], kind == "video"
        found[kind] = {side: [] for side in sides}
        costs[kind] = {side: [] for side in ("stock", *sides)}
        for number in range(arguments.runs):
            if number and time.monotonic() > ends_s:
                break
            for side, script in list(sides.items())[:: 1 if number % 2 else -1]:
                start = found[kind][side][-1] if found[kind][side] else budget
                found[kind][side].append(capacity(script, seconds, kind, start))
                costs[kind][side].append(once(script, budget, seconds, video)["cpu"] / budget)
            stock = once(BARE, budget, seconds, video, "--stock")
            costs[kind]["stock"].append(stock["cpu"] / budget)
        bare, ours = (statistics.median(found[kind][side]) for side in sides)
        title = "sound and pictures" if video else "sound alone"
        print(f"{title}: remotes carried: ours {ours:g} {found[kind]['ours']}, ", end="")
        print(f"bare {bare:g} {found[kind]['bare']}, {ours / max(bare, 1):.2f}x")
        medians = {side: statistics.median(costs[kind][side]) for side in costs[kind]}
        said = ", ".join(f"{side} {100 * cpu:.1f} %" for side, cpu in medians.items())
        print(f"{title}: processor of a pair, {budget} remotes: {said}")
        if ours < budget:
            missed.append(f"{title}: {ours:g} remotes, budget {budget}")
        if ours < RATIO * bare:
            missed.append(f"{title}: under {RATIO}x bare")
    print("budgets: " + (f"EXCEEDED: {', '.join(missed)}" if missed else "ok"))
    if arguments.json:
        figures = {"machine": machine(), "carried": found, "processor_of_a_pair": costs}
        arguments.json.write_text(json.dumps(figures))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
