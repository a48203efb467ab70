"""A call through rtcfoci against bare aiortc, in interleaved pairs over one real Synapse.

    python bench/call.py --pairs 10 --seconds 10 [--video]

Each run is two fresh processes: one is in the call and publishes, the other joins. Measured is the time
from the start of the join to the first remote audio frame, and the processor time of a connection (the
mean of both processes) over the same seconds of the call. Bare runs and ours alternate, and so does which
of a pair goes first, after one pair that does not count; the ratios are of the medians, their intervals
by bootstrap over pairs (95 %).

Both sides send one 48 kHz mono tone (and with `--video` 320x240 at 15), Opus and VP8 by aiortc over
127.0.0.1, in a clear room of two members, with the delayed leave and the membership as state (D3). The
joiner is the offerer on both sides. Imports, plugin loading and login lie before the start on both.

What differs, and is in the figures: ours asks in addition for the room's state (twice: once to refuse
what cannot work, once as the beginning of what it follows), what the server offers (versions,
capabilities, transports), and which delayed events an earlier process left. It restarts its delayed
leave every few seconds, pings its peer, opens a second data channel, keeps media on a thread of its own
and hands the frames to the application's loop. Its HTTP connection is warm from the login. The bare
script's tone is made on its only loop, and its sync asks for everything.

Budgets (design.md): join <= 1.10x; the lower bound of the interval of processor time <= 1.05x; first audio
<= 500 ms. Exits with 1 when one is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import bare_aiortc
from startup import machine

FIGURES = {"join_to_audio_s": "first audio", "cpu_per_connection": "processor"}
JOIN_RATIO, CPU_RATIO, FIRST_AUDIO_S = 1.10, 1.05, 0.5
RESAMPLES = 2000


async def take_part(role: str, session: dict, seconds: float, video: bool) -> dict[str, float]:
    """One of our two processes."""
    # Whatever a call imports on first use is imported before the clock starts, as the bare script does.
    import rtcfoci_mesh.aiortc_engine
    import rtcfoci_mesh.backend  # noqa: F401

    import rtcfoci
    import rtcfoci.call.join
    import rtcfoci.core.dialects.d2
    import rtcfoci.core.dialects.d3
    import rtcfoci.core.dialects.superset
    import rtcfoci.matrix.rooms
    from rtcfoci.call import events as ev
    from rtcfoci.media.frames import Kind
    from rtcfoci.media.sources import PatternSource, ToneSource
    from rtcfoci.plugin.manager import PluginManager

    who = session["peers"][0 if role == "joiner" else 1]
    sources = [ToneSource(440), *([PatternSource(1)] if video else [])]
    first_s: dict[str, float] = {}
    frames = {"audio": 0, "video": 0}
    readers: list[asyncio.Task[None]] = []
    all_media = asyncio.Event()

    async def count(track: rtcfoci.RemoteTrack) -> None:
        async for _ in track.frames():
            frames[track.kind.value] += 1
            first_s.setdefault(track.kind.value, time.monotonic())
            if len(first_s) == len(sources):
                all_media.set()

    async def follow(call: rtcfoci.Call) -> None:
        async for event in call.events():
            if isinstance(event, ev.TrackAdded):
                readers.append(asyncio.create_task(count(event.track)))

    client = await rtcfoci.connect(session["homeserver"], token=who["access_token"])
    manager = PluginManager.load()
    start_s = time.monotonic()
    try:
        async with rtcfoci.join(
            client,
            session["room_id"],
            foci=[("mesh", {"loopback": True})],
            announce={Kind.AUDIO, *([Kind.VIDEO] if video else [])},
            dialect=session["dialect"],
            plugins=manager,
        ) as call:
            readers.append(asyncio.create_task(follow(call)))
            for source in sources:
                for hub in source.hubs.values():
                    await call.publish(hub)
                source.start()
            if role == "resident":
                meter = bare_aiortc.Meter()
                print("ready", flush=True)
                asked = await asyncio.to_thread(sys.stdin.read)
                return {"cpu": meter.rate(*json.loads(asked))} if asked else {}
            await asyncio.wait_for(all_media.wait(), 20)
            await asyncio.sleep(1)
            before, meter, at_s = dict(frames), bare_aiortc.Meter(), time.monotonic()
            await asyncio.sleep(seconds)
            end_s = time.monotonic()
            figures = {f"join_to_{k}_s": s - start_s for k, s in first_s.items()}
            figures |= {f"{k}_fps": (n - before[k]) / (end_s - at_s) for k, n in frames.items()}
            return figures | {"from_s": at_s, "to_s": end_s, "cpu": meter.rate(at_s, end_s)}
    finally:
        for reader in readers:
            reader.cancel()
        for source in sources:
            await source.aclose()
        await client.aclose()


async def sessions(synapse: object, folder: Path, dialect: str | None) -> dict[str, Path]:
    """A room of two for each side."""
    made = {}
    for side in ("bare", "ours"):
        peers = [await synapse.register(f"{side}-{name}", "secret") for name in ("a", "b")]
        room_id = await synapse.create_room(peers[0].access_token)
        await synapse.join_room(peers[1].access_token, room_id)
        made[side] = folder / f"{side}.json"
        made[side].touch(mode=0o600)
        content = {"homeserver": synapse.base_url, "room_id": room_id, "dialect": dialect}
        content["peers"] = [peer._asdict() for peer in peers]
        made[side].write_text(json.dumps(content))
    return made


async def measure(arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run the pairs."""
    from rtcfoci.testing import Synapse, SynapseOptions

    scripts = {"bare": bare_aiortc.__file__, "ours": __file__}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in scripts}
    with tempfile.TemporaryDirectory() as scratch:
        # The same device begins anew in every run: nobody shall be served what another run asked for.
        options = SynapseOptions(extra={"caches": {"sync_response_cache_duration": "0s"}})
        async with Synapse(Path(scratch) / "homeserver", options) as synapse:
            made = await sessions(synapse, Path(scratch), arguments.dialect)
            for pair in range(-1, arguments.pairs):
                sides = list(scripts.items())
                for side, script in sides if pair % 2 else reversed(sides):
                    seconds = arguments.seconds if pair >= 0 else 1.0
                    run = await asyncio.to_thread(
                        bare_aiortc.one_run, script, made[side], seconds, arguments.video
                    )
                    if pair >= 0:
                        runs[side].append(run)
                        print(side, {k: round(v, 3) for k, v in run.items()}, file=sys.stderr)
    return runs


