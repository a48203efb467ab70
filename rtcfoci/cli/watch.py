"""`rtcfoci watch`: show a room's session as it changes, and who calls and declines, without taking part.

In: the live table, or a JSON line for each change, and the file that is kept of the room. Out: what the
session means (`rtcfoci.core.session`), what is kept (`rtcfoci.lab.saving`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rtcfoci.call.preflight import inspect_room
from rtcfoci.call.sessions import follow_session, installed_dialects
from rtcfoci.cli.account import add_account_options, connect_account
from rtcfoci.cli.join import stop_on_signals
from rtcfoci.cli.notifications import notification_json, notification_words
from rtcfoci.cli.options import EXIT_OK, Parser, current, printable, seconds
from rtcfoci.core.model import Slot
from rtcfoci.errors import UsageError
from rtcfoci.lab.pseudonyms import Pseudonyms
from rtcfoci.lab.saving import RoomSaver, require_new_file
from rtcfoci.matrix.rooms import resolve_alias
from rtcfoci.plugin.manager import PluginManager

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from rtcfoci.core.notifications import NotificationDiff
    from rtcfoci.core.session import Session

__all__ = ["run"]

_REFRESH_S = 5.0
"""How often a table without news is drawn again: its times run on."""
_SAVE_S = 0.5
_LEAST_REST = 19
"""A file that grows is written ever more seldom: at most a twentieth of the time goes into it."""


def run(arguments: list[str]) -> int:
    """Run the command."""
    parser = Parser(prog="rtcfoci watch", description="Show who is in a room's call, live.")
    parser.add_argument("room", metavar="ROOM", help="room id or alias")
    add_account_options(parser)
    parser.add_argument("--application", default="m.call", help="application type of the slot")
    parser.add_argument("--slot", default="ROOM", help="name of the slot (default: ROOM)")
    parser.add_argument(
        "--duration", type=seconds, metavar="S", help="stop after this many seconds"
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="keep the room's events in a new file, as `session` reads it",
    )
    parser.add_argument(
        "--pseudonyms",
        action="store_true",
        help="in the file, replace the names of everybody and everything",
    )
    options = parser.parse_args(arguments)
    if options.pseudonyms and options.save is None:
        raise UsageError(
            "--pseudonyms says how a file is kept, and none is",
            why="nothing is replaced in what is shown",
            do="add --save FILE",
        )
    if options.save is not None:
        require_new_file(options.save)
    return asyncio.run(_watch(options))


async def _watch(options: argparse.Namespace) -> int:
    client = await connect_account(options)
    saver: RoomSaver | None = None
    try:
        room_id = await resolve_alias(client, options.room)
        await inspect_room(client, room_id)
        slot = Slot(room_id=room_id, application=options.application, name=options.slot)
        saver = _saver(options, room_id)
        show = _JsonLines(slot) if current().json else _LiveTable(slot)
        with contextlib.closing(show), stop_on_signals() as stopped:

            async def follow() -> None:
                on_events = None if saver is None else saver.add
                async for seen in follow_session(client, slot, current().manager, on_events):
                    show.update(seen.session)
                    for news in seen.notifications:
                        show.tell(news)

            async def keep_time() -> None:
                while True:
                    await asyncio.sleep(_REFRESH_S)
                    show.refresh()

            work = [follow(), stopped.wait(), keep_time()]
            if saver is not None:
                work.append(_save(saver))
            done, pending = await asyncio.wait(
                [asyncio.create_task(each) for each in work],
                timeout=options.duration,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for task in done:
                task.result()
        return EXIT_OK
    finally:
        await client.aclose()
        if saver is not None:
            saver.write(_now_ts_ms(), last=True)


def _now_ts_ms() -> int:
    return time.time_ns() // 1_000_000


async def _save(saver: RoomSaver) -> None:
    while True:
        begin_s = time.monotonic()
        saver.write(_now_ts_ms())
        took_s = time.monotonic() - begin_s
        await asyncio.sleep(max(_SAVE_S, took_s * _LEAST_REST))


def _saver(options: argparse.Namespace, room_id: str) -> RoomSaver | None:
    if options.save is None:
        return None
    manager = current().manager or PluginManager.load()
    types = {kind for dialect in installed_dialects(manager) for kind in dialect.event_types}
    pseudonyms = Pseudonyms(secrets.token_bytes(32)) if options.pseudonyms else None
    return RoomSaver(options.save, room_id, types, pseudonyms)


class _JsonLines:
    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._last = ""

    def update(self, session: Session) -> None:
        record = {
            "slot": {"id": self._slot.slot_id, "status": session.slot_status.value},
            "members": [
                {
                    "user_id": m.member.user_id,
                    "device_id": m.member.device_id,
                    "member_id": m.member.member_id,
                    "dialect": m.dialect,
                    "created_ts_ms": m.created_ts_ms,
                    "expires_ts_ms": m.expires_ts_ms,
                    "transports": [t.raw for t in m.transports],
                }
                for m in session.members
            ],
        }
        line = json.dumps(record)  # as ASCII: a stranger's lone surrogate could not be written
        if line != self._last:
            self._last = line
            self._print(line)

    def tell(self, news: NotificationDiff) -> None:
        self._print(json.dumps({"notification": notification_json(news)}))

    def _print(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def refresh(self) -> None:
        """Nothing in a line depends on the time."""

    def close(self) -> None:
        """Nothing is held."""


class _LiveTable:
    def __init__(self, slot: Slot) -> None:
        from rich.console import Console
        from rich.live import Live

        self._slot = slot
        self._console = Console()
        self._live: Live | None = None
        self._session: Session | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def refresh(self) -> None:
        """Show how much less time there is."""
        if self._live is not None and self._session is not None:
            self._live.update(self._table(self._session), refresh=True)

    def update(self, session: Session) -> None:
        self._session = session
        table = self._table(session)
        if self._live is not None:
            self._live.update(table, refresh=True)
        else:
            self._console.print(table)

    def tell(self, news: NotificationDiff) -> None:
        from rich.text import Text

        words = printable(notification_words(news))
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {words}"))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _table(self, session: Session) -> Table:
        from rich.table import Table
        from rich.text import Text

        def cell(text: str) -> Text:
            return Text(printable(text))  # what members write is neither markup nor commands

        slot = self._slot
        table = Table(
            title=cell(f"{slot.slot_id} in {slot.room_id}: slot {session.slot_status.value}"),
            title_justify="left",
        )
        for heading in ("member", "dialect", "transports", "since", "expires in"):
            table.add_column(heading)
        now_ms = _now_ts_ms()
        for m in session.members:
            since_s = max(0, min(m.created_ts_ms, now_ms)) / 1000
            table.add_row(
                cell(str(m.member)),
                m.dialect,
                cell(", ".join(t.type for t in m.transports) or "none"),
                time.strftime("%H:%M:%S", time.localtime(since_s)),
                f"{max(0, m.expires_ts_ms - now_ms) // 60_000} min",
            )
        if not session.members:
            table.add_row("nobody", "", "", "", "")
        return table
