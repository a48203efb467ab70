"""A run as a picture: who was in the call and when, what was done to them, and who was connected to whom.

In: spans read from a trace, the picture as SVG and as text for a terminal. Out: the trace (`world`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import combinations

from rtcfoci.testing.simulation.faults import FAULTS
from rtcfoci.testing.simulation.world import Note, Outcome

__all__ = ["svg", "text"]

_PAPER, _INK, _FAINT, _RULE = "#fbfaf7", "#22252a", "#80858d", "#e3e0d8"
_IN, _COMING, _PAIR, _HALF = "#2f6f9f", "#b9cfdf", "#5b8f63", "#c3d6c5"
_FAULT, _BAD = "#f0cd92", "#b3452c"
_LEFT, _WIDTH, _MARGIN = 120, 1000, 24
_ROW, _FAULT_ROW, _PAIR_ROW = 34, 13, 16
_LETTER = 5.0
"""Width of a letter of a fault's name."""
_COLUMNS = 100


@dataclass(slots=True)
class _Lane:
    """What happened to one device or pair, as (from, to, what)."""

    spans: list[tuple[float, float, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Course:
    """A trace, read."""

    end_s: float
    devices: dict[str, _Lane]
    faults: dict[str, _Lane]
    pairs: dict[tuple[str, str], _Lane]
    broken: list[tuple[float, str]]
    over_s: float | None = None


def _read(outcome: Outcome) -> _Course:
    notes = outcome.notes
    names = [chr(ord("a") + number) for number in range(outcome.script.devices)]
    course = _Course(
        max([1.0, *(note.at_s for note in notes)]),
        {name: _Lane() for name in names},
        {name: _Lane() for name in (*names, "homeserver")},
        {pair: _Lane() for pair in combinations(names, 2)},
        [(note.at_s, note.detail) for note in notes if note.what == "BROKEN"],
    )
    for name in names:
        course.devices[name].spans = list(_presence(notes, name, course.end_s))
    for who, lane in course.faults.items():
        _faults(notes, who, course.end_s, lane)
    for (one, other), lane in course.pairs.items():
        lane.spans = list(_connected(notes, one, other, course.end_s))
    course.over_s = next((n.at_s for n in notes if n.what == "all faults are over"), None)
    return course


def _presence(notes: list[Note], name: str, end_s: float) -> Iterator[tuple[float, float, str]]:
    since: dict[str, float] = {}
    turns = {"joins": "coming", "joined": "in", "leaves": "going", "left": "", "kill": ""}
    for note in notes:
        if note.who == name and (note.what in turns or note.what == "failed"):
            for what, start_s in since.items():
                yield start_s, note.at_s, what
            what = turns.get(note.what, "")
            since = {what: note.at_s} if what else {}
    for what, start_s in since.items():
        yield start_s, end_s, what


def _faults(notes: list[Note], who: str, end_s: float, lane: _Lane) -> None:
    open_: dict[str, list[float]] = {}
    for note in notes:
        if note.who != who:
            continue
        ended = note.what.removesuffix(" ends")
        if note.what in FAULTS:
            if "for_s=" in note.detail:
                open_.setdefault(note.what, []).append(note.at_s)
            else:
                lane.marks.append((note.at_s, note.what))
        elif ended != note.what and open_.get(ended):
            lane.spans.append((open_[ended].pop(0), note.at_s, ended))
    for what, starts in open_.items():
        lane.spans += [(start_s, end_s, what) for start_s in starts]
    lane.spans.sort()


def _connected(
    notes: list[Note], one: str, other: str, end_s: float
) -> Iterator[tuple[float, float, str]]:
    sides, since_s, before = {one: 0, other: 0}, 0.0, 0
    for note in notes:
        if note.what == "kill" and note.who in sides:
            sides[note.who] = 0
        elif note.who in sides and note.detail in sides and note.what in _TURNS:
            sides[note.who] = max(0, sides[note.who] + _TURNS[note.what])
        else:
            continue
        now = sum(count > 0 for count in sides.values())
        if now != before:
            if before:
                yield since_s, note.at_s, "both" if before == 2 else "one"
            since_s, before = note.at_s, now
    if before:
        yield since_s, end_s, "both" if before == 2 else "one"


_TURNS: Mapping[str, int] = {"connects": 1, "disconnects": -1}


def svg(outcome: Outcome, title: str) -> str:
    """Draw a run.

    :param title: what was run.
    """
    course = _read(outcome)
    top = 84

    def x(at_s: float) -> float:
        return round(_LEFT + at_s * _WIDTH / course.end_s, 1)

    rows, y = {}, top
    for name, lane in course.faults.items():
        stacked = _stacked(lane, x)
        rows[name] = y, stacked
        y += _ROW + _FAULT_ROW * max([0, *(level + 1 for *_, level in stacked)])
    devices_end, pairs_top = y - 8, y + 22
    below = pairs_top + len(course.pairs) * _PAIR_ROW + 20
    height = below + _PAIR_ROW * len(course.broken)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 2 * _MARGIN}"'
        f' height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
        _text(_MARGIN, 28, title, _INK, 16),
        _text(_MARGIN, 46, _verdict(outcome), _BAD if outcome.broken else _FAINT, 12),
    ]
    step_s = next(s for s in (1, 2, 5, 10, 20, 60, 120, 600) if course.end_s / s <= 14)
    for number in range(int(course.end_s / step_s) + 1):
        at = x(number * step_s)
        parts.append(_line(at, top - 12, below - 16, _RULE))
        parts.append(_text(at + 2, top - 4, f"{number * step_s} s", _FAINT, 10))
    for start_s, end_s, _ in course.faults["homeserver"].spans:
        parts.append(_box(x(start_s), top, x(end_s), devices_end, _BAD, 0.08, "outage"))
    for name, (y, stacked) in rows.items():
        parts.append(_text(_MARGIN, y + 19, name, _INK, 13))
        for start_s, end_s, what in course.devices.get(name, _Lane()).spans:
            colour = _IN if what == "in" else _COMING
            parts.append(_box(x(start_s), y + 9, x(end_s), y + 21, colour, 1, what))
        for start_s, end_s, what, level in stacked:
            low = y + 24 + _FAULT_ROW * level
            parts.append(_box(x(start_s), low, x(end_s), low + 11, _FAULT, 1, what))
            parts.append(_text(x(start_s) + 3, low + 9, what, _INK, 9))
        for at_s, what in course.faults[name].marks:
            colour = _BAD if what == "kill" else _INK
            parts.append(_line(x(at_s), y + 4, y + 24, colour, title=what))
            if what not in ("join", "publish"):
                parts.append(_text(x(at_s) + 2, y + 7, what, colour, 8))
    if course.over_s is not None:
        at = x(course.over_s)
        parts.append(_line(at, top - 28, below - 16, _FAINT, dashes="4 3"))
        parts.append(_text(at + 3, top - 20, "all faults are over", _FAINT, 10))
    parts.append(_text(_MARGIN, pairs_top - 6, "connected", _FAINT, 11))
    for row, ((one, other), lane) in enumerate(course.pairs.items()):
        y = pairs_top + row * _PAIR_ROW
        parts.append(_text(_MARGIN, y + 10, f"{one} - {other}", _INK, 11))
        for start_s, end_s, what in lane.spans:
            colour = _PAIR if what == "both" else _HALF
            parts.append(_box(x(start_s), y + 2, x(end_s), y + 11, colour, 1, f"{what} sides"))
    for number, (at_s, why) in enumerate(course.broken):
        parts.append(_line(x(at_s), top - 12, below - 16, _BAD))
        parts.append(
            _text(_MARGIN, below + _PAIR_ROW * number, f"{at_s:g} s: {why}"[:180], _BAD, 12)
        )
    parts.append("</svg>\n")
    return "\n".join(parts)


