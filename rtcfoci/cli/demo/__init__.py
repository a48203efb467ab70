"""`rtcfoci demo`: three participants in three processes, a real homeserver, and one verdict.

In: the options, the two scenes (an encrypted and a clear room), what is printed.
Out: the homeserver and its people (`stage`), what a focus needs beside it (`helper`), the processes
(`cast`), the table (`board`), and the verdict, which is computed only from the files that the
receivers recorded (`rtcfoci.media.verdict`, `data`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import groupby, permutations
from pathlib import Path
from typing import TYPE_CHECKING

from rtcfoci.cli.join import add_focus_options, chosen_foci, stop_on_signals
from rtcfoci.cli.options import EXIT_NEGATIVE, EXIT_OK, Parser, current
from rtcfoci.errors import PluginError, UsageError
from rtcfoci.plugin.manager import PluginManager

if TYPE_CHECKING:
    from rtcfoci.cli.demo.cast import Cast
    from rtcfoci.cli.demo.helper import Helper
    from rtcfoci.cli.demo.stage import Stage
    from rtcfoci.media.signature import Signature
    from rtcfoci.plugin.hookspecs import Capabilities, FocusType

__all__ = ["run"]

NAMES = ("ann", "bob", "cem")
KILLED = "cem"
_CALL_S = 4.0
"""How long everybody receives everybody; the verdict asks for half of it."""
_CONNECT_TIMEOUT_S = 60.0  # a busy machine starts three interpreters slowly
_LEAVE_DELAY_S = 6.0
_NOTICE_MEDIA_S = 5.0
_NOTICE_LEAVE_S = _LEAVE_DELAY_S + 4.0


@dataclass(frozen=True, slots=True)
class _Finding:
    """One thing that had to be so."""

    room: str
    ok: bool
    what: str
    """Who should have noticed whom."""
    part: str
    """Audio, video, data or membership."""
    text: str
    """What was found."""


@dataclass(frozen=True)
class _Play:
    """What the demo was asked for, settled before anything starts."""

    options: argparse.Namespace
    folder: Path
    foci: list[tuple[str, Mapping[str, object]]]
    kind: FocusType
    marks: Mapping[str, Signature]
    helpers: Sequence[Helper]

    @property
    def can(self) -> Capabilities:
        return self.kind.capabilities


def run(arguments: list[str]) -> int:
    """Run the command."""
    parser = Parser(
        prog="rtcfoci demo",
        description="Start a homeserver, let three processes call each other, and judge it.",
    )
    add_focus_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep everything in this folder")
    parser.add_argument("--seed", type=int, help="choose the same tones and picture ids again")
    parser.add_argument(
        "--rooms",
        choices=("both", "encrypted", "clear"),
        default="both",
        help="in which rooms to call (default: both)",
    )
    parser.add_argument(
        "--sabotage",
        metavar="block:RECEIVER:SENDER|distort:SENDER",
        help="break one thing on purpose, to see that the verdict notices",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="beside",
        metavar="COMMAND",
        help="run this while the demo runs, such as the focus's server; {homeserver} stands for the "
        "homeserver's URL, the first line it prints says that it is ready; may be repeated",
    )
    play = _settle(parser.parse_args(arguments))
    _say(f"everything is in {play.folder}")

    from rtcfoci.testing.synapse_env import ensure_environment

    ensure_environment(_say)
    return asyncio.run(_until_stopped(play))


def _settle(options: argparse.Namespace) -> _Play:
    """Refuse what cannot work before minutes are spent on the homeserver."""
    for module in ("aiohttp", "nio", "av", "numpy", "rich", "PIL"):
        try:
            import_module(module)
        except ImportError as error:
            raise UsageError(
                f"the demo needs {module}",
                why=str(error),
                do="install it with its extras: pip install 'rtcfoci[cli]' rtcfoci-mesh",
            ) from None
    from rtcfoci.cli.demo.helper import Helper
    from rtcfoci.media.signature import signatures
    from rtcfoci.media.specs import check_folder

    foci = chosen_foci(options)
    manager = current().manager or PluginManager.load()
    kind = manager.focus_type(foci[0][0])
    if kind == manager.recognise("mesh"):  # also where loopback is the only interface
        foci[0][1].setdefault("loopback", True)  # type: ignore[attr-defined]
    if not kind.capabilities.audio and not kind.capabilities.data:
        raise PluginError(f"{kind.type} carries neither media nor data", plugin=kind.type)
    _check_sabotage(options.sabotage)
    folder = options.out or Path(tempfile.mkdtemp(prefix="rtcfoci-demo-"))
    check_folder(folder)
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    helpers = [Helper(command, folder) for command in options.beside]
    return _Play(options, folder, foci, kind, signatures(NAMES, seed), helpers)


def _check_sabotage(sabotage: str | None) -> None:
    words = (sabotage or "").split(":")
    good = words in ([""],) or (
        words[0] == "block" and len(words) == 3 and {*words[1:]} <= {*NAMES}
    )
    if not good and not (words[0] == "distort" and len(words) == 2 and words[1] in NAMES):
        raise UsageError(
            f"--sabotage {sabotage!r} is not understood",
            why=f"it is block:RECEIVER:SENDER or distort:SENDER, with names out of {NAMES}",
            do="for example: --sabotage block:ann:bob",
        )


async def _until_stopped(play: _Play) -> int:
    """Play, or take everything down when told to stop.

    :raises KeyboardInterrupt: when told to stop.
    """
    with stop_on_signals() as stopped:
        playing = asyncio.create_task(_demo(play))
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait((playing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            _say("stopping")
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            raise KeyboardInterrupt
        waiting.cancel()
        return await playing


async def _demo(play: _Play) -> int:
    from rtcfoci.cli.demo.stage import Stage

    began_s = time.monotonic()
    rooms = ("clear", "encrypted") if play.options.rooms == "both" else (play.options.rooms,)
    findings: list[_Finding] = []
    async with Stage(play.folder / "homeserver", NAMES) as stage, AsyncExitStack() as beside:
        _say(f"homeserver {stage.base_url} is up after {time.monotonic() - began_s:.1f} s")
        for helper in play.helpers:
            await beside.enter_async_context(helper.beside(stage.base_url))
        for room in rooms[:-1]:
            findings += await _call(play, stage, room)
        findings += await _call(play, stage, rooms[-1], kill=True)
    for room in rooms:
        findings += await asyncio.to_thread(_judge, play, room)
    return _conclude(play, findings, time.monotonic() - began_s)


def _conclude(play: _Play, findings: Sequence[_Finding], took_s: float) -> int:
    failed = [finding for finding in findings if not finding.ok]
    for (room, what), group in groupby(findings, lambda f: (f.room, f.what)):
        found = list(group)
        texts = "; ".join(f"{f.part} {f.text if f.ok else 'FAILED, ' + f.text}" for f in found)
        ok = all(finding.ok for finding in found)
        _say(f"{'ok  ' if ok else 'FAIL'} {room}: {what}: {texts}", "" if ok else "bold red")
    if play.can.audio:
        for room in dict.fromkeys(finding.room for finding in findings):
            folder = play.folder / room
            _say(f"pictures: {folder / 'contact-sheet.png'} and {folder / 'waveforms.png'}")
    if failed:
        names = ", ".join(f"{f.room}: {f.what} {f.part}" for f in failed)
        _say(f"FAILED after {took_s:.0f} s: {names}", "bold red")
    else:
        _say(f"passed after {took_s:.0f} s", "bold green")
    if current().json:
        verdict = {"ok": not failed, "took_s": round(took_s, 1), "folder": str(play.folder)}
        json.dump({**verdict, "findings": [asdict(f) for f in findings]}, sys.stdout)
        sys.stdout.write("\n")
    return EXIT_NEGATIVE if failed else EXIT_OK


async def _call(play: _Play, stage: Stage, room: str, *, kill: bool = False) -> list[_Finding]:
    from rtcfoci.cli.demo.board import Board
    from rtcfoci.cli.demo.cast import Cast

    _say(f"the {room} room: {', '.join(NAMES)} join over {play.kind.type}, a process each")
    folder = play.folder / room
    async with Cast(
        stage, stage.rooms[room], folder, play.foci, play.can, play.marks, play.options
    ) as cast:
        with Board(cast, title=f"the {room} room: frames a second, receiver by sender"):
            if not await cast.wait_all_received(_CONNECT_TIMEOUT_S):
                _say("not everybody receives everybody; the verdict will say what is missing")
            await asyncio.sleep(_CALL_S)
            return await _kill_one(play, cast, room) if kill else []


async def _kill_one(play: _Play, cast: Cast, room: str) -> list[_Finding]:
    """Kill one participant without a word, and see when the others notice."""
    killed_s = time.monotonic()
    cast.kill(KILLED)
    _say(f"{KILLED} is killed (SIGKILL)", "yellow")

    async def notice(name: str, what: str, noticed: partial[bool], limit_s: float) -> _Finding:
        ok = await cast.wait_until(noticed, limit_s)
        seen = f"seen gone {time.monotonic() - killed_s:.1f} s after the kill"
        text = seen if ok else f"not seen gone within {limit_s:.0f} s"
        _say(f"{name}: {KILLED}'s {what} was {text}", "yellow")
        return _Finding(room, ok, f"{name} on {KILLED}", what, text)

    return await asyncio.gather(
        *(
            notice(name, what, partial(noticed, KILLED), limit_s)
            for name in NAMES
            if name != KILLED
            for what, noticed, limit_s in (
                ("media", cast[name].media_of_gone, _NOTICE_MEDIA_S),
                ("membership", cast[name].has_left, _NOTICE_LEAVE_S),
            )
            if what != "media" or play.can.audio or play.can.video
        )
    )


def _judge(play: _Play, room: str) -> list[_Finding]:
    """Find out from the recordings alone who heard and saw whom, and draw them."""
    folder = play.folder / room
    findings: list[_Finding] = []
    if play.can.audio:
        from rtcfoci.media.pictures import contact_sheet, waveforms
        from rtcfoci.media.verdict import judge

        files = {
            (receiver, sender): folder / receiver / f"{sender}.mkv"
            for receiver, sender in permutations(NAMES, 2)
            if (folder / receiver / f"{sender}.mkv").exists()
        }
        verdict = judge(files, play.marks, least_s=_CALL_S / 2)
        findings += (
            _Finding(room, f.ok, f"{f.receiver} <- {f.sender}", f.kind.value, f.text)
            for f in verdict.findings
        )
        tones = {name: mark.tone_hz for name, mark in play.marks.items()}
        contact_sheet(files, folder / "contact-sheet.png", verdict=verdict)
        waveforms(files, folder / "waveforms.png", verdict=verdict, tones=tones)
    if play.can.data:
        from rtcfoci.cli.demo.data import judge_data

        findings += (
            _Finding(room, ok, what, "data", text) for ok, what, text in judge_data(folder, NAMES)
        )
    return sorted(findings, key=lambda finding: finding.what)


def _say(text: str, style: str = "") -> None:
    from rtcfoci.cli.demo.board import say  # rich is looked for first

    say(text, style)
