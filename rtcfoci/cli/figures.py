"""The figures of a call as people and programs read them.

In: a table of pairs that fits the terminal, the same as JSON. Out: the figures (`rtcfoci.call.stats`),
when they are drawn (`monitor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from rtcfoci.cli.options import printable

if TYPE_CHECKING:
    from rich.table import Table

    from rtcfoci.call.stats import FocusStats
    from rtcfoci.plugin.stats import PairStats

__all__ = ["figures_json", "figures_table"]

_WIDE = 96
"""Columns of a terminal from which on everything is shown."""
_LEAST_NAME = 12


def figures_table(foci: Iterable[FocusStats], width: int) -> Table | None:
    """Draw a row for each pair; None where there is nothing to draw.

    :param width: of the terminal; a narrow one gets fewer columns rather than broken lines.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = [(focus.focus_type, pair) for focus in foci for pair in focus.pairs]
    if not found:
        return None
    columns = [column for column in _COLUMNS if column.always or width >= _WIDE]
    rest = sum(column.width + 2 for column in columns) + 3
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(
        "pair", no_wrap=True, overflow="ellipsis", max_width=max(_LEAST_NAME, width - rest)
    )
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.words else "right"
        table.add_column(column.heading, justify=justify, no_wrap=True, min_width=column.width)
    for focus_type, pair in sorted(found, key=lambda f: str(f[1].member or "")):
        name = str(pair.member or f"server of {focus_type}")
        cells = (printable(column.cell(pair)[: column.width]) for column in columns)
        table.add_row(Text(printable(name)), *map(Text, cells))
    return table


def figures_json(foci: Iterable[FocusStats]) -> list[dict[str, object]]:
    """Give the figures with the names of `PairStats`; what is not known is null."""
    return [
        {
            "focus": focus.focus_type,
            "key": focus.key,
            "pairs": [
                {**asdict(pair), "path": _path_json(pair), "extras": dict(pair.extras)}
                for pair in focus.pairs
            ],
            "extras": dict(focus.extras),
        }
        for focus in foci
    ]


def _path_json(pair: PairStats) -> dict[str, object] | None:
    return None if pair.path is None else {**asdict(pair.path), "relayed": pair.path.relayed}


def _both(received: float | None, sent: float | None, unit: float) -> str:
    return "/".join("-" if v is None else _short(v / unit) for v in (received, sent))


def _short(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else _short(value)


def _way(pair: PairStats) -> str:
    return str(pair.path) if pair.path else "" if pair.state == "connected" else pair.state


def _codecs(pair: PairStats) -> str:
    return " ".join(c for c in (pair.audio_codec, pair.video_codec) if c)


def _loss(pair: PairStats) -> str:
    return _both(pair.loss_received_ratio, pair.loss_sent_ratio, 0.01)


def _bitrate(pair: PairStats) -> str:
    return _both(pair.bitrate_received_bps, pair.bitrate_sent_bps, 1000)


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[PairStats], str]
    width: int
    always: bool = True
    """On a narrow terminal, too."""
    words: bool = False


_COLUMNS = (
    _Column("rtt\nms", lambda pair: _ms(pair.rtt_ms), 4),
    _Column("loss %\nin/out", _loss, 7),
    _Column("jitter\nms", lambda pair: _ms(pair.jitter_ms), 6, always=False),
    _Column("kbit/s\nin/out", _bitrate, 9),
    _Column("path", _way, 15, words=True),
    _Column("codec", _codecs, 8, always=False, words=True),
)
