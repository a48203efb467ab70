"""`rtcfoci replay`: feed the recording of a call through the core again, and compare what comes out.

In: the file, the verdict for people and for programs. Out: replaying (`rtcfoci.lab.replay`).
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from rtcfoci.cli.options import EXIT_NEGATIVE, EXIT_OK, Parser, current, printable
from rtcfoci.cli.session import read_text
from rtcfoci.lab.replay import Replay, replay
from rtcfoci.lab.tracefile import TraceFile, read_trace
from rtcfoci.plugin.manager import PluginManager

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Run the command."""
    parser = Parser(
        prog="rtcfoci replay",
        description="Feed a recording through the core again: its effects must be the same, byte for byte.",
    )
    parser.add_argument(
        "trace", metavar="TRACE", help="what `join --trace` wrote; - reads standard input"
    )
    options = parser.parse_args(arguments)
    plugins = current().manager or PluginManager.load()
    trace = read_trace(options.trace, read_text(options.trace), plugins)
    done = replay(trace, plugins)
    if current().json:
        _print_json(trace, done)
    else:
        _print(trace, done)
    return EXIT_OK if done.difference is None else EXIT_NEGATIVE


def _print_json(trace: TraceFile, done: Replay) -> None:
    found = {
        "inputs": done.inputs,
        "effects": done.effects,
        "equal": done.difference is None,
        "complete": trace.complete,
        "recorded_by": trace.made_by,
    }
    if done.difference is not None:
        found["difference"] = {
            "line": done.difference.number,
            "input": done.difference.input,
            "recorded": list(done.difference.recorded),
            "replayed": list(done.difference.replayed),
        }
    sys.stdout.write(json.dumps(found) + "\n")


def _print(trace: TraceFile, done: Replay) -> None:
    verdict = "equal" if done.difference is None else "not equal"
    lines = [f"{done.inputs} inputs, {done.effects} effects, {verdict}"]
    if done.difference is not None:
        lines[0] = f"{lines[0]} at line {done.difference.number}: {done.difference.input}"
        for name, effects in (
            ("recorded", done.difference.recorded),
            ("replayed", done.difference.replayed),
        ):
            lines += [f"{name}: {effect}" for effect in effects or ("nothing",)]
        if trace.made_by != version("rtcfoci"):
            lines.append(
                f"it was recorded by rtcfoci {trace.made_by}, this is {version('rtcfoci')}"
            )
    if not trace.complete:
        lines.append("the recording ends before the call did")
    sys.stdout.write("".join(printable(line) + "\n" for line in lines))