def _stacked(lane: _Lane, x: Callable[[float], float]) -> list[tuple[float, float, str, int]]:
    """Give each span the first level on which neither it nor its name meets another."""
    free: list[float] = []
    stacked = []
    for start_s, end_s, what in lane.spans:
        level = next((n for n, until in enumerate(free) if until <= x(start_s)), len(free))
        free[level : level + 1] = [max(x(end_s), x(start_s) + 6 + _LETTER * len(what)) + 2]
        stacked.append((start_s, end_s, what, level))
    return stacked


def _line(
    at: float, top: float, bottom: float, colour: str, *, dashes: str = "", title: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    said = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="M{at} {top}V{bottom}" stroke="{colour}"{dashed}>{said}</path>'


def _box(
    left: float, top: float, right: float, bottom: float, colour: str, opacity: float, title: str
) -> str:
    width = max(1.0, round(right - left, 1))
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{bottom - top}" fill="{colour}"'
        f' fill-opacity="{opacity}"><title>{escape(title)}</title></rect>'
    )


def _text(x: float, y: float, said: str, colour: str, size: int) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}">{escape(said)}</text>'


def _verdict(outcome: Outcome) -> str:
    if outcome.broken:
        return f"broken: {outcome.broken[0]}"[:160]
    return f"all was well {outcome.settled_s:.1f} s after the last fault"


def text(outcome: Outcome) -> str:
    """Draw a run with letters: a line for each device and for each pair."""
    course = _read(outcome)
    lines = [f"{'seconds':12} 0{f'{course.end_s:.0f}':>{_COLUMNS - 1}}"]
    for name, lane in course.devices.items():
        lines.append(f"{name:12} {_bar(lane, course.end_s, {'in': '=', '': '-'})}")
        faults = course.faults[name]
        if faults.spans or faults.marks:
            lines.append(f"{'':12} {_bar(faults, course.end_s, {'': '~'}, _LETTERS)}")
    if course.faults["homeserver"].spans:
        bar = _bar(course.faults["homeserver"], course.end_s, {"": "#"})
        lines.append(f"{'homeserver':12} {bar}")
    for (one, other), lane in course.pairs.items():
        bar = _bar(lane, course.end_s, {"both": "=", "": "-"})
        lines.append(f"{f'{one} - {other}':12} {bar}")
    lines.append(
        "= in the call, or connected; - coming, going, or one side; ~ a fault; # an outage;"
        " j l k p u m s c: join, leave, kill, publish, unpublish, mute, send, clock"
    )
    return "\n".join(lines)


_LETTERS = {"join": "j", "leave": "l", "kill": "k", "publish": "p", "unpublish": "u",
            "mute": "m", "unmute": "m", "send data": "s", "clock jump": "c"}  # fmt: skip


def _bar(
    lane: _Lane, end_s: float, fills: Mapping[str, str], letters: Mapping[str, str] | None = None
) -> str:
    bar = [" "] * _COLUMNS

    def column(at_s: float) -> int:
        return min(_COLUMNS - 1, int(at_s / end_s * _COLUMNS))

    for start_s, stop_s, what in lane.spans:
        for place in range(column(start_s), column(stop_s) + 1):
            bar[place] = fills.get(what, fills[""])
    for at_s, what in lane.marks:
        bar[column(at_s)] = (letters or {}).get(what, "|")
    return "".join(bar).rstrip()
