"""The entry of the command line: finds the command through the plugin hooks and runs it.

In: `rtcfoci [options] COMMAND ...`, the help page, the mapping of every outcome to an exit code.
Out: the commands themselves, which are named as `module:attribute` and imported only when chosen.

Exit codes: 0 well, 1 a negative verdict (or an unexpected error), 2 usage or input, 3 unreachable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rtcfoci.cli.options import (
    EXIT_NEGATIVE,
    EXIT_OK,
    EXIT_USAGE,
    Options,
    exit_code,
    print_error,
    take_global,
    use,
)
from rtcfoci.errors import RtcfociError, UsageError

if TYPE_CHECKING:
    from rtcfoci.plugin.manager import PluginManager

__all__ = ["main"]

_HELP = """\
usage: rtcfoci [--debug] [--json] [--plugin MODULE:ATTRIBUTE] COMMAND ...

The pluggable MatrixRTC stack: calls in Matrix rooms over any kind of focus.

commands:
{commands}

options, before or after the command:
  --debug                    show where an error comes from
  --json                     print results and errors as JSON
  --plugin MODULE:ATTRIBUTE  load a plugin that is not installed; may be repeated
  --version                  print the version
  --help                     print this, or the help of a command

exit codes: 0 well, 1 a negative verdict, 2 usage or input, 3 unreachable
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give back its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = Options(debug="--debug" in given, json="--json" in given)
    try:
        options, rest = take_global(given)
        code = _run(options, rest)
        sys.stdout.flush()
        return code
    except RtcfociError as error:
        if options.debug:
            _print_traceback()
        print_error(error, as_json=options.json)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130  # as shells tell it
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NEGATIVE
    except Exception as error:
        if options.debug:
            _print_traceback()
        print_error(_unexpected(error), as_json=options.json)
        return EXIT_NEGATIVE


def _run(options: Options, rest: list[str]) -> int:
    if rest and rest[0] == "--version":
        from importlib.metadata import version

        print(f"rtcfoci {version('rtcfoci')}")  # noqa: T201
        return EXIT_OK
    manager = _load(options)
    use(replace(options, manager=manager))
    if not rest or rest[0] in ("-h", "--help"):
        page = _help(manager)
        print(page, end="", file=sys.stdout if rest else sys.stderr)
        return EXIT_OK if rest else EXIT_USAGE
    if rest[0].startswith("-"):
        raise UsageError(
            f"there is no option {rest[0]}",
            why="before the command stand --debug, --json, --plugin, --version or --help",
            do="see: rtcfoci --help",
        )
    run = manager.command(rest[0])
    try:
        return int(run(rest[1:]))
    except SystemExit as stop:  # argparse's own way of ending after --help or a usage error
        return stop.code if isinstance(stop.code, int) else EXIT_OK if not stop.code else EXIT_USAGE


def _load(options: Options) -> PluginManager:
    from rtcfoci.plugin.manager import PluginManager

    if options.plugins and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an unpackaged plugin lies where its author works
    manager = PluginManager.load(plugins=options.plugins)
    for failure in manager.failures:
        if failure.plugin.name in options.plugins:
            raise failure.error  # what was asked for by name must load
    return manager


def _help(manager: PluginManager) -> str:
    commands = sorted(manager.cli_commands, key=lambda command: command.name)
    lines = [f"  {command.name:<12} {command.summary}" for command in commands]
    for failure in manager.failures:
        lines.append(f"  ({failure.plugin.source} failed to load: see rtcfoci plugins)")
    return _HELP.format(commands="\n".join(lines))


def _unexpected(error: Exception) -> RtcfociError:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    return RtcfociError(
        f"an error nobody expected: {type(error).__name__}: {error}",
        why=f"raised at {place}",
        do="run it again with --debug and report what it prints",
    )


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
