"""The verdict from made-up recordings: good ones pass, and every way to be bad has its reason."""

from functools import cache
from pathlib import Path

import pytest

from rtcfoci.media.frames import Kind
from rtcfoci.media.signature import TONES_HZ, signatures
from rtcfoci.media.verdict import RecordingFacts, Verdict, inspect_recording, judge

from .making import mirrored, noisy, pattern, record, record_sender, silence, tone

NAMES = ("ada", "bob", "cy")
MARKS = signatures(NAMES, seed=3)
ADA, BOB, CY = (MARKS[name] for name in NAMES)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("good")
    files = {name: record_sender(folder / f"{name}.mkv", MARKS[name]) for name in NAMES}
    return {(r, s): files[s] for r in NAMES for s in NAMES if r != s}


@cache
def inspected(path: Path) -> RecordingFacts:
    return inspect_recording(path)


def verdict_with(good: dict[tuple[str, str], Path], path: Path) -> Verdict:
    """Judge with what bob recorded of ada replaced."""
    others = {pair: inspected(file) for pair, file in good.items() if pair != ("bob", "ada")}
    return judge({**good, ("bob", "ada"): path}, MARKS, facts=others)


def reasons(verdict: Verdict) -> dict[Kind, str]:
    """What failed, which must be ada at bob alone."""
    assert not verdict.ok
    assert {(f.receiver, f.sender) for f in verdict.failures} == {("bob", "ada")}
    return {f.kind: f.text for f in verdict.failures}


def test_a_good_call_passes(good: dict[tuple[str, str], Path]) -> None:
    verdict = judge(good, MARKS)
    assert verdict.ok, verdict.failures
    assert len(verdict.findings) == 12
    assert f"{ADA.tone_hz} Hz" in str(verdict.findings[0]) or "Hz" in verdict.findings[0].text


def test_nobody_is_no_success() -> None:
    assert not judge({}, {}).ok


def test_a_missing_recording_fails_for_both_media(good: dict[tuple[str, str], Path]) -> None:
    del (less := dict(good))["bob", "ada"]
    found = reasons(judge(less, MARKS))
    assert found == dict.fromkeys(Kind, "nothing was recorded")


def test_only_the_pairs_that_matter_are_judged(good: dict[tuple[str, str], Path]) -> None:
    verdict = judge({("bob", "cy"): good["bob", "cy"]}, MARKS, pairs=[("bob", "cy")])
    assert verdict.ok
    assert len(verdict.findings) == 2


