"""Fuzz parsers, in turns, until an hour of processor time has brought no new edge of our code.

    tox run -e fuzz                             what there is
    tox run -e fuzz -- all                      every parser
    tox run -e fuzz -- --quiet-s 300 sync key   these two, until 5 minutes brought nothing
    tox run -e fuzz -- --minimise all           no hunt: keep in tests/fuzz/corpus what takes every edge
    tox run -e fuzz -- --time-per-byte all      no hunt: what a byte costs

The parser that has been quiet for the shortest time gets the next turn, so that in the end all have been
quiet for as long. An input that raises, takes 2 minutes or 2 GB is kept in tests/fuzz/found/HARNESS, from
where the unit tests take it ever after; its parser gets no more turns. What was learnt, and the account of
it, is kept in .tox/fuzz-learnt: the next hunt goes on from there, with clocks at nought if code has changed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.fuzz import account, corpus  # noqa: E402
from tests.fuzz.mutate import write_dictionary  # noqa: E402

_PROGRESS = re.compile(r"#(\d+)\s+(\S+)\s+cov: (\d+)")
_TURN_S = 60.0
_LIMITS = ("-max_len=65536", "-timeout=120", "-report_slow_units=120", "-rss_limit_mb=2048")
_EDGES_ALONE = ("-merge=1", "-use_counters=0")


def child(script: str, module: str, name: str, *arguments: str) -> None:
    """Be libFuzzer with one parser, in a process of its own: it ends only together with it.

    :param script: runs this, so that libFuzzer can when it merges.
    """
    import atheris

    with atheris.instrument_imports(include=list(account.PACKAGES)):
        importlib.import_module(module)
    from tests.fuzz.harness import HARNESSES
    from tests.fuzz.mutate import mutated

    harness = HARNESSES[name]

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        changed = mutated(data, seed) if harness.is_json and seed % 8 else None
        if changed is None or len(changed) > most:
            return bytes(atheris.Mutate(data, most))
        return changed

    atheris.Setup([script, *arguments], harness.run, custom_mutator=mutator)
    atheris.Fuzz()


def command(name: str, *arguments: str) -> list[str]:
    """Make what runs a parser under libFuzzer, with all that is known of its inputs."""
    from tests.fuzz.harnesses import HARNESSES

    harness, script = HARNESSES[name], corpus.LEARNT / f"{name}.sh"
    learnt = str(corpus.folder(harness))
    child = shlex.join([sys.executable, __file__, "--child", str(script), harness.module, name])
    script.write_text(f'#!/bin/sh\nexec {child} "$@"\n')
    script.chmod(0o755)
    return [str(script), *arguments, learnt, *_LIMITS]


def spent_s(pid: int) -> float:
    """Give the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines_of(process: subprocess.Popen[str]) -> Iterator[str | None]:
    """Yield its lines, None now and then while there are none, and end with it."""
    lines: Queue[str | None] = Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.put(line)
        lines.put("")

    Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except Empty:
            line = None
        if line == "":
            return
        yield line


def turn(name: str, turn_s: float, books: account.Account) -> bool:
    """Let one parser have its turn; tell whether it did not break."""
    found, words = corpus.FOUND / name, corpus.LEARNT / "words.dict"
    found.mkdir(parents=True, exist_ok=True)
    hunting = command(name, f"-artifact_prefix={found}{os.sep}", f"-dict={words}")
    write_dictionary(words)
    process = subprocess.Popen(
        ["nice", "-n", "19", *hunting], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    begun_s: float | None = None
    inputs = begun_inputs = 0
    said: list[str] = []
    try:
        for line in lines_of(process):
            match = _PROGRESS.match(line or "")
            now_s = spent_s(process.pid)
            if match is not None:
                inputs, edges = int(match[1]), int(match[3])
                if begun_s is None and match[2] == "INITED":
                    begun_s, begun_inputs = now_s, inputs
                    books.begins(name, edges)
                elif begun_s is not None:
                    books.hunts(name, now_s - begun_s, inputs - begun_inputs, edges)
            elif line is not None:
                said = [*said[-40:], line]
            if begun_s is not None and now_s - begun_s > turn_s:
                books.hunts(name, now_s - begun_s, inputs - begun_inputs)
                books.ends(name)
                return True
    finally:
        process.kill()
        process.wait()
    books.ends(name, broke=True)
    print("".join(said))
    print(f"{name}: it broke; the input is in {corpus.FOUND / name}")
    return False


def hunt(names: list[str], quiet_s: float) -> bool:
    """Fuzz parsers in turns; tell whether nothing was found."""
    books = account.Account.load()
    left, sound = list(names), True
    while left and (books.quiet_s < quiet_s or set(left) - books.entries.keys()):
        name = min(left, key=books.quiet_of_s)
        if not turn(name, min(_TURN_S, quiet_s), books):
            left.remove(name)
            sound = False
        print(books.line(name), flush=True)
        books.save()
    print(books.table(names))
    return sound


def minimise(name: str) -> bool:
    """Keep the least inputs that take every edge that is known."""
    from tests.fuzz.harnesses import HARNESSES

    with tempfile.TemporaryDirectory() as into:
        subprocess.run(command(name, *_EDGES_ALONE, into), check=True, stderr=subprocess.DEVNULL)
        kept = corpus.keep(HARNESSES[name], into)
    print(f"{name}: {kept}", flush=True)
    return True


def dear(name: str) -> bool:
    """Print what a byte costs; tell whether none costs more than ten times as much as in the middle."""
    from tests.fuzz.harnesses import HARNESSES
    from tests.fuzz.shapes import MOST_TIMES_MEDIAN, Costs

    middle, dearest = Costs(HARNESSES[name]).dearest()
    most = dearest[0][0] / max(middle, 1e-9)
    print(
        f"{name}: {middle:.0f} ns a byte in the middle of known inputs, {most:.1f} times as much at most:"
    )
    for cost, way, data in dearest[:3]:
        print(f"  {cost:8.0f} ns a byte   {len(data):8,} bytes   {way}", flush=True)
    return most <= MOST_TIMES_MEDIAN


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("harness", nargs="*", help="which; or all")
    parser.add_argument("--quiet-s", type=float, default=3600.0, help="give up after")
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--time-per-byte", action="store_true")
    asked = parser.parse_args()
    from tests.fuzz.harnesses import HARNESSES

    names = list(HARNESSES) if asked.harness == ["all"] else asked.harness
    for name in set(names) - set(HARNESSES):
        parser.error(f"there is no {name}; there are {', '.join(HARNESSES)}")
    if not names:
        for name, harness in HARNESSES.items():
            print(f"{name:16} {harness.about}")
    elif asked.minimise or asked.time_per_byte:
        sys.exit(0 if all(list(map(minimise if asked.minimise else dear, names))) else 1)
    else:
        sys.exit(0 if hunt(names, asked.quiet_s) else 1)


if __name__ == "__main__":
    main()
