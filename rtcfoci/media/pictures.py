"""Pictures of what was recorded: a contact sheet, and what each receiver heard of each sender.

In: PNG files from recordings. Out: the numbers behind them (`verdict`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rtcfoci.errors import MediaError
from rtcfoci.media.convert import to_av_video
from rtcfoci.media.frames import Kind, VideoFrame
from rtcfoci.media.pattern import read
from rtcfoci.media.reading import WINDOW_S, read_pictures, read_sound
from rtcfoci.media.verdict import Finding, Verdict

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font: TypeAlias = FreeTypeFont | ImageFont
    Recordings: TypeAlias = Mapping[tuple[str, str], Path]

__all__ = ["contact_sheet", "waveforms"]

_PAPER, _INK, _FAINT, _RULE = "#fbfaf7", "#22252a", "#80858d", "#e3e0d8"
_GOOD, _BAD = "#2f6f9f", "#b3452c"
_MARGIN, _GAP, _LABEL = 32, 20, 110
_THUMB_WIDTH, _THUMB_HEIGHT = 132, 99
_WAVE_WIDTH, _WAVE_HEIGHT, _SPECTRUM_WIDTH = 760, 76, 300
_SPECTRUM_TOP_HZ = 3000
_SPECTRUM_RANGE_DB = 80.0
_STRIPES_PER_WINDOW = 4


def contact_sheet(
    recordings: Recordings, out: Path, *, verdict: Verdict | None = None, shots: int = 3
) -> Path:
    """Draw a few pictures of every recording: a row for each receiver, a column for each sender.

    :param recordings: by (receiver, sender).
    :param verdict: what was found; what failed is written in red.
    :param shots: pictures of each recording, evenly over its length.
    :raises MediaError: when the file cannot be written.
    """
    from PIL import Image, ImageDraw

    receivers = sorted({receiver for receiver, _ in recordings})
    senders = sorted({sender for _, sender in recordings})
    cell_width = shots * (_THUMB_WIDTH + 4) - 4
    cell_height = _THUMB_HEIGHT + 44
    width = 2 * _MARGIN + _LABEL + len(senders) * (cell_width + _GAP) - _GAP
    height = 2 * _MARGIN + 84 + len(receivers) * (cell_height + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _title(draw, "Who saw whom", "the pictures that each receiver recorded of each sender")
    top = _MARGIN + 84
    for column, sender in enumerate(senders):
        left = _MARGIN + _LABEL + column * (cell_width + _GAP)
        draw.text((left, top - 22), f"from {sender}", _INK, _font(14))
    for row, receiver in enumerate(receivers):
        y = top + row * (cell_height + _GAP)
        draw.text((_MARGIN, y), "seen by", _FAINT, _font(12))
        _fitted(draw, (_MARGIN, y + 15), receiver, _INK, 15, _LABEL - 8)
        for column, sender in enumerate(senders):
            x = _MARGIN + _LABEL + column * (cell_width + _GAP)
            path = recordings.get((receiver, sender))
            finding = _finding(verdict, receiver, sender, Kind.VIDEO)
            if receiver == sender and path is None:
                draw.line((x, y, x + cell_width, y), _RULE)
                continue
            _strip(sheet, draw, (x, y), _shots(path, shots), shots)
            if finding is not None:
                colour = _GOOD if finding.ok else _BAD
                place = (x, y + _THUMB_HEIGHT + 20)
                _fitted(draw, place, finding.text, colour, 12, cell_width)
    return _saved(sheet, out)


def waveforms(
    recordings: Recordings,
    out: Path,
    *,
    verdict: Verdict | None = None,
    tones: Mapping[str, int] | None = None,
) -> Path:
    """Draw the waveform and the spectrum of every recording, all on one time axis.

    :param recordings: by (receiver, sender).
    :param verdict: what was found; what failed is drawn in red.
    :param tones: each sender's tone in Hz, marked in the spectra.
    :raises MediaError: when the file cannot be written.
    """
    from PIL import Image, ImageDraw

    pairs = sorted(recordings)
    sounds = [_sound(recordings[pair]) for pair in pairs]
    length_s = max([2.0, *(end_s for _, end_s, _ in sounds)])
    row_height = _WAVE_HEIGHT + 40
    left = _MARGIN + _LABEL
    width = left + _WAVE_WIDTH + 2 * _GAP + _SPECTRUM_WIDTH + _MARGIN
    height = 2 * _MARGIN + 84 + len(pairs) * row_height + 20
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _title(draw, "Who heard whom", "the sound that each receiver recorded of each sender")
    top = _MARGIN + 84
    right = left + _WAVE_WIDTH + 2 * _GAP
    draw.text((left, top - 24), "waveform", _FAINT, _font(12))
    draw.text((right, top - 24), "spectrum", _FAINT, _font(12))
    bottom = top + len(pairs) * row_height
    _axis(draw, left, _WAVE_WIDTH, (top, bottom), length_s, _step(length_s), "{:g} s", 1)
    _axis(draw, right, _SPECTRUM_WIDTH, (top, bottom), _SPECTRUM_TOP_HZ, 1000, "{:g} kHz", 1000)
    for row, ((receiver, sender), (stripes, _, spectrum)) in enumerate(
        zip(pairs, sounds, strict=True)
    ):
        y = top + row * row_height
        finding = _finding(verdict, receiver, sender, Kind.AUDIO)
        colour = _BAD if finding is not None and not finding.ok else _GOOD
        _fitted(draw, (_MARGIN, y + 14), receiver, _INK, 15, _LABEL - 12)
        _fitted(draw, (_MARGIN, y + 34), f"hears {sender}", _FAINT, 12, _LABEL - 12)
        _wave(draw, (left, y), stripes, length_s, colour)
        tone = (tones or {}).get(sender)
        _spectrum(draw, (right, y), spectrum, colour, tone)
        if finding is not None:
            _fitted(draw, (left, y + _WAVE_HEIGHT + 6), finding.text, colour, 12, _WAVE_WIDTH)
    return _saved(sheet, out)


def _shots(path: Path | None, count: int) -> list[tuple[float, VideoFrame]]:
    """Choose pictures evenly; holds no more than twice as many as are wanted."""
    kept: list[tuple[float, VideoFrame]] = []
    every = 1
    try:
        for index, shot in enumerate(read_pictures(path) if path else ()):
            if index % every == 0:
                kept.append(shot)
            if len(kept) > 8 * count:
                kept, every = kept[::2], every * 2
    except MediaError:
        return []
    return [kept[(2 * i + 1) * len(kept) // (2 * count)] for i in range(count)] if kept else []


def _strip(
    sheet: Image,
    draw: ImageDraw,
    place: tuple[int, int],
    shots: Sequence[tuple[float, VideoFrame]],
    count: int,
) -> None:
    from PIL import Image

    x, y = place
    if not shots:
        end = x + count * (_THUMB_WIDTH + 4) - 5
        draw.rectangle((x, y, end, y + _THUMB_HEIGHT), outline=_BAD)
        draw.text((x + 12, y + _THUMB_HEIGHT // 2 - 8), "no pictures", _BAD, _font(13))
    for at_s, frame in shots:
        thumb = Image.fromarray(to_av_video(frame).to_ndarray(format="rgb24"))
        thumb.thumbnail((_THUMB_WIDTH, _THUMB_HEIGHT), Image.Resampling.LANCZOS)
        draw.rectangle((x, y, x + _THUMB_WIDTH - 1, y + _THUMB_HEIGHT - 1), fill=_RULE)
        sheet.paste(
            thumb,
            (x + (_THUMB_WIDTH - thumb.width) // 2, y + (_THUMB_HEIGHT - thumb.height) // 2),
        )
        stamp = read(frame)
        label = f"{at_s:.1f} s   no. {stamp.number}" if stamp else f"{at_s:.1f} s   unreadable"
        draw.text((x, y + _THUMB_HEIGHT + 3), label, _FAINT if stamp else _BAD, _font(11))
        x += _THUMB_WIDTH + 4


def _sound(path: Path) -> tuple[list[tuple[float, float]], float, list[float]]:
    """Give (time, peak 0 to 1) stripes, the end, and the mean power by frequency in dB."""
    import numpy as np

    stripes: list[tuple[float, float]] = []
    power = np.zeros(0)
    end_s = 0.0
    try:
        for start_s, window in read_sound(path):
            for i, part in enumerate(np.array_split(window, _STRIPES_PER_WINDOW)):
                peak = float(np.abs(part.astype(np.int32)).max()) / 32768
                stripes.append((start_s + i * WINDOW_S / _STRIPES_PER_WINDOW, peak))
            now = np.abs(np.fft.rfft(window * np.hanning(len(window)))) ** 2
            power = now if not len(power) else power + now
            end_s = start_s + WINDOW_S
    except MediaError:
        return [], 0.0, []
    if not len(power) or not power.max():
        return stripes, end_s, []
    top = round(_SPECTRUM_TOP_HZ * WINDOW_S) + 1
    decibel = 10 * np.log10(power[:top] / power.max() + 1e-12)
    return stripes, end_s, [float(d) for d in decibel]


def _wave(
    draw: ImageDraw,
    place: tuple[int, int],
    stripes: Sequence[tuple[float, float]],
    length_s: float,
    colour: str,
) -> None:
    x, middle = place[0], place[1] + _WAVE_HEIGHT // 2
    draw.line((x, middle, x + _WAVE_WIDTH, middle), _FAINT if stripes else _BAD)
    loudest = max([0.3, *(peak for _, peak in stripes)])
    stripe_width = _WAVE_WIDTH * WINDOW_S / _STRIPES_PER_WINDOW / length_s
    for at_s, peak in stripes:
        left = x + at_s / length_s * _WAVE_WIDTH
        half = peak / loudest * (_WAVE_HEIGHT // 2 - 4)
        if half >= 0.5:
            edge = max(left, left + stripe_width - 1)
            draw.rectangle((left, middle - half, edge, middle + half), fill=colour)


def _spectrum(
    draw: ImageDraw, place: tuple[int, int], decibel: Sequence[float], colour: str, tone: int | None
) -> None:
    x, y = place
    floor = y + _WAVE_HEIGHT - 4
    if tone is not None:
        mark = x + tone / _SPECTRUM_TOP_HZ * _SPECTRUM_WIDTH
        for dash in range(y, floor, 6):
            draw.line((mark, dash, mark, dash + 2), _INK)
        draw.text((mark + 5, y - 2), f"{tone} Hz", _INK, _font(11))
    draw.line((x, floor, x + _SPECTRUM_WIDTH, floor), _FAINT)
    points = [
        (
            x + i / max(1, len(decibel) - 1) * _SPECTRUM_WIDTH,
            floor - max(0.0, 1 + level / _SPECTRUM_RANGE_DB) * (_WAVE_HEIGHT - 16),
        )
        for i, level in enumerate(decibel)
    ]
    if points:
        draw.line(points, colour, width=2, joint="curve")


def _axis(
    draw: ImageDraw,
    left: int,
    width: int,
    rows: tuple[int, int],
    length: float,
    step: float,
    form: str,
    unit: float,
) -> None:
    top, bottom = rows
    for i in range(int(length / step) + 1):
        x = left + i * step / length * width
        draw.line((x, top, x, bottom), _RULE)
        draw.text((x, bottom + 6), form.format(i * step / unit), _FAINT, _font(11), anchor="ma")


def _step(length_s: float) -> float:
    return next((s for s in (0.5, 1, 2, 5, 10, 30, 60, 300) if length_s / s <= 12), 900)


def _title(draw: ImageDraw, title: str, subtitle: str) -> None:
    draw.text((_MARGIN, _MARGIN - 6), title, _INK, _font(24))
    draw.text((_MARGIN, _MARGIN + 26), subtitle, _FAINT, _font(13))


def _finding(verdict: Verdict | None, receiver: str, sender: str, kind: Kind) -> Finding | None:
    wanted = (receiver, sender, kind)
    findings = verdict.findings if verdict else ()
    return next((f for f in findings if (f.receiver, f.sender, f.kind) == wanted), None)


def _fitted(
    draw: ImageDraw, place: tuple[int, int], text: str, colour: str, size: int, width: int
) -> None:
    """Write on one line; what does not fit is cut and ends in an ellipsis."""
    font = _font(size)
    if draw.textlength(text, font) > width:
        while text and draw.textlength(text + "…", font) > width:
            text = text[:-1]
        text += "…"
    draw.text(place, text, colour, font)


def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _saved(sheet: Image, out: Path) -> Path:
    try:
        sheet.save(out, "PNG")
    except OSError as error:
        raise MediaError(
            f"the picture {out} cannot be written",
            why=str(error),
            do="choose a folder that this user may write to",
        ) from error
    return out
