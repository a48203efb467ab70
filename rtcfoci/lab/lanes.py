"""Lanes on a time axis, as SVG, as a page of HTML, and as text for a terminal.

In: the picture as values, round times, labels that do not meet, and escaping: what is said may be a
stranger's. Out: what is drawn (`timeline`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from time import gmtime, strftime
from unicodedata import combining, east_asian_width

__all__ = [
    "Axis",
    "Lane",
    "Legend",
    "Picture",
    "Section",
    "Span",
    "from_to",
    "html",
    "moment",
    "svg",
    "text",
]

_PAPER, _INK, _FAINT, _RULE = "#fbfaf7", "#22252a", "#6b7078", "#e3e0d8"
_WIDTH, _MARGIN = 1000, 24
_ROW, _BAR = 24, 14
_STEPS_S = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800,
    21600, 43200, 86400,
)  # fmt: skip
_DAY_S = 86400
_MOST_TICKS = 12
_MOST_SPANS = 400
"""Of one lane; whoever comes and goes all the time fills no disk."""
_MOST_NAME, _MOST_TITLE, _MOST_SAID = 34, 100, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that lasts."""

    start_s: float
    end_s: float
    colour: str
    said: str
    """Shown when the pointer is over it."""
    letter: str = "="
    """What it is made of in text."""
    label: str = ""
    """Written behind it, where there is room."""
    notches_s: Sequence[float] = ()
    """Moments that are cut into it."""


@dataclass(slots=True, kw_only=True)
class Lane:
    """One line of the picture."""

    name: str
    spans: list[Span] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Section:
    """Lanes that belong together."""

    title: str
    lanes: list[Lane] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From when to when, in seconds since 1970."""

    start_s: float
    end_s: float

    def share(self, at_s: float) -> float:
        """Tell how far along a moment is, from 0 to 1."""
        return min(1.0, max(0.0, (at_s - self.start_s) / self._long_s))

    def ticks(self, most: int = _MOST_TICKS) -> Iterator[tuple[float, str]]:
        """Give round times within, with their labels."""
        step_s = next((s for s in _STEPS_S if self._long_s / s <= most), 0.0)
        if not step_s:
            step_s = _DAY_S * math.ceil(self._long_s / _DAY_S / most)
        first = math.ceil(self.start_s / step_s - 1e-9)
        for number in range(first, math.floor(self.end_s / step_s + 1e-9) + 1):
            yield number * step_s, _tick(number * step_s, step_s)

    @property
    def _long_s(self) -> float:
        return max(self.end_s - self.start_s, 1e-3)


@dataclass(frozen=True, slots=True)
class Legend:
    """What a colour and a letter mean."""

    colour: str
    letter: str
    words: str

    def span(
        self,
        start_s: float,
        end_s: float,
        said: str,
        label: str = "",
        *,
        notches_s: Sequence[float] = (),
    ) -> Span:
        """Make a span of this meaning."""
        return Span(
            start_s=start_s,
            end_s=end_s,
            colour=self.colour,
            said=said,
            letter=self.letter,
            label=label,
            notches_s=notches_s,
        )


@dataclass(slots=True, kw_only=True)
class Picture:
    """What is drawn."""

    title: str
    subtitle: str
    axis: Axis
    sections: list[Section]
    shades: list[Span] = field(default_factory=list)
    """Behind everything."""
    legend: list[Legend] = field(default_factory=list)


def moment(at_s: float, form: str = "%H:%M:%S") -> str:
    """Write a time of the UTC clock."""
    try:
        return strftime(form, gmtime(at_s))
    except (OverflowError, ValueError, OSError):
        return "?"


def from_to(start_s: float, end_s: float) -> str:
    """Write from when to when something lasted."""
    return f"{moment(start_s)} to {moment(end_s)} UTC"


def _tick(at_s: float, step_s: float) -> str:
    if at_s % _DAY_S == 0 and step_s >= 60:
        return moment(at_s, "%d %b")
    if step_s < 1:
        return moment(at_s) + f"{at_s % 1:.2f}"[1:]
    return moment(at_s, "%H:%M:%S" if step_s < 60 else "%H:%M")


def svg(picture: Picture) -> str:
    """Draw a picture as SVG."""
    return "\n".join(_Drawing(picture).parts()) + "\n"


def html(picture: Picture) -> str:
    """Draw a picture as a page that needs nothing else."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Whatever slipped through the escaping, nothing is loaded or run.
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_said(picture.title)}</title>\n"
        f"<style>body {{ margin: 0; background: {_PAPER}; overflow-x: auto }}</style>\n"
        f"</head>\n<body>\n{svg(picture)}</body>\n</html>\n"
    )


