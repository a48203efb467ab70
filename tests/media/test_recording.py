import asyncio
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from rtcfoci.errors import MediaError
from rtcfoci.media.frames import Frame, Kind, VideoFrame
from rtcfoci.media.pacing import NS
from rtcfoci.media.reading import read_pictures
from rtcfoci.media.recording import MatroskaWriter, Recorder
from rtcfoci.media.sources import PatternSource, ToneSource
from rtcfoci.media.tracks import FrameHub
from rtcfoci.media.verdict import RecordingFacts, inspect_recording

from .making import EPOCH_NS, pattern, record, tone, until


def heard(facts: RecordingFacts) -> list[tuple[float, float]]:
    """(start, end) of each stretch of sound."""
    stretches: list[tuple[float, float]] = []
    for sound in facts.sounds:
        if sound.silent:
            continue
        if stretches and abs(stretches[-1][1] - sound.start_s) < 0.01:
            stretches[-1] = (stretches[-1][0], sound.start_s + 0.1)
        else:
            stretches.append((sound.start_s, sound.start_s + 0.1))
    return stretches


def test_sound_and_pictures_keep_their_place(tmp_path: Path) -> None:
    """Each stretch is found within 100 ms of where the call clock put it."""
    path = record(
        tmp_path / "x.mkv",
        tone(1000, 1.5, 2.5),
        tone(1000, 4.0, 5.0),
        pattern(7, 2, 3),
        pattern(7, 4.2, 5),
    )
    facts = inspect_recording(path)
    (first, second) = heard(facts)
    assert first == (pytest.approx(1.5, abs=0.1), pytest.approx(2.5, abs=0.12))
    assert second == (pytest.approx(4.0, abs=0.1), pytest.approx(5.0, abs=0.12))
    assert len(facts.pictures) == 27
    for picture in facts.pictures:
        assert picture.at_s == pytest.approx(picture.number / 15, abs=0.002)
    [(gap_s, length_s)] = facts.video_gaps
    assert (gap_s, length_s) == (pytest.approx(2.93, abs=0.1), pytest.approx(1.27, abs=0.1))


def test_jittery_timestamps_make_no_holes(tmp_path: Path) -> None:
    shaken: list[Frame] = []
    for i, frame in enumerate(tone(800, 0, 3)):
        shift_ns = (0, 15, -15, 30)[i % 4] * 1_000_000
        shaken.append(_moved(frame, max(EPOCH_NS, frame.timestamp_ns + shift_ns)))
    facts = inspect_recording(record(tmp_path / "x.mkv", shaken, kinds=[Kind.AUDIO]))
    assert facts.tone_s(800) == pytest.approx(3.0, abs=0.2)
    assert not facts.audio_gaps


def test_sound_that_drifts_is_held_within_100_ms(tmp_path: Path) -> None:
    """A sender whose clock runs 5 % slow: stretched with silence, never late by more than 100 ms."""
    slow = [
        _moved(f, EPOCH_NS + round((f.timestamp_ns - EPOCH_NS) * 1.05)) for f in tone(800, 0, 4)
    ]
    facts = inspect_recording(record(tmp_path / "x.mkv", slow, kinds=[Kind.AUDIO]))
    assert heard(facts)[-1][1] == pytest.approx(4.2, abs=0.2)


def test_a_change_of_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    path = record(
        tmp_path / "x.mkv", pattern(7, 0, 1), pattern(7, 1, 2, size=(640, 480)), tone(500, 0, 2)
    )
    sizes = {(p.width, p.height) for _, p in read_pictures(path)}
    assert sizes == {(320, 240)}
    assert inspect_recording(path).senders() == {7: 30}


