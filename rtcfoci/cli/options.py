"""What every command of the command line shares: global options, a parser that raises, error output.

In: `--debug`, `--json`, `--plugin` wherever they stand; three-line errors and exit codes.
Out: which commands there are (`main`, through the plugin hooks).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TextIO

from rtcfoci.errors import (
    BackendError,
    LocalProtocolError,
    PreflightError,
    RtcfociError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from rtcfoci.plugin.manager import PluginManager

__all__ = [
    "EXIT_NEGATIVE",
    "EXIT_OK",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "Options",
    "Parser",
    "current",
    "exit_code",
    "print_error",
    "printable",
    "seconds",
    "take_global",
    "use",
]

EXIT_OK = 0
EXIT_NEGATIVE = 1
"""The command did its work, and the verdict is no."""
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options, and the plugins they led to."""

    debug: bool = False
    json: bool = False
    """Whether results and errors are printed as JSON."""
    plugins: tuple[str, ...] = ()
    manager: PluginManager | None = None
    """What `main` loaded; commands use it instead of loading again."""


_current: ContextVar[Options] = ContextVar("rtcfoci_cli_options", default=Options())  # noqa: B039


def current() -> Options:
    """Give the global options of this run."""
    return _current.get()


def use(options: Options) -> None:
    """Set the global options of this run; `main` does it."""
    _current.set(options)


def take_global(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Split the global options from the rest, wherever they stand before `--`.

    :raises UsageError: when `--plugin` lacks its value.
    """
    debug = as_json = False
    plugins: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *waiting]
            break
        if word == "--debug":
            debug = True
        elif word == "--json":
            as_json = True
        elif name == "--plugin":
            if not equals:
                value = waiting.pop(0) if waiting else ""
            if not value or value.startswith("-"):
                raise UsageError(
                    "--plugin needs a value",
                    why="it names an unpackaged plugin to load",
                    do="write --plugin module:attribute",
                )
            plugins.append(value)
        else:
            rest.append(word)
    return Options(debug=debug, json=as_json, plugins=tuple(plugins)), rest


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `UsageError`s."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, why=self.format_usage().strip(), do=f"see: {self.prog} --help")


def seconds(text: str) -> float:
    """Read a time in seconds above zero; for `type=` of an option."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time above zero")
    return value


def exit_code(error: BaseException) -> int:
    """Tell which exit code an error means."""
    if isinstance(error, PreflightError):
        return max((exit_code(finding) for finding in error.findings), default=EXIT_USAGE)
    if isinstance(error, UnreachableError) or (isinstance(error, BackendError) and error.retryable):
        return EXIT_UNREACHABLE
    if isinstance(error, RtcfociError) and not isinstance(error, LocalProtocolError):
        return EXIT_USAGE
    return EXIT_NEGATIVE


def print_error(error: RtcfociError, *, as_json: bool, out: TextIO | None = None) -> None:
    """Print an error to standard error: three lines, or one JSON object."""
    out = out or sys.stderr
    why = error.why or "the cause is not known"
    do = error.do or "run it again with --debug"
    if as_json:
        print(json.dumps({"error": {"what": error.what, "why": why, "do": do}}), file=out)
        return
    for label, text in (("error", error.what), ("why", why), ("do", do)):
        print(f"{label + ':':<7}{printable(' '.join(text.split()))}", file=out)


def printable(text: str) -> str:
    """Take out what would command the terminal: much of what is shown was written by strangers."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