class _Drawing:
    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        lanes = _lanes(picture)
        longest = max((_cells(_short(lane.name)) for lane in lanes), default=0)
        self._left = _MARGIN + max(96, round(7.4 * longest) + 14)
        self._behind = 12 + 6 * _longest_label(lanes)
        self._y = 66.0

    def _x(self, at_s: float) -> float:
        return round(self._left + _WIDTH * self._picture.axis.share(at_s), 1)

    def parts(self) -> list[str]:
        """Give the elements, the frame included."""
        picture = self._picture
        legend = list(self._legend())
        top = self._y + 12
        self._y = top
        body = [part for section in picture.sections for part in self._section(section)]
        bottom = self._y
        width, height = self._left + _WIDTH + self._behind + _MARGIN, bottom + 12
        return [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}"'
            f' viewBox="0 0 {width} {height:g}" font-family="sans-serif">',
            f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
            _text(_MARGIN, 30, _short(picture.title, _MOST_TITLE), _INK, 16, bold=True),
            _text(_MARGIN, 48, picture.subtitle, _FAINT, 12),
            *legend,
            *(self._box(shade, top, bottom) for shade in picture.shades),
            *self._ticks(top, bottom),
            *body,
            "</svg>",
        ]

    def _legend(self) -> Iterator[str]:
        x, y = float(_MARGIN), self._y + 6
        for entry in self._picture.legend:
            words = _short(entry.words, 60)
            wide = 36 + 6.4 * _cells(words)
            if x + wide > self._left + _WIDTH and x > _MARGIN:
                x, y = float(_MARGIN), y + 18
            yield f'<rect x="{x:g}" y="{y - 9:g}" width="11" height="11" fill="{entry.colour}"/>'
            yield _text(x + 16, y, words, _INK, 11)
            x += wide
        self._y = y + 22

    def _ticks(self, top: float, bottom: float) -> Iterator[str]:
        for at_s, label in self._picture.axis.ticks():
            x = self._x(at_s)
            yield f'<path d="M{x:g} {top - 12:g}V{bottom:g}" stroke="{_RULE}"/>'
            yield _text(x + 3, top - 3, label, _FAINT, 11)

    def _section(self, section: Section) -> Iterator[str]:
        self._y += 22
        yield _text(_MARGIN, self._y, _short(section.title, _MOST_TITLE), _INK, 12, bold=True)
        self._y += 6
        for lane in section.lanes:
            yield from self._lane(lane)

    def _lane(self, lane: Lane) -> Iterator[str]:
        bar = self._y + (_ROW - _BAR) / 2
        low = bar + _BAR
        yield _text(_MARGIN, low - 3, _short(lane.name), _INK, 12, said=lane.name)
        spans = lane.spans[:_MOST_SPANS]
        for span, after in zip_longest(spans, spans[1:]):
            yield self._box(span, bar, low)
            notches = dict.fromkeys(map(self._x, span.notches_s[:_MOST_SPANS]))
            if notches:
                cuts = "".join(f"M{x:g} {bar + _BAR / 2:g}V{low:g}" for x in notches)
                yield f'<path d="{cuts}" stroke="{_PAPER}" stroke-width="1.5"/>'
            x = self._x(span.end_s) + 5
            if span.label and (after is None or x + 7 * len(span.label) < self._x(after.start_s)):
                yield _text(x, low - 3, span.label, _FAINT, 11)
        self._y += _ROW

    def _box(self, span: Span, top: float, bottom: float) -> str:
        left, right = self._x(span.start_s), self._x(span.end_s)
        return (
            f'<rect x="{left:g}" y="{top:g}" width="{max(1.5, right - left):g}"'
            f' height="{bottom - top:g}" fill="{span.colour}">'
            f"<title>{_said(span.said)}</title></rect>"
        )


