"""`rtcfoci lint`: which dialect a membership event is, what is wrong with it, which clients see the member.

In: the event from the command line, a file or standard input, a table for people, JSON for programs.
Out: the verdict (`rtcfoci.lab.lint`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from rtcfoci.call.sessions import installed_dialects
from rtcfoci.cli.options import EXIT_NEGATIVE, EXIT_OK, Parser, current, printable
from rtcfoci.cli.session import check_moment, read_text, slot_of
from rtcfoci.errors import PluginError
from rtcfoci.lab.given import Draft, Given, read_given
from rtcfoci.lab.lint import Finding, lint
from rtcfoci.lab.readers import READERS, Opinion, Reader
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.plugin.reference import resolve

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Run the command."""
    parser = Parser(
        prog="rtcfoci lint", description="Say who would see the member of a membership event."
    )
    parser.add_argument(
        "event",
        metavar="EVENT",
        help="an event, its content alone, or a room file: a file, JSON text, or - for standard input",
    )
    parser.add_argument(
        "--type", metavar="TYPE", help="of a content alone (default: by its fields)"
    )
    parser.add_argument("--state-key", metavar="KEY", help="of a content alone (default: as usual)")
    parser.add_argument(
        "--sender", metavar="USER", help="of a content alone (default: who it names)"
    )
    parser.add_argument(
        "--encrypted",
        action="store_true",
        help="the room is encrypted, and the event came so unless it is state",
    )
    parser.add_argument("--slot", default="m.call#ROOM", metavar="ID", help="default: m.call#ROOM")
    parser.add_argument(
        "--now-ms", type=int, metavar="N", help="the time to judge at (default: when it was sent)"
    )
    parser.add_argument(
        "--reader",
        action="append",
        default=[],
        metavar="MODULE:ATTRIBUTE",
        help="ask a reader of your own as well; may be repeated",
    )
    options = parser.parse_args(arguments)
    if options.now_ms is not None:
        check_moment(options.now_ms)
    plugins = current().manager or PluginManager.load()
    readers = [*READERS, *map(_reader, options.reader)]
    draft = Draft(
        type=options.type,
        state_key=options.state_key,
        sender=options.sender,
        encrypted=options.encrypted,
    )
    text: str = options.event
    if not text.lstrip().startswith("{"):
        text = read_text(text)
    given = read_given(text, draft, time.time_ns() // 1_000_000)
    findings = list(
        lint(
            given,
            installed_dialects(plugins),
            slot_of(options.slot, given.room_id),
            now_ts_ms=options.now_ms,
            encrypted=options.encrypted,
            readers=readers,
        )
    )
    if current().json:
        _print(given, findings)
    else:
        _show(findings)
    return EXIT_OK if all(finding.harmless for finding in findings) else EXIT_NEGATIVE


def _reader(reference: str) -> Reader:
    found = resolve(reference, plugin=reference)
    if not isinstance(found, Reader):
        raise PluginError(
            f"{reference} is not a Reader",
            plugin=reference,
            why=f"it is a {type(found).__name__}",
            do="name an instance of rtcfoci.lab.readers.Reader",
        )
    return found


def _print(given: Given, findings: Sequence[Finding]) -> None:
    told = [finding.as_json() for finding in findings]
    whole = {"room_id": given.room_id, "events": told} if given.is_file else told[0]
    sys.stdout.write(json.dumps(whole, allow_nan=False) + "\n")


def _show(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(text: object, style: str = "") -> Text:
        return Text(
            printable(str(text)), style
        )  # what members write is neither markup nor commands

    console = Console()
    for finding in findings:
        console.print(cell(_title(finding), "bold"))
        if finding.assumed:
            console.print(cell(f"assumed: {', '.join(finding.assumed)}"))
        for problem in finding.problems:
            console.print(cell(f"invalid: {problem.message} ({problem.code})", "red"))
        for danger in finding.dangers:
            console.print(cell(f"dangerous: {danger.message} ({danger.code})", "bold red"))
        if not finding.opinions:
            continue
        table = Table()
        for heading in ("reader", "the member", "focus", "because"):
            table.add_column(heading)
        for reader, opinion in finding.opinions:
            table.add_row(
                cell(reader.name),
                cell(opinion.verdict.value, _STYLES.get(opinion.verdict.value, "")),
                cell(_focus(opinion)),
                cell("; ".join(opinion.why)),
            )
        console.print(table)
    if not findings:
        console.print("the file holds no membership event")


_STYLES = {"sees": "green", "crashes": "bold red"}


def _title(finding: Finding) -> str:
    entry = finding.entry
    what = finding.says or "nothing that can be read"
    names = " or ".join(finding.dialects) or "no known dialect"
    who = ", ".join(f"{m.member} in {m.slot_id}" for m in finding.members)
    place = entry.event_id or f"event {entry.index}"
    return f"{place}, {entry.type or 'no type'}: {names}, {what}" + (f" of {who}" if who else "")


def _focus(opinion: Opinion) -> str:
    focus = opinion.focus
    if focus is None:
        return ""
    url = focus.get("livekit_service_url")
    return f"{focus.get('type')} {url}" if isinstance(url, str) else str(focus.get("type"))