def test_blocked_media_fails(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", silence(0, 2), pattern(ADA.sender_id, 0, 0.3))
    found = reasons(verdict_with(good, path))
    assert found[Kind.AUDIO] == "only silence"
    assert found[Kind.VIDEO].startswith("only ")


def test_media_that_stops_early_fails_where_more_is_asked(
    good: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    path = record(tmp_path / "x.mkv", tone(ADA.tone_hz, 0, 1.2), pattern(ADA.sender_id, 0, 0.9))
    assert verdict_with(good, path).ok
    found = {
        f.kind: f.text
        for f in judge({("bob", "ada"): path}, MARKS, pairs=[("bob", "ada")], least_s=4).findings
    }
    assert "for only 1.2 s" in found[Kind.AUDIO]
    assert "only 14 different pictures" in found[Kind.VIDEO]


def test_blocked_sound_alone_fails(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", pattern(ADA.sender_id, 0, 2))
    assert reasons(verdict_with(good, path)) == {Kind.AUDIO: "no sound in the file"}


def test_blocked_pictures_alone_fail(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", tone(ADA.tone_hz, 0, 2))
    assert reasons(verdict_with(good, path)) == {Kind.VIDEO: "no pictures in the file"}


@pytest.mark.parametrize("distort", [mirrored, lambda f: noisy(f, 4000)], ids=["mirror", "noise"])
def test_distorted_pictures_fail(
    good: dict[tuple[str, str], Path], tmp_path: Path, distort: object
) -> None:
    assert callable(distort)
    pictures = [distort(f) for f in pattern(ADA.sender_id, 0, 1.2)]
    path = record(tmp_path / "x.mkv", tone(ADA.tone_hz, 0, 2), pictures)
    found = reasons(verdict_with(good, path))
    assert list(found) == [Kind.VIDEO]
    assert "18 of 18 pictures are not readable" in found[Kind.VIDEO]


def test_half_distorted_pictures_fail(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    whole = pattern(ADA.sender_id, 0, 2)
    pictures = [mirrored(f) if i % 2 else f for i, f in enumerate(whole)]  # type: ignore[arg-type]
    path = record(tmp_path / "x.mkv", tone(ADA.tone_hz, 0, 2), pictures)
    assert list(reasons(verdict_with(good, path))) == [Kind.VIDEO]


def test_swapped_senders_fail_by_name(good: dict[tuple[str, str], Path]) -> None:
    found = reasons(verdict_with(good, good["bob", "cy"]))
    assert "is the tone of cy" in found[Kind.AUDIO]
    assert "pictures of cy instead" in found[Kind.VIDEO]


def test_a_wrong_tone_fails(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    free = next(hz for hz in TONES_HZ if hz not in {m.tone_hz for m in MARKS.values()})
    path = record(tmp_path / "x.mkv", tone(free, 0, 2), pattern(ADA.sender_id, 0, 2))
    found = reasons(verdict_with(good, path))
    assert list(found) == [Kind.AUDIO]
    assert "stands out" in found[Kind.AUDIO]


def test_a_mixture_of_two_senders_fails(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    sounds = tone(ADA.tone_hz, 0, 1.5) + tone(BOB.tone_hz, 1.5, 3)
    path = record(tmp_path / "x.mkv", sounds, pattern(ADA.sender_id, 0, 2))
    found = reasons(verdict_with(good, path))
    assert "of the sound" in found[Kind.AUDIO]


def test_a_frozen_picture_fails(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    still = pattern(ADA.sender_id, 0, 0.05)[0]
    frozen = [
        type(still)(**{**_fields(still), "timestamp_ns": f.timestamp_ns})
        for f in pattern(ADA.sender_id, 0, 2)
    ]
    path = record(tmp_path / "x.mkv", tone(ADA.tone_hz, 0, 2), frozen)
    assert reasons(verdict_with(good, path)) == {Kind.VIDEO: "only 1 different pictures"}


def test_a_file_cut_short_is_read_as_far_as_it_goes(
    good: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    whole = good["bob", "ada"].read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    facts = inspect_recording(cut)
    assert not facts.problem
    assert 1.0 < facts.duration_s < 2.4
    assert verdict_with(good, cut).ok
    cut.write_bytes(whole[:100])
    assert set(reasons(verdict_with(good, cut))) == set(Kind)


def test_a_file_that_is_none_fails(good: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    path.write_bytes(b"not a recording")
    found = reasons(verdict_with(good, path))
    assert "cannot be read" in found[Kind.AUDIO]
    assert "cannot be read" in found[Kind.VIDEO]


def test_facts_of_a_recording(tmp_path: Path) -> None:
    path = record(
        tmp_path / "x.mkv",
        tone(ADA.tone_hz, 0, 1),
        tone(BOB.tone_hz, 2, 3),
        pattern(ADA.sender_id, 0, 1),
        pattern(CY.sender_id, 2, 3),
    )
    facts = inspect_recording(path)
    assert facts.duration_s == pytest.approx(3.0, abs=0.15)
    assert facts.sounding_s == pytest.approx(2.0, abs=0.25)
    assert facts.tone_s(ADA.tone_hz) == pytest.approx(1.0, abs=0.15)
    assert facts.tone_s(BOB.tone_hz) == pytest.approx(1.0, abs=0.15)
    assert len(facts.tones()) == 2
    assert facts.senders() == {ADA.sender_id: 15, CY.sender_id: 15}
    [(start_s, length_s)] = facts.audio_gaps
    assert start_s == pytest.approx(1.0, abs=0.15)
    assert length_s == pytest.approx(1.0, abs=0.25)
    [(start_s, length_s)] = facts.video_gaps
    assert start_s == pytest.approx(1.0, abs=0.1)
    assert length_s == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_signatures_differ_between_senders(seed: int) -> None:
    marks = signatures([f"s{i}" for i in range(20)], seed)
    assert len({m.tone_hz for m in marks.values()}) == 20
    assert len({m.sender_id for m in marks.values()}) == 20
    assert marks == signatures(reversed(marks), seed)
    assert marks != signatures(marks, seed + 1)


def _fields(frame: object) -> dict[str, object]:
    return {name: getattr(frame, name) for name in ("data", "width", "height", "timestamp_ns")}