def test_pictures_that_come_late_are_still_recorded(tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", tone(500, 0, 3), pattern(7, 2, 3))
    facts = inspect_recording(path)
    assert facts.senders() == {7: 15}
    assert facts.pictures[0].at_s == pytest.approx(2.0, abs=0.05)
    assert facts.sounds[0].start_s == pytest.approx(0.0, abs=0.05)


def test_what_is_before_the_epoch_or_late_is_left_out(tmp_path: Path) -> None:
    writer = MatroskaWriter(tmp_path / "x.mkv", epoch_ns=EPOCH_NS + NS)
    for frame in (*tone(500, 0, 2), *tone(900, 0, 2), *pattern(7, 0, 2), *pattern(8, 0, 2)):
        writer.write(frame)
    writer.close()
    facts = inspect_recording(tmp_path / "x.mkv")
    assert facts.tone_s(500) == pytest.approx(1.0, abs=0.15)
    assert facts.tone_s(900) == 0
    assert facts.senders() == {7: 15}


def test_no_frame_makes_no_file(tmp_path: Path) -> None:
    assert not record(tmp_path / "x.mkv").exists()


async def test_a_recorder_fills_pauses_and_takes_tracks_back(tmp_path: Path) -> None:
    epoch_ns = time.monotonic_ns()
    recorder = Recorder(tmp_path / "x.mkv", epoch_ns=epoch_ns)
    first, second = ToneSource(600), ToneSource(600)
    first.start()
    assert recorder.add(first.hubs[Kind.AUDIO])
    assert not recorder.add(second.hubs[Kind.AUDIO]), "one of a kind at a time"
    await asyncio.sleep(0.8)
    ended_s = (time.monotonic_ns() - epoch_ns) / NS
    await first.aclose()
    await asyncio.sleep(1.0)
    second.start()
    back_s = (time.monotonic_ns() - epoch_ns) / NS
    assert recorder.add(second.hubs[Kind.AUDIO])
    await asyncio.sleep(0.8)
    await second.aclose()
    await recorder.aclose()
    assert recorder.error is None
    assert recorder.dropped == 0
    (before, after) = heard(inspect_recording(tmp_path / "x.mkv"))
    assert before[0] == pytest.approx(0, abs=0.2)
    assert before[1] == pytest.approx(ended_s, abs=0.2)
    assert after[0] == pytest.approx(back_s, abs=0.2)


async def test_missing_sound_is_filled_while_it_is_missing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "x.mkv", epoch_ns=time.monotonic_ns(), kinds=[Kind.AUDIO])
    source = ToneSource(600)
    recorder.add(source.hubs[Kind.AUDIO])
    source.start()
    await asyncio.sleep(0.4)
    await source.aclose()
    await asyncio.sleep(2.0)
    await recorder.aclose()
    assert inspect_recording(tmp_path / "x.mkv").duration_s == pytest.approx(1.4, abs=0.4)


async def test_an_unwritable_file_is_one_clear_error(tmp_path: Path) -> None:
    errors: list[MediaError] = []
    recorder = Recorder(tmp_path / "missing" / "x.mkv", epoch_ns=EPOCH_NS, on_error=errors.append)
    hub = FrameHub(Kind.VIDEO)
    recorder.add(hub)
    for frame in pattern(7, 0, 1):
        hub.push(frame)
    await until(lambda: recorder.error is not None)
    hub.push(pattern(7, 2, 2.1)[0])
    await recorder.aclose()
    assert errors == [recorder.error]
    assert "cannot be written" in errors[0].what
    assert "No such file" in errors[0].why
    assert errors[0].do
    assert recorder.dropped >= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
async def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    path, errors = tmp_path / "x.mkv", list[MediaError]()
    path.symlink_to("/dev/full")
    recorder = Recorder(path, epoch_ns=EPOCH_NS, on_error=errors.append)
    hub = FrameHub(Kind.VIDEO)
    recorder.add(hub)
    for frame in pattern(7, 0, 2):
        hub.push(frame)
    await until(lambda: recorder.error is not None)
    await recorder.aclose()
    assert errors == [recorder.error]
    assert "No space left" in errors[0].why
    assert "room" in errors[0].do


