"""Fuzz parsers until an hour of processor time has brought no new edge of their code; keeps what broke them.

    tox run -e fuzz                          what there is
    tox run -e fuzz -- sync room_file        these two, one after the other
    tox run -e fuzz -- --quiet-s 300 all     every one, each until 5 minutes brought nothing
    tox run -e fuzz -- --time-per-byte all   no hunt: what a byte costs in inputs that grow in every way

An input that raises, takes 10 s or 2 GB is kept in tests/fuzz/found/HARNESS, from where the unit tests take
it ever after. What the hunt has learnt stays in .tox/fuzz-corpus: the next one goes on from there.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / ".tox" / "fuzz-corpus"
FOUND = ROOT / "tests" / "fuzz" / "found"
_PROGRESS = re.compile(r"#(\d+)\s+\S+\s+cov: (\d+)")
_LIMITS = ("-max_len=65536", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=0")
sys.path.insert(0, str(ROOT))


def child(name: str) -> None:
    """Hunt without end, in a process of its own: libFuzzer ends only together with it."""
    import atheris

    with atheris.instrument_imports(include=["rtcfoci", "rtcfoci_mesh"]):
        from tests.fuzz.harnesses import HARNESSES
    from tests.fuzz.mutate import mutated

    harness = HARNESSES[name]

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        changed = mutated(data, seed) if harness.is_json and seed % 8 else None
        if changed is None or len(changed) > most:
            return bytes(atheris.Mutate(data, most))
        return changed

    corpus, found = CORPUS / name, FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    for seed in harness.seeds():
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    arguments = [sys.argv[0], str(corpus), f"-artifact_prefix={found}{os.sep}", *_LIMITS]
    atheris.Setup(arguments, harness.run, custom_mutator=mutator)
    atheris.Fuzz()


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
            line = lines.get(timeout=5)
        except Empty:
            line = None
        if line == "":
            return
        yield line


def hunt(name: str, quiet_s: float) -> bool:
    """Fuzz one parser; tell whether nothing was found."""
    command = [sys.executable, __file__, "--child", name]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    edges = inputs = 0
    now_s = last_s = 0.0
    said: list[str] = []
    try:
        for line in lines_of(process):
            now_s = spent_s(process.pid)
            match = _PROGRESS.match(line or "")
            if match is not None:
                inputs = int(match[1])
                if int(match[2]) > edges:
                    edges, last_s = int(match[2]), now_s
                    print(f"{name} {now_s:8.1f} s {inputs:11,} inputs {edges:6,} edges", flush=True)
            elif line is not None:
                said = [*said[-40:], line]
            if now_s - last_s > quiet_s:
                print(
                    f"{name}: {edges:,} edges by {inputs:,} inputs in {now_s / 60:.1f} minutes of processor "
                    f"time, the last {(now_s - last_s) / 60:.1f} of them without a new one"
                )
                return True
    finally:
        process.kill()
        process.wait()
    print("".join(said))
    print(f"{name}: it broke after {now_s:.0f} s; the input is in {FOUND / name}")
    return False


def dear(name: str) -> bool:
    """Print what a byte costs; tell whether none costs more than it may."""
    from tests.fuzz.harnesses import HARNESSES
    from tests.fuzz.shapes import costs, verdict

    rows = costs(HARNESSES[name])
    middle, over = verdict(rows)
    print(f"{name}: {middle:.1f} ns a byte in the middle of {len(rows)} inputs; the dearest:")
    for cost, way, size in rows[:5]:
        print(f"  {cost:8.1f} ns a byte = {cost / middle:4.1f} x   {size:8,} bytes   {way}")
    return not over


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("harness", nargs="*", help="which; or all")
    parser.add_argument("--quiet-s", type=float, default=3600.0, help="give up after")
    parser.add_argument("--time-per-byte", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
    from tests.fuzz.harnesses import HARNESSES

    names = list(HARNESSES) if asked.harness == ["all"] else asked.harness
    for name in set(names) - set(HARNESSES):
        parser.error(f"there is no {name}; there are {', '.join(HARNESSES)}")
    if not names:
        for name, harness in HARNESSES.items():
            print(f"{name:12} {harness.about}")
    work = dear if asked.time_per_byte else lambda name: hunt(name, asked.quiet_s)
    sys.exit(0 if all(map(work, names)) else 1)


if __name__ == "__main__":
    main()
