"""The command line: which word starts what. Nothing is imported before its word is given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from rtcfoci.errors import RtcfociError

__all__ = ["COMMANDS", "main"]

_PACKAGE = "rtcfoci_livekit_auth."

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("run the service, configured by its environment", "process:main"),
    "registration": ("print the homeserver's registration file", "appservice.registration:main"),
    "init": ("write a matching configuration for all programs involved", "setup.command:main"),
    "check-config": ("say what is wrong in the configuration", "setup.check:main"),
    "openapi": ("print a description of all endpoints", "openapi:main"),
    "doctor": ("check a live deployment from outside, hop by hop", "doctor.command:main"),
}
"""Summary and `module:function` of every command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if name not in COMMANDS:
        sys.stderr.write(f"there is no command {name!r}\n\n{_usage()}")
        return 2
    module, _, function = COMMANDS[name][1].partition(":")
    try:
        return int(getattr(import_module(_PACKAGE + module), function)(arguments) or 0)
    except RtcfociError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _usage() -> str:
    lines = [f"  {name:14} {summary}" for name, (summary, _) in COMMANDS.items()]
    return "usage: rtcfoci-livekit-auth COMMAND\n\n" + "\n".join(lines) + "\n"