async def test_a_slow_disk_costs_frames_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = threading.Event()
    monkeypatch.setattr(MatroskaWriter, "write", lambda self, frame: blocked.wait(10))
    recorder = Recorder(tmp_path / "x.mkv", epoch_ns=EPOCH_NS)
    hub = FrameHub(Kind.AUDIO)
    recorder.add(hub)
    frames = tone(600, 0, 1) * 40
    before_s = time.perf_counter()
    for frame in frames:
        hub.push(frame)
    assert time.perf_counter() - before_s < 0.5
    assert recorder.dropped >= 900
    blocked.set()
    await recorder.aclose()


_RECORD = """
import sys, time
from pathlib import Path
from rtcfoci.media.frames import Kind
from rtcfoci.media.recording import Recorder
from rtcfoci.media.sources import PatternSource, ToneSource
epoch_ns = time.monotonic_ns()
recorder = Recorder(Path(sys.argv[1]), epoch_ns=epoch_ns)
tone, pattern = ToneSource(700), PatternSource(9)
wanted = sys.argv[2].split(",")
for source in (tone, pattern):
    for hub in source.hubs.values():
        if hub.kind.value in wanted:
            recorder.add(hub)
    source.start()
print(epoch_ns, flush=True)
if "then-none" in wanted:
    time.sleep(2)
    recorder.remove(pattern.hubs[Kind.VIDEO])
time.sleep(60)
"""


@pytest.mark.parametrize("media", ["audio,video", "audio", "video", "audio,video,then-none"])
def test_a_kill_loses_at_most_one_and_a_half_seconds(tmp_path: Path, media: str) -> None:
    path = tmp_path / "x.mkv"
    process = subprocess.Popen(
        [sys.executable, "-c", _RECORD, str(path), media], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        epoch_ns = int(process.stdout.readline())
        time.sleep(5)
        process.send_signal(signal.SIGKILL)
        killed_s = (time.monotonic_ns() - epoch_ns) / NS
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    facts = inspect_recording(path)
    assert not facts.problem
    if "audio" in media:
        lost_s = killed_s - heard(facts)[-1][1]
        assert lost_s <= 1.5
        assert facts.tone_s(700) > killed_s - 2.0
        assert not facts.audio_gaps
    if "video" in media:
        end_s = 2.0 if "then-none" in media else killed_s
        assert end_s - facts.pictures[-1].at_s <= 1.5
        assert facts.senders() == {9: len(facts.pictures)}
        assert not facts.video_gaps
    else:
        assert not facts.pictures


async def test_recorded_live_within_100_ms_of_the_call_clock(tmp_path: Path) -> None:
    """Every recorded picture lies where its own timestamp put it, and sound with it."""
    epoch_ns = time.monotonic_ns()
    recorder = Recorder(tmp_path / "x.mkv", epoch_ns=epoch_ns)
    picture, sound = PatternSource(9), ToneSource(700)
    stamps: dict[int, float] = {}

    def note(frame: Frame | None) -> None:
        if isinstance(frame, VideoFrame):
            stamps[len(stamps)] = (frame.timestamp_ns - epoch_ns) / NS

    picture.hubs[Kind.VIDEO].consume(note)
    recorder.add(picture.hubs[Kind.VIDEO])
    picture.start()
    await asyncio.sleep(0.7)
    recorder.add(sound.hubs[Kind.AUDIO])
    began_s = (time.monotonic_ns() - epoch_ns) / NS
    sound.start()
    await asyncio.sleep(1.5)
    await picture.aclose()
    await sound.aclose()
    await recorder.aclose()
    facts = inspect_recording(tmp_path / "x.mkv")
    assert len(facts.pictures) >= 25
    for shown, at_s in zip(facts.pictures, stamps.values(), strict=True):
        assert shown.at_s == pytest.approx(at_s, abs=0.01)
    assert all(a.number < b.number for a, b in pairwise(facts.pictures))
    assert heard(facts)[0][0] == pytest.approx(began_s, abs=0.1)


def _moved(frame: Frame, timestamp_ns: int) -> Frame:
    from dataclasses import replace

    return replace(frame, timestamp_ns=timestamp_ns)
