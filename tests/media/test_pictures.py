from pathlib import Path

import pytest

from rtcfoci.errors import MediaError
from rtcfoci.media.pictures import contact_sheet, waveforms
from rtcfoci.media.signature import signatures
from rtcfoci.media.verdict import judge

from .making import mirrored, pattern, record, record_sender, silence

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
MARKS = signatures(["ada", "bob", "cy"], seed=3)
GOOD, BAD = (0x2F, 0x6F, 0x9F), (0xB3, 0x45, 0x2C)


def recordings(folder: Path) -> dict[tuple[str, str], Path]:
    files = {name: record_sender(folder / f"{name}.mkv", MARKS[name]) for name in MARKS}
    return {(r, s): files[s] for r in MARKS for s in MARKS if r != s}


def colours(path: Path) -> dict[tuple[int, int, int], int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour: count for count, colour in image.getcolors(1 << 24)}


def test_a_good_call_has_no_red(tmp_path: Path) -> None:
    found = recordings(tmp_path)
    verdict = judge(found, MARKS)
    tones = {name: mark.tone_hz for name, mark in MARKS.items()}
    sheet = colours(contact_sheet(found, tmp_path / "sheet.png", verdict=verdict))
    waves = colours(waveforms(found, tmp_path / "waves.png", verdict=verdict, tones=tones))
    for seen in (sheet, waves):
        assert seen.get(GOOD, 0) > 20
        assert BAD not in seen
    assert waves[GOOD] > 6 * 200 * 20, "six waveforms"


def test_what_failed_is_red(tmp_path: Path) -> None:
    found = recordings(tmp_path)
    distorted = [mirrored(f) for f in pattern(MARKS["ada"].sender_id, 0, 1)]
    found["bob", "ada"] = record(tmp_path / "x.mkv", silence(0, 1), distorted)
    found["cy", "ada"] = tmp_path / "missing.mkv"
    verdict = judge(found, MARKS)
    sheet = contact_sheet(found, tmp_path / "sheet.png", verdict=verdict)
    waves = waveforms(found, tmp_path / "waves.png", verdict=verdict)
    assert colours(sheet)[BAD] > 20
    assert colours(waves)[BAD] > 20


def test_no_recordings_make_a_picture_too(tmp_path: Path) -> None:
    assert colours(contact_sheet({}, tmp_path / "sheet.png"))
    assert colours(waveforms({}, tmp_path / "waves.png"))


def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be written"):
        waveforms({}, tmp_path / "missing" / "x.png")
