"""What a session costs: one event at a time, a cold load, memory; matrix-js-sdk beside it in the same run.

    python bench/session.py [--rounds 3] [--json FILE] [--svg FILE]

Every figure is of a fresh process (`session_ours.py`, `session_js_sdk.mjs`) that reads the same generated
events: D3 as state, the superset as sticky events, and both by turns. Imports and the decoding of events lie
before the clock on both sides, and so does who is in the room. Every timed event
is a member's membership with other transports, so that each gives a change; the figure of a process is the
median over 2,000 of them, or those of the first ten seconds. Rounds of both sides alternate, and a figure is
the median of its rounds; above 10,000 members there is one, and of the SDK above 1,000. A process of the SDK
that has nothing to say after a minute is given up, and the table says so.

Ours reads with every dialect that rtcfoci brings, and gives diffs; backend identities are computed when they
are asked for, which no timed event does. The SDK's room is a stub that costs it nothing, so its own figure in
a client is higher.

Budgets (design.md): one event at 1,000 members 20 us as state and 40 us sticky, and 30x faster than the SDK
as state, 100x sticky or mixed; at 100,000 members 3x the time at 10; cold load as state not slower than the
SDK up to 1,000 members, 1.5x at 10,000, and 4x faster sticky or mixed at 1,000; 2,000 bytes a member beyond
the raw content. Exits with 1 when one is missed. Without Node the comparison is left out, and says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from drawing import OURS, THEIRS, Axis, Line, Plot, drawing
from session_events import WAYS, write_events
from startup import machine

HERE = Path(__file__).parent
SIZES = (10, 100, 1_000, 10_000, 100_000)
LOADED = (10, 100, 1_000, 10_000)
CHANGES = 2_000
PEER = "matrix-js-sdk 43.0.0"
PEER_MAX_S = 60
"""At 100,000 members it takes that and more to begin."""
EVENT_US = {"state": 20.0, "sticky": 40.0}
EVENT_RATIO = {"state": 30.0, "sticky": 100.0, "mixed": 100.0}
SCALING = 3.0
LOAD_RATIO = {
    ("state", 10): 1.0,
    ("state", 100): 1.0,
    ("state", 1_000): 1.0,
    ("state", 10_000): 1 / 1.5,
    ("sticky", 1_000): 4.0,
    ("mixed", 1_000): 4.0,
}
"""How many times as fast as the peer."""
MEMBER_BYTES = 2_000

Figures = dict[str, dict[str, dict[int, float]]]
"""By side, way and members."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    members: str
    ours: str
    theirs: str = ""
    budget: str = ""
    kept: bool | None = None
    """None without a budget, or when there is nothing to compare with."""


def peer_modules() -> Path | None:
    """Install the peer once; None, with the reason printed, where it cannot be had."""
    sys.path.append(str(HERE.parent / "tests" / "interop"))
    import pytest
    import tools

    try:
        return tools.npm_folder(tools.JS_SDK)
    except pytest.skip.Exception as skipped:
        print(f"no comparison with {PEER}: {skipped}")
        return None


