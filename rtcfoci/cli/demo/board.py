"""What the demo shows while it runs: who receives what from whom, in frames a second.

In: one console for all of it, a table drawn once a second; where there is no terminal, a line when
something changed. Out: where the figures come from (`cast`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtcfoci.cli.options import current

if TYPE_CHECKING:
    from rtcfoci.cli.demo.cast import Cast

__all__ = ["Board", "say"]

_PLAIN_EVERY_S = 4
"""A line without news is printed this often."""
_CONSOLE = Console(stderr=current().json)
"""With `--json` standard output belongs to the verdict."""


def say(text: str, style: str = "") -> None:
    """Print a line; above the table while there is one."""
    _CONSOLE.print(Text(text, style=style), soft_wrap=True)


class Board:
    """Shows a cast as long as it is entered."""

    def __init__(self, cast: Cast, *, title: str) -> None:
        self._cast = cast
        self._title = title
        self._began_s = time.monotonic()
        self._live = Live(console=_CONSOLE, auto_refresh=False)
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if _CONSOLE.is_terminal:
            self._live.start()
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        with contextlib.suppress(Exception):
            self._live.stop()

    async def _run(self) -> None:
        before, quiet_s = "", 0
        while True:
            if _CONSOLE.is_terminal:
                self._live.update(self._picture(), refresh=True)
            else:
                state = self._state()
                quiet_s += 1
                if state != before or quiet_s >= _PLAIN_EVERY_S:
                    say(f"{time.monotonic() - self._began_s:5.0f} s  {state}{self._rates()}")
                    before, quiet_s = state, 0
            await asyncio.sleep(1.0)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for receiver, sender in permutations(self._cast.names, 2):
            if not (self._cast[receiver].killed or self._cast[sender].killed):
                yield receiver, sender

    def _state(self) -> str:
        pairs = list(self._pairs())
        waiting = [f"{r} <- {s}" for r, s in pairs if not self._cast.is_received(r, s)]
        text = f"{len(pairs) - len(waiting)} of {len(pairs)} pairs receive everything"
        return text if len(waiting) in (0, len(pairs)) else f"{text}; not {', '.join(waiting)}"

    def _rates(self) -> str:
        rates: dict[str, list[float]] = {}
        for receiver, sender in self._pairs():
            for track in self._cast[receiver].tracks(sender):
                rate = track.get("rate_per_s")
                if isinstance(rate, float | int) and rate:
                    rates.setdefault(str(track.get("kind")), []).append(float(rate))
        return "".join(f"; {kind} {min(r):.0f}/s or more" for kind, r in sorted(rates.items()))

    def _picture(self) -> Group:
        table = Table()
        table.add_column("receiver")
        for sender in self._cast.names:
            table.add_column(f"from {sender}", min_width=19, no_wrap=True)
        for receiver in self._cast.names:
            player = self._cast[receiver]
            cells = [self._cell(receiver, sender) for sender in self._cast.names]
            name = Text(receiver, style="dim" if player.killed else "bold")
            table.add_row(name.append(" killed") if player.killed else name, *cells)
        return Group(Text(self._title), table)

    def _cell(self, receiver: str, sender: str) -> Text:
        player = self._cast[receiver]
        if receiver == sender or player.killed:
            return Text("")
        if player.has_left(sender):
            return Text("left", style="yellow")
        figures = [
            f"{t.get('kind')} {_whole(t.get('rate_per_s'))}/s" for t in player.tracks(sender)
        ]
        if figures:
            gone = self._cast[sender].killed
            return Text(" ".join(sorted(figures)), style="yellow" if gone else "green")
        return Text("in the call" if player.sees(sender) else "not seen yet", style="dim")


def _whole(rate: object) -> str:
    return f"{rate:.0f}" if isinstance(rate, float | int) else "0"
