"""`rtcfoci watch`: show a room's session as it changes, without taking part.

In: the live table, or a JSON line for each change. Out: what the session means
(`rtcfoci.core.session`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

from rtcfoci.call.preflight import inspect_room
from rtcfoci.call.sessions import follow_session
from rtcfoci.cli.account import add_account_options, connect_account
from rtcfoci.cli.join import stop_on_signals
from rtcfoci.cli.options import EXIT_OK, Parser, current, printable, seconds
from rtcfoci.core.model import Slot
from rtcfoci.matrix.rooms import resolve_alias

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from rtcfoci.core.session import Session

__all__ = ["run"]

_REFRESH_S = 5.0
"""How often a table without news is drawn again: its times run on."""


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
    return asyncio.run(_watch(parser.parse_args(arguments)))


async def _watch(options: argparse.Namespace) -> int:
    client = await connect_account(options)
    try:
        room_id = await resolve_alias(client, options.room)
        await inspect_room(client, room_id)
        slot = Slot(room_id=room_id, application=options.application, name=options.slot)
        show = _JsonLines(slot) if current().json else _LiveTable(slot)
        with contextlib.closing(show), stop_on_signals() as stopped:

            async def follow() -> None:
                async for session, _ in follow_session(client, slot, current().manager):
                    show.update(session)

            async def keep_time() -> None:
                while True:
                    await asyncio.sleep(_REFRESH_S)
                    show.refresh()

            following = asyncio.create_task(follow())
            waiting = asyncio.create_task(stopped.wait())
            ticking = asyncio.create_task(keep_time())
            done, pending = await asyncio.wait(
                (following, waiting, ticking),
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
        now_ms = time.time_ns() // 1_000_000
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
