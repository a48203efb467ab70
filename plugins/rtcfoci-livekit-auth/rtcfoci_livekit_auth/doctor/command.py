"""`rtcfoci-livekit-auth doctor SERVER`: the verdicts as a table or as JSON.

In: options and printing. Out: the hops. Exit status: 0 when no hop failed, 1 when one did, 2 for a usage
error. Secrets come from files: everybody on a machine can read the arguments of a command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rtcfoci.errors import UsageError
from rtcfoci_livekit_auth.doctor.verdicts import Case, State, Verdict

__all__ = ["main"]

_MARKS = {State.OK: "ok", State.WARNING: "WARN", State.FAILED: "FAIL", State.NOT_CHECKED: "-"}
_WIDTH = 100


def main(argv: Sequence[str], out: TextIO | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(argv)
    return asyncio.run(_examine(options, out or sys.stdout))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtcfoci-livekit-auth doctor",
        description="Check a deployment of MatrixRTC with LiveKit from outside, hop by hop.",
    )
    parser.add_argument("server_name", metavar="SERVER", help="homeserver, as in user ids")
    parser.add_argument("--user", metavar="ID", default="", help="user id, with --password-file")
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with an access token")
    parser.add_argument("--homeserver", metavar="URL", default="", help="instead of discovery")
    parser.add_argument(
        "--service", metavar="URL", default="", help="instead of the advertised one"
    )
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="private authority to trust")
    parser.add_argument(
        "--timeout-s", type=float, default=10.0, metavar="S", help="for each answer"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _secret(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read", why=str(error), do="name a file with the secret in it"
        ) from None


async def _examine(options: argparse.Namespace, out: TextIO) -> int:
    from rtcfoci_livekit_auth.doctor.run import examine
    from rtcfoci_livekit_auth.doctor.web import Web

    if options.password_file and not options.user:
        raise UsageError(
            "a password without a user",
            why="--password-file is given, --user is not",
            do="add --user @you:server",
        )
    if options.ca_file and not options.ca_file.is_file():
        raise UsageError(
            f"{options.ca_file} is no file", why="--ca-file names it", do="name a PEM file"
        )
    password, token = _secret(options.password_file), _secret(options.token_file)
    async with Web(timeout_s=options.timeout_s, ca_file=options.ca_file) as web:
        case = Case(
            web=web,
            server_name=options.server_name,
            base_url=options.homeserver.rstrip("/"),
            service_url=options.service.rstrip("/"),
            user_id=options.user,
            password=password,
            access_token=token,
            timeout_s=options.timeout_s,
        )
        verdicts = []
        async for verdict in examine(case):
            verdicts.append(verdict)
            if not options.json:
                print(_lines(verdict), file=out, flush=True)
    broken = any(verdict.state is State.FAILED for verdict in verdicts)
    if options.json:
        told = {
            "server": options.server_name,
            "works": not broken,
            "hops": [verdict.to_json() for verdict in verdicts],
        }
        print(json.dumps(told, indent=1), file=out)
    return 1 if broken else 0


def _lines(verdict: Verdict) -> str:
    mark = _MARKS[verdict.state]
    told = [f"{mark:<5}{verdict.hop:<17} {verdict.what}"]
    if verdict.state is not State.OK:
        for name, text in (("because", verdict.cause), ("do", verdict.remedy)):
            if text:
                first = f"{'':<22} {name}: "
                told += textwrap.wrap(
                    text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first)
                )
    return "\n".join(told)
