"""`rtcfoci-livekit-auth init`: asks what it was not told, and writes the files.

In: options, questions, files. Out: their text (`fragments`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rtcfoci.errors import UsageError
from rtcfoci_livekit_auth.setup.fragments import REGISTRATION, Fragment, fragments
from rtcfoci_livekit_auth.setup.plan import PROXIES, Plan

__all__ = ["main"]


def main(
    argv: Sequence[str], out: TextIO | None = None, ask: Callable[[str], str] | None = None
) -> int:
    """Run the command.

    :param ask: puts a question to a person; None where nobody is there to answer.
    """
    out = out or sys.stdout
    if ask is None and sys.stdin.isatty():
        ask = input
    options = vars(_parser().parse_args(argv))
    folder: Path = options.pop("out")
    if options.pop("appservice") and not options["registration_file"]:
        options["registration_file"] = str((folder / REGISTRATION).resolve())
    given = {name: value for name, value in options.items() if value is not None}
    if "server_name" not in given:
        given.update(_asked(ask))
    plan = Plan(**given)
    written = list(fragments(plan))
    _refuse_to_overwrite(folder, written)
    folder.mkdir(parents=True, exist_ok=True)
    for fragment in written:
        _write(folder / fragment.name, fragment)
    print(f"written to {folder}:", file=out)
    width = max(len(fragment.name) for fragment in written)
    for fragment in written:
        print(f"  {fragment.name:<{width}}  {fragment.use}", file=out)
    print(
        f"then check it from outside: rtcfoci-livekit-auth doctor {plan.server_name} "
        "--user @you:… --password-file FILE",
        file=out,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtcfoci-livekit-auth init",
        description="Write matching configuration for LiveKit, Synapse, a reverse proxy and this service.",
    )
    add = parser.add_argument
    add(
        "--out", type=Path, default=Path("livekit-deployment"), metavar="DIR", help="where to write"
    )
    add(
        "--server-name",
        metavar="NAME",
        help="of the homeserver, as in user ids; asked for when left out",
    )
    add("--homeserver-url", metavar="URL", help="public; https://NAME by default")
    add("--rtc-host", metavar="HOST", help="public; matrix-rtc.NAME by default")
    add("--proxy", choices=PROXIES, help="nginx by default")
    add("--certificate", metavar="FILE", help="for the proxy")
    add("--certificate-key", metavar="FILE")
    add(
        "--node-ip",
        metavar="IP",
        help="where LiveKit is reached; it finds its public one by default",
    )
    add("--synapse", metavar="URL", help="as seen from here; http://127.0.0.1:8008 by default")
    add("--service-bind", metavar="HOST:PORT", help="127.0.0.1:8080 by default")
    add("--livekit-port", type=int, metavar="PORT", help="7880 by default")
    add("--rtc-tcp-port", type=int, metavar="PORT", help="7881 by default")
    add("--rtc-udp-port", type=int, metavar="PORT", help="7882 by default")
    add("--ca-file", metavar="FILE", help="private authority that the service is to trust")
    add(
        "--appservice",
        action="store_true",
        help="put the service behind Synapse (MSC4195 over MSC4512), which is told of it by a file",
    )
    add(
        "--registration-file",
        metavar="FILE",
        help="where that file will be, if not where it is written; says --appservice by itself",
    )
    add("--redis-url", metavar="URL", help="for several replicas of the service")
    return parser


_QUESTIONS = (
    ("server_name", "Name of the homeserver, as in user ids", ""),
    ("homeserver_url", "Public URL of its client-server API", "https://{server_name}"),
    ("rtc_host", "Public host name for calls", "matrix-rtc.{server_name}"),
    ("proxy", f"Reverse proxy ({' or '.join(PROXIES)})", "nginx"),
    ("synapse", "Where Synapse listens, seen from here", "http://127.0.0.1:8008"),
)


def _asked(ask: Callable[[str], str] | None) -> dict[str, str]:
    if ask is None:
        raise UsageError(
            "the homeserver is not named",
            why="--server-name is missing, and nobody is here to be asked",
            do="add --server-name example.org",
        )
    answers: dict[str, str] = {}
    for name, question, default in _QUESTIONS:
        usual = default.format(**answers)
        answer = ask(f"{question}{f' [{usual}]' if usual else ''}: ").strip()
        answers[name] = answer or usual
    return answers


def _refuse_to_overwrite(folder: Path, written: list[Fragment]) -> None:
    for fragment in written:
        if (folder / fragment.name).exists():
            raise UsageError(
                f"{folder / fragment.name} is there already",
                why="it holds keys that a running deployment may use",
                do="move it away, or name another folder with --out",
            )


def _write(path: Path, fragment: Fragment) -> None:
    mode = 0o600 if fragment.secret else 0o644
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(fragment.text)
