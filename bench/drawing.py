"""Small line plots side by side, as SVG.

In: what is drawn, as values. Out: what it says, which is the bench's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["OURS", "THEIRS", "Axis", "Line", "Plot", "drawing"]

OURS, THEIRS = "#2f6f9f", "#b3452c"
_INK, _FAINT, _RULE = "#22252a", "#80858d", "#e3e0d8"
_WIDTH, _HIGH, _LOW = 232, 56, 250
"""Of a plot's area: how wide, and between which heights."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What one direction means."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """What is written beside it."""
    log: bool = False

    def place(self, value: float) -> float:
        """Say where a value lies, from 0 to 1."""
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and what it is called below."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dash: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """One of the plots."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]


def drawing(title: str, plots: Sequence[Plot]) -> str:
    """Draw plots in a row."""
    width = 36 + 310 * len(plots)
    height = _LOW + 32 + 16 * max(len(plot.lines) for plot in plots)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" rx="10" fill="#fbfaf7"/>',
    ]
    for column, plot in enumerate(plots):
        out += _plot(plot, 58 + 310 * column)
    return "\n".join([*out, "</svg>", ""])


def _plot(plot: Plot, left: int) -> list[str]:
    def x(value: float) -> float:
        return round(left + _WIDTH * plot.x.place(value), 1)

    def y(value: float) -> float:
        return round(_LOW - (_LOW - _HIGH) * plot.y.place(value), 1)

    out = [f'<text x="{left}" y="34" fill="{_INK}" font-size="14">{plot.title}</text>']
    for value, label in plot.y.ticks:
        out.append(f'<path d="M{left} {y(value)}h{_WIDTH}" stroke="{_RULE}"/>')
        out.append(
            f'<text x="{left - 8}" y="{y(value) + 4}" fill="{_FAINT}" '
            f'text-anchor="end">{label}</text>'
        )
    for value, label in plot.x.ticks:
        out.append(
            f'<text x="{x(value)}" y="{_LOW + 18}" fill="{_FAINT}" '
            f'text-anchor="middle">{label}</text>'
        )
    for index, line in enumerate(plot.lines):
        points = " ".join(f"{x(across)},{y(up)}" for across, up in line.points)
        style = (
            f'fill="none" stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dash}"'
        )
        at = _LOW + 38 + 16 * index
        out.append(f'<polyline points="{points}" {style}/>')
        out.append(f'<path d="M{left} {at - 4}h24" {style}/>')
        out.append(f'<text x="{left + 32}" y="{at}" fill="{_INK}">{line.label}</text>')
    return out
