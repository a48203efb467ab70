"""`rtcfoci session`: who is in a slot by the events of a file, and why every other event counts for nobody.

In: the file or standard input, a table for people, JSON for programs. Out: what it all means
(`rtcfoci.lab.report`).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rtcfoci.call.sessions import installed_dialects, reading_policies
from rtcfoci.cli.options import EXIT_OK, Parser, current, printable
from rtcfoci.core.model import Slot
from rtcfoci.errors import UsageError
from rtcfoci.lab.report import Fold, codes
from rtcfoci.lab.roomfile import read_room_file
from rtcfoci.plugin.manager import PluginManager

__all__ = ["check_moment", "read_text", "run", "slot_of"]

_LATEST_MS = 2**53 - 1


def run(arguments: list[str]) -> int:
    """Run the command."""
    plugins = current().manager or PluginManager.load()
    policies = {policy.name: policy for policy in reading_policies(plugins)}
    parser = Parser(prog="rtcfoci session", description="Fold a room's events into a session.")
    parser.add_argument(
        "file", metavar="FILE", help="events as `watch --save` writes them; - reads standard input"
    )
    parser.add_argument(
        "--now-ms", type=int, metavar="N", help="the time to judge at (default: now)"
    )
    parser.add_argument("--slot", default="m.call#ROOM", metavar="ID", help="default: m.call#ROOM")
    parser.add_argument("--policy", choices=tuple(policies), default="deployed")
    parser.add_argument("--each", action="store_true", help="print what each event changes as well")
    options = parser.parse_args(arguments)
    now_ts_ms = time.time_ns() // 1_000_000 if options.now_ms is None else options.now_ms
    check_moment(now_ts_ms)
    file = read_room_file(read_text(options.file), now_ts_ms)
    fold = Fold(
        file,
        slot_of(options.slot, file.room_id),
        installed_dialects(plugins),
        policies[options.policy],
        now_ts_ms,
    )
    for step in fold.steps():
        if options.each:
            _print(fold.step(step))
    if current().json or options.each:
        _print(fold.report())
    else:
        _show(fold)
    return EXIT_OK


def check_moment(now_ts_ms: int) -> None:
    """Check what `--now-ms` says. :raises UsageError: when it is no time."""
    if not 0 <= now_ts_ms <= _LATEST_MS:
        raise UsageError(
            f"--now-ms {now_ts_ms} is no time.",
            why="it is milliseconds since 1970",
            do="write a number from 0 to 2^53 - 1",
        )


def read_text(file: str) -> str:
    """Read a file, or standard input for `-`. :raises UsageError: when it cannot be read, or is no text."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"The file {file} cannot be read.", why=str(error.strerror or error), do="name another"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "The file cannot be used.",
            why=f"it is not UTF-8: {error.reason}",
            do="save it as UTF-8",
        ) from error


def slot_of(slot_id: str, room_id: str) -> Slot:
    """Take a slot id apart. :raises UsageError: when it is none."""
    application, hash_sign, name = slot_id.partition("#")
    if not (application and hash_sign and name):
        raise UsageError(
            f"{slot_id!r} is no slot id.",
            why="it is an application, # and a name",
            do="write m.call#ROOM",
        )
    return Slot(room_id=room_id, application=application, name=name)


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def _show(fold: Fold) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(text: object) -> Text:
        return Text(printable(str(text)))  # what members write is neither markup nor commands

    session, console = fold.session, Console()
    for warning in fold.warnings:
        console.print(cell(f"{warning.code}: {warning.message}"))
    members = Table(
        title=cell(
            f"{session.slot.slot_id} in {session.slot.room_id}: slot {session.slot_status.value}, "
            f"policy {session.policy.name}"
        ),
        title_justify="left",
    )
    for heading in ("member", "dialect", "transports", "since", "event"):
        members.add_column(heading)
    for m in session.members:
        members.add_row(
            cell(m.member),
            cell(m.dialect),
            cell(", ".join(t.type for t in m.published) or "none"),
            cell(m.created_ts_ms),
            cell(m.event_id),
        )
    if not session.members:
        members.add_row("nobody", "", "", "", "")
    console.print(members)
    ignored = Table(title="not behind a member", title_justify="left")
    for heading in ("#", "event", "why"):
        ignored.add_column(heading)
    for entry, problems in fold.ignored():
        ignored.add_row(cell(entry.index), cell(entry.event_id or "?"), cell(codes(problems)))
    if ignored.row_count:
        console.print(ignored)