def interval(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """The ratio of medians, and the bounds of its 95 % interval."""

    def ratio(sample: list[tuple[float, float]]) -> float:
        return statistics.median(o for _, o in sample) / statistics.median(b for b, _ in sample)

    dice = random.Random(1)
    drawn = sorted(ratio(dice.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return ratio(pairs), drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session", type=Path, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=("resident", "joiner"), help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a call")
    parser.add_argument("--video", action="store_true", help="audio and video; default audio alone")
    parser.add_argument(
        "--dialect", default="D3", help="what ours writes; the bare script writes D3"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there")
    arguments = parser.parse_args()
    if arguments.role:
        session = json.loads(arguments.session.read_text())
        work = take_part(arguments.role, session, arguments.seconds, arguments.video)
        print(json.dumps(asyncio.run(work)))
        return 0
    before = machine()
    runs = asyncio.run(measure(arguments))
    ratios = {}
    print(before)
    print(
        f"aiortc {version('aiortc')}, load after {machine().partition('load ')[2].splitlines()[0]}"
    )
    print(f"{'':<12} {'bare':>9} {'ours':>9}   ratio (95 % interval), {arguments.pairs} pairs")
    for key, name in FIGURES.items():
        pairs = [(b[key], o[key]) for b, o in zip(runs["bare"], runs["ours"], strict=True)]
        bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios[key] = interval(pairs)
        ratio, low, high = ratios[key]
        scale, unit = (1000, "ms") if key.endswith("_s") else (100, "%")
        print(
            f"{name:<12} {bare * scale:6.1f} {unit:<2} {ours * scale:6.1f} {unit:<2}"
            f"   {ratio:.2f} ({low:.2f} to {high:.2f})"
        )
    ours_s = statistics.median(run["join_to_audio_s"] for run in runs["ours"])
    exceeded = [
        said
        for said, over in (
            (f"join over {JOIN_RATIO:.2f}x", ratios["join_to_audio_s"][0] > JOIN_RATIO),
            (f"processor over {CPU_RATIO:.2f}x", ratios["cpu_per_connection"][1] > CPU_RATIO),
            (f"first audio after {FIRST_AUDIO_S:g} s", ours_s > FIRST_AUDIO_S),
        )
        if over
    ]
    print("budgets: " + (f"EXCEEDED: {', '.join(exceeded)}" if exceeded else "ok"))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": before, "ratios": ratios, "runs": runs}))
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