def _text(
    x: float, y: float, words: str, colour: str, size: int, *, bold: bool = False, said: str = ""
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    title = f"<title>{_said(said)}</title>" if said else ""
    place = f'x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}"{weight}'
    return f"<text {place}>{_said(words)}{title}</text>"


def _said(words: str) -> str:
    """Escape what is said."""
    return escape(_clean(words))


def _clean(words: str) -> str:
    """Cut what is long, and leave out what no document may hold, and what turns its reading around."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}"
        for c in words[:_MOST_SAID]
    )


def _short(words: str, most: int = _MOST_NAME) -> str:
    """Cut a name in its middle: the ends tell more."""
    if len(words) <= most:
        return words
    return (
        f"{words[: most - most // 3 - 1]}\N{HORIZONTAL ELLIPSIS}{words[len(words) - most // 3 :]}"
    )


def _cells(words: str) -> int:
    """Tell how wide words are, in letters."""
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in words)


def _lanes(picture: Picture) -> list[Lane]:
    return [lane for section in picture.sections for lane in section.lanes]


def _longest_label(lanes: Sequence[Lane]) -> int:
    """Tell how much may be written behind a lane."""
    return max((len(lane.spans[-1].label) for lane in lanes if lane.spans), default=0)


def text(picture: Picture, columns: int = 100) -> str:
    """Draw a picture with letters.

    :param columns: how wide it is.
    """
    lanes = _lanes(picture)
    wide = min(max((_cells(lane.name) for lane in lanes), default=8), columns * 3 // 10)
    bar = _Bar(picture.axis, columns - wide - 2 - _longest_label(lanes))
    lines = [_line(picture.title), _line(picture.subtitle), "", _named("", wide, bar.ticks())]
    if picture.shades:
        lines.append(_named("", wide, bar.of(picture.shades)))
    for section in picture.sections:
        lines.append(_line(_short(section.title, columns)))
        for lane in section.lanes:
            lines.append(_named(lane.name, wide, bar.of(lane.spans)))
    lines += ["", *(_line(f"{entry.letter} {entry.words}") for entry in picture.legend)]
    return "\n".join(lines) + "\n"


def _line(words: str) -> str:
    return _clean(words).replace("\n", " ").rstrip()


def _named(name: str, wide: int, bar: str) -> str:
    most = wide
    while _cells(_short(name, most)) > wide:
        most -= 1
    name = _line(_short(name, most))
    return f"{name}{' ' * (wide - _cells(name))} {bar}".rstrip()


class _Bar:
    def __init__(self, axis: Axis, columns: int) -> None:
        self._axis = axis
        self._columns = columns

    def _column(self, at_s: float) -> int:
        return min(self._columns - 1, int(self._axis.share(at_s) * self._columns))

    def of(self, spans: Sequence[Span]) -> str:
        """Draw spans, and their labels where there is room."""
        cells = [" "] * self._columns
        spans = spans[:_MOST_SPANS]
        for span, after in zip_longest(spans, spans[1:]):
            end = self._column(span.end_s) + 1
            for place in range(self._column(span.start_s), end):
                cells[place] = span.letter
            if span.label and (
                after is None or end + len(span.label) + 2 <= self._column(after.start_s)
            ):
                cells[end : end + len(span.label) + 1] = f" {span.label}"
        return "".join(cells)

    def ticks(self) -> str:
        """Draw the axis."""
        cells = [" "] * self._columns
        free = 0
        for at_s, label in self._axis.ticks(max(2, self._columns // 10)):
            place = self._column(at_s)
            if place >= free and place + len(label) < self._columns:
                cells[place : place + 1 + len(label)] = f"|{label}"
                free = place + len(label) + 2
        return "".join(cells)
