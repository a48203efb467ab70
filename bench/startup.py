"""What a start costs over a bare interpreter: `import rtcfoci`, and `rtcfoci --help`.

Each round runs the bare interpreter and both commands in turn, so that a busy moment hits all three. The
figure is the median of the differences within rounds. Exits with 1 when a budget is exceeded.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

BUDGETS_MS = {"import rtcfoci": 60.0, "rtcfoci --help": 250.0}
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import rtcfoci": [sys.executable, "-c", "import rtcfoci"],
    "rtcfoci --help": [str(Path(sys.executable).with_name("rtcfoci")), "--help"],
}


def once_ms(command: list[str]) -> float:
    """Time one run of a command, milliseconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def machine() -> str:
    """Describe what was measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in ("rtcfoci", "pluggy", "pydantic"))
    return (
        f"{platform.platform()}, {model or platform.machine()}, {os.cpu_count()} cores, load {load}\n"
        f"Python {platform.python_version()}, {packages}"
    )


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():  # fills the caches of bytecode and disk
        once_ms(command)
    taken_ms = [
        {name: once_ms(command) for name, command in COMMANDS.items()} for _ in range(rounds)
    ]
    print(machine())
    bare = statistics.median(taken["bare"] for taken in taken_ms)
    print(f"{'bare interpreter':<16} {bare:6.1f} ms (median of {rounds})")
    exceeded = False
    for name, budget in BUDGETS_MS.items():
        over = sorted(taken[name] - taken["bare"] for taken in taken_ms)
        median = statistics.median(over)
        low, high = over[rounds // 4], over[-1 - rounds // 4]
        verdict = "ok" if median <= budget else "EXCEEDED"
        exceeded = exceeded or median > budget
        print(
            f"{name:<16} {median:+6.1f} ms ({low:.1f} to {high:.1f}), budget {budget:.0f}: {verdict}"
        )
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
