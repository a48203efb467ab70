"""Simulated calls from the command line: `python -m rtcfoci.testing.simulate --seed 7`.

In: one run with its picture, many runs with a summary, the script of a failing run made short.
Out: the runs themselves (`rtcfoci.testing.simulation`).

Exit codes: 0 all was well, 1 a rule was broken, 2 wrong use.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rtcfoci.errors import RtcfociError
from rtcfoci.testing.simulation.picture import svg, text
from rtcfoci.testing.simulation.script import Script, draw
from rtcfoci.testing.simulation.shrink import shrink
from rtcfoci.testing.simulation.world import FOCUS, Outcome, run_script

__all__ = ["Batch", "main", "run_batch", "shorten"]

_PART = 25
"""Seeds that a worker takes at once."""


@dataclass(slots=True)
class Batch:
    """What became of many runs."""

    runs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """How often each kind of step was done."""
    failures: dict[int, str] = field(default_factory=dict)
    """The first broken rule of each failing seed."""
    slowest_s: float = 0.0
    """The longest it took until all was well, virtual seconds."""
    cpu_s: float = 0.0

    def add(self, other: Batch) -> None:
        """Take in a part."""
        self.runs += other.runs
        self.counts += other.counts
        self.failures |= other.failures
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.cpu_s += other.cpu_s

    def __str__(self) -> str:
        lines = [
            f"{self.runs} runs, {len(self.failures)} failed; CPU {self.cpu_s:.0f} s"
            f" ({1000 * self.cpu_s / max(1, self.runs):.0f} ms a run);"
            f" well again after {self.slowest_s:.1f} s at most",
            "done to them: " + ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items())),
        ]
        lines += [f"seed {seed}: {why}" for seed, why in sorted(self.failures.items())]
        return "\n".join(lines)


def run_batch(
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    focus: str = FOCUS,
    progress: Callable[[Batch], None] | None = None,
) -> Batch:
    """Run many seeds.

    :param jobs: how many processes share them.
    :param progress: told the sum after every part.
    """
    parts = [seeds[i : i + _PART] for i in range(0, len(seeds), _PART)]
    total = Batch()
    for part in _parts(parts, jobs, focus):
        total.add(part)
        if progress is not None:
            progress(total)
    return total


def _parts(parts: Sequence[Sequence[int]], jobs: int, focus: str) -> Iterator[Batch]:
    if jobs == 1:
        for seeds in parts:
            yield _run_part(seeds, focus)
        return
    # Fresh processes: nothing of this one may reach a run.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(_run_part, seeds, focus) for seeds in parts]
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _run_part(seeds: Sequence[int], focus: str) -> Batch:
    batch, begin_s = Batch(), time.process_time()
    for seed in seeds:
        outcome = run_script(draw(seed), focus=focus)
        batch.runs += 1
        batch.counts += outcome.counts
        batch.slowest_s = max(batch.slowest_s, outcome.settled_s)
        if outcome.broken:
            batch.failures[seed] = str(outcome.broken[0]).partition("\n")[0]
    batch.cpu_s = time.process_time() - begin_s
    return batch


def shorten(outcome: Outcome, *, focus: str = FOCUS) -> Script:
    """Find the fewest steps that break the rule which a run broke first."""
    rule = outcome.broken[0].rule

    def fails(script: Script) -> bool:
        return any(broken.rule == rule for broken in run_script(script, focus=focus).broken)

    return shrink(outcome.script, fails)


def _seeds(word: str) -> range:
    first, _, last = word.partition("-")
    return range(int(first), int(last or first) + 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rtcfoci.testing.simulate",
        description="Simulated calls, drawn from numbers, broken on purpose, and judged.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay one run, with its timeline")
    what.add_argument(
        "--script", help="replay a script as a failing run printed it; @FILE reads it"
    )
    what.add_argument("--seeds", type=_seeds, metavar="A-B", help="run these and sum up")
    what.add_argument("--count", type=int, help="run so many, from --first on, and sum up")
    parser.add_argument("--first", type=int, default=0, help="the first seed of --count")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the run")
    parser.add_argument("--trace", action="store_true", help="print every line of the trace")
    parser.add_argument("--no-shrink", action="store_true", help="leave a failing run as it is")
    parser.add_argument("--focus", default=FOCUS, metavar="MODULE:TYPE", help="what is simulated")
    return parser


def main(arguments: Sequence[str] | None = None, out: TextIO = sys.stdout) -> int:
    """Run the command; give back the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.seed is not None:
            return _replay(draw(options.seed), f"seed {options.seed}", options, out)
        if options.script is not None:
            told: str = options.script
            told = Path(told[1:]).read_text() if told.startswith("@") else told
            return _replay(Script.from_json(told), "a script", options, out)
        seeds = options.seeds or range(options.first, options.first + options.count)
        return _many(seeds, options, out)
    except RtcfociError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2


def _replay(script: Script, name: str, options: argparse.Namespace, out: TextIO) -> int:
    outcome = run_script(script, focus=options.focus)
    lines: Iterable[object] = script.steps
    if options.trace:
        lines = outcome.notes
    _say(out, *lines, text(outcome), f"trace {outcome.digest[:16]}")
    if outcome.broken and not options.no_shrink:
        script = shorten(outcome, focus=options.focus)
        outcome = run_script(script, focus=options.focus)
        _say(out, "", f"{len(script.steps)} steps are enough:", *script.steps, text(outcome))
        _say(out, f"--script '{script.to_json()}'")
    if options.picture is not None:
        options.picture.write_text(svg(outcome, name))
        _say(out, f"drawn in {options.picture}")
    _say(out, *(f"BROKEN {broken}" for broken in outcome.broken))
    if not outcome.broken:
        _say(out, f"all was well {outcome.settled_s:.1f} s after the last fault")
    return 1 if outcome.broken else 0


def _many(seeds: Sequence[int], options: argparse.Namespace, out: TextIO) -> int:
    begin_s = time.monotonic()

    def progress(batch: Batch) -> None:
        if out.isatty():
            print(f"\r{batch.runs}/{len(seeds)}, {len(batch.failures)} failed", end="", file=out)

    batch = run_batch(seeds, jobs=options.jobs, focus=options.focus, progress=progress)
    _say(out, "\r" * out.isatty() + str(batch), f"{time.monotonic() - begin_s:.0f} s")
    if batch.failures and not options.no_shrink:
        seed = min(batch.failures)
        script = shorten(run_script(draw(seed), focus=options.focus), focus=options.focus)
        _say(out, f"seed {seed}: {len(script.steps)} steps are enough:", *script.steps)
        _say(out, f"--script '{script.to_json()}'")
    return 1 if batch.failures else 0


def _say(out: TextIO, *lines: object) -> None:
    for line in lines:
        print(line, file=out)


if __name__ == "__main__":
    sys.exit(main())