class Measured:
    """Runs measurements, rounds of both sides by turns, and keeps the medians."""

    def __init__(self, rounds: int, modules: Path | None) -> None:
        self.rounds = rounds
        self.sides = {"ours": [sys.executable, str(HERE / "session_ours.py")]}
        if modules is not None:
            self.sides["theirs"] = [
                "node",
                str(HERE / "session_js_sdk.mjs"),
                str(modules),
            ]
        self.event_us: Figures = {side: {way: {} for way in WAYS} for side in self.sides}
        self.load_ms: Figures = {side: {way: {} for way in WAYS} for side in self.sides}
        self.member_bytes: Figures = {"ours": {way: {} for way in WAYS}}

    def all(self, folder: Path) -> None:
        for way in WAYS:
            for members in SIZES:
                file = folder / "events"
                write_events(file, way, members, CHANGES)
                self._both(self.event_us, "each", "us", way, members, file)
                if members in LOADED:
                    self._both(self.load_ms, "load", "ms", way, members, file)
                if members >= 1_000 and members in LOADED:
                    figure = self._once("ours", "memory", "bytes", members, file)
                    assert figure is not None
                    self.member_bytes["ours"][way][members] = figure

    def _both(
        self, into: Figures, what: str, unit: str, way: str, members: int, file: Path
    ) -> None:
        found: dict[str, list[float]] = {side: [] for side in self.sides}
        for number in range(self.rounds):
            for side in self.sides:
                if number == 0 or members <= (10_000 if side == "ours" else 1_000):
                    figure = self._once(side, what, unit, members, file)
                    found[side] += [] if figure is None else [figure]
        for side, figures in found.items():
            if figures:
                into[side][way][members] = statistics.median(figures)

    def _once(self, side: str, what: str, unit: str, members: int, file: Path) -> float | None:
        command = [*self.sides[side], what, str(file), str(members)]
        limit_s = None if side == "ours" else PEER_MAX_S
        try:
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            return None
        figure: float | list[float] = json.loads(done.stdout)[unit]
        return statistics.median(figure) if isinstance(figure, list) else figure

    # What is told

    def rows(self) -> Iterator[Row]:
        for way in WAYS:
            yield from self._event_rows(way)
        for way in WAYS:
            for members in LOADED:
                yield self._compared(
                    f"cold load, {way}", self.load_ms, "ms", way, members,
                    LOAD_RATIO.get((way, members)),
                )  # fmt: skip
        for way, of_size in self.member_bytes["ours"].items():
            for members, figure in of_size.items():
                yield Row(
                    f"bytes a member, {way}", f"{members:,}", f"{figure:,.0f}",
                    budget=f"<= {MEMBER_BYTES:,}", kept=figure <= MEMBER_BYTES,
                )  # fmt: skip

    def _event_rows(self, way: str) -> Iterator[Row]:
        ours = self.event_us["ours"][way]
        for members in SIZES:
            yield self._compared(
                f"one event, {way}", self.event_us, "us", way, members,
                EVENT_RATIO[way] if members == 1_000 else None,
            )  # fmt: skip
            if members == 1_000 and way in EVENT_US:
                yield Row(
                    f"one event, {way}, alone", f"{members:,}", f"{ours[members]:.1f} us",
                    budget=f"<= {EVENT_US[way]:.0f} us", kept=ours[members] <= EVENT_US[way],
                )  # fmt: skip
        growth = ours[SIZES[-1]] / ours[SIZES[0]]
        yield Row(
            f"one event, {way}, growth", f"{SIZES[-1]:,} over {SIZES[0]}", f"{growth:.2f}x",
            budget=f"<= {SCALING:.0f}x", kept=growth <= SCALING,
        )  # fmt: skip

    def _compared(
        self, what: str, figures: Figures, unit: str, way: str, members: int, budget: float | None
    ) -> Row:
        ours = figures["ours"][way][members]
        told, theirs, kept = "" if budget is None else f">= {budget:.3g}x", "", None
        peer = figures.get("theirs", {way: {}})[way].get(members)
        if peer is not None:
            theirs = f"{peer:,.{_digits(peer)}f} {unit}, {peer / ours:,.{_digits(peer / ours)}f}x"
            kept = None if budget is None else peer / ours >= budget
        elif "theirs" in figures:
            theirs = f"nothing within {PEER_MAX_S} s"
        return Row(what, f"{members:,}", f"{ours:,.{_digits(ours)}f} {unit}", theirs, told, kept)

    def picture(self) -> str:
        """One event's time over the number of members."""
        names = {"ours": ("rtcfoci", OURS), "theirs": (PEER, THEIRS)}
        x = Axis(SIZES[0], SIZES[-1], [(size, f"{size:,}") for size in SIZES], log=True)
        ticks = ["10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"]
        y = Axis(10, 1e8, [(10.0 ** (n + 1), tick) for n, tick in enumerate(ticks)], log=True)
        plots = [
            Plot(
                f"One event over members, {way}", x, y,
                [
                    Line(names[side][0], sorted(self.event_us[side][way].items()), names[side][1])
                    for side in self.sides
                ],
            )
            for way in WAYS
        ]  # fmt: skip
        return drawing("The time of one event over the number of members", plots)


def _digits(figure: float) -> int:
    return 0 if figure >= 100 else 1 if figure >= 1 else 2


def table(rows: list[Row]) -> str:
    """Lay rows out in columns."""
    verdicts = {None: "", True: "kept", False: "MISSED"}
    cells = [("what", "members", "rtcfoci", PEER, "budget", "")]
    cells += [(r.what, r.members, r.ours, r.theirs, r.budget, verdicts[r.kept]) for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def main() -> int:
    """Measure, tell, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each figure")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--svg", type=Path, help="draw them here")
    arguments = parser.parse_args()
    print(machine())
    measured = Measured(arguments.rounds, peer_modules())
    with tempfile.TemporaryDirectory() as folder:
        measured.all(Path(folder))
    rows = list(measured.rows())
    print(table(rows))
    if arguments.json:
        told = {
            "machine": machine(),
            "peer": PEER,
            "rounds": arguments.rounds,
            "event_us": measured.event_us,
            "load_ms": measured.load_ms,
            "member_bytes": measured.member_bytes,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    if arguments.svg:
        arguments.svg.write_text(measured.picture())
    return 0 if all(row.kept is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
