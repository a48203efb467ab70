import asyncio
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.errors import MediaError, UsageError
from rtcfoci.media.files import DeviceSource, FileSource, probe_file
from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pacing import MAX_LATE_NS, NS, Pacer
from rtcfoci.media.pattern import Stamp, read
from rtcfoci.media.sources import LocalSource, PatternSource, SilenceSource, ToneSource

from .making import pattern, record, record_damaged, tone, until


def collect(source: LocalSource, kind: Kind) -> list[tuple[int, Frame]]:
    """(arrival, frame) of what a source gives."""
    frames: list[tuple[int, Frame]] = []

    def take(frame: Frame | None) -> None:
        if frame is not None:
            frames.append((time.monotonic_ns(), frame))

    source.hubs[kind].consume(take)
    return frames


@given(
    rate=st.sampled_from([Fraction(15), Fraction(50), Fraction(30_000, 1001)]),
    busy_ms=st.lists(st.integers(0, 400), min_size=5, max_size=60),
)
def test_pace_neither_drifts_nor_bursts(rate: Fraction, busy_ms: list[int]) -> None:
    """Whatever the maker's delays: exact places, no burst, never later than the limit for long."""
    now = 1000
    pacer = Pacer(rate, now)
    emitted: list[int] = []
    indices: list[int] = []
    for busy in busy_ms:
        tick = pacer.next(now)
        assert tick.timestamp_ns == 1000 + int(tick.index * NS / rate)
        assert tick.emit_ns >= max(now, tick.timestamp_ns)
        assert tick.timestamp_ns > now - MAX_LATE_NS - NS / rate
        emitted.append(tick.emit_ns)
        indices.append(tick.index)
        now = tick.emit_ns + busy * 1_000_000
    assert all(b - a >= int(NS / rate / 2) - 1 for a, b in pairwise(emitted))
    assert all(b > a for a, b in pairwise(indices))
    assert indices[-1] - len(indices) + 1 == pacer.skipped


def test_a_source_that_was_late_catches_up() -> None:
    pacer = Pacer(50, 0)
    now = 150_000_000
    for _ in range(20):
        tick = pacer.next(now)
        now = tick.emit_ns
    assert pacer.skipped == 0
    assert tick.emit_ns == tick.timestamp_ns


async def test_a_tone_runs_at_the_pace_of_the_clock() -> None:
    source = ToneSource(440)
    frames = collect(source, Kind.AUDIO)
    start_ns = time.monotonic_ns()
    source.start()
    await asyncio.sleep(1.0)
    await source.aclose()
    took_s = (time.monotonic_ns() - start_ns) / NS
    assert took_s * 50 - 12 <= len(frames) <= took_s * 50 + 2
    stamps = [f.timestamp_ns for _, f in frames]
    assert {(b - a) % 20_000_000 for a, b in pairwise(stamps)} == {0}
    for arrived_ns, frame in frames:
        assert frame.timestamp_ns <= arrived_ns
    assert source.hubs[Kind.AUDIO].ended


def test_a_tone_has_no_seams() -> None:
    """Every second is the same whole number of waves, so frames join without a click."""
    source = ToneSource(437)
    pcm = b"".join(f.pcm for f in (source._frame(i, 0) for i in range(120)))
    samples = memoryview(pcm).cast("h")
    assert len(samples) == 120 * 960
    steepest = max(abs(b - a) for a, b in pairwise(samples))
    assert steepest <= 8000 * 2 * 3.1416 * 437 / 48_000 + 2
    assert 7990 <= max(samples) <= 8000


async def test_silence_is_silent() -> None:
    source = SilenceSource()
    frames = collect(source, Kind.AUDIO)
    source.start()
    await until(lambda: len(frames) >= 3)
    await source.aclose()
    frame = frames[0][1]
    assert isinstance(frame, AudioFrame)
    assert frame.pcm == bytes(1920)


async def test_pictures_are_numbered_by_their_time() -> None:
    source = PatternSource(4711, fps=30)
    frames = collect(source, Kind.VIDEO)
    source.start()
    await asyncio.sleep(0.6)
    await source.aclose()
    pictures = [f for _, f in frames if isinstance(f, VideoFrame)]
    stamps = [read(f) for f in pictures]
    assert len(stamps) >= 10
    first = pictures[0].timestamp_ns
    first_stamp = stamps[0]
    assert first_stamp is not None
    for stamp, picture in zip(stamps, pictures, strict=True):
        assert stamp is not None
        assert stamp.sender_id == 4711
        since_s = (picture.timestamp_ns - first) / NS
        assert stamp.number - first_stamp.number == round(since_s * 30)


async def test_a_fault_of_the_source_itself_is_told() -> None:
    class Faulty(SilenceSource):
        def _frame(self, index: int, timestamp_ns: int) -> AudioFrame:
            raise RuntimeError("broken inside")

    source = Faulty()
    errors: list[MediaError] = []
    source.on_error = errors.append
    frames = collect(source, Kind.AUDIO)
    source.start()
    await until(lambda: source.hubs[Kind.AUDIO].ended)
    assert not frames
    assert [e.why for e in errors] == ["RuntimeError: broken inside"]
    await source.aclose()


async def test_closing_twice_or_before_the_start_is_fine() -> None:
    source = ToneSource(440)
    await source.aclose()
    source.start()
    await source.aclose()
    assert source.hubs[Kind.AUDIO].ended


@pytest.mark.parametrize("hz", [0, 19, 20_001])
def test_impossible_tones_are_refused(hz: int) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        ToneSource(hz)


@pytest.mark.parametrize(
    "arguments",
    [{"width": 81}, {"height": 10}, {"fps": 0}, {"fps": 100}, {"sender_id": 65536}],
    ids=str,
)
def test_impossible_pictures_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        PatternSource(**{"sender_id": 1, **arguments})


async def test_a_file_plays_at_its_pace_with_both_media(tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", tone(500, 0, 1.2), pattern(9, 0, 1.2))
    source = FileSource(path)
    sound, pictures = collect(source, Kind.AUDIO), collect(source, Kind.VIDEO)
    start_ns = time.monotonic_ns()
    source.start()
    await until(lambda: source.hubs[Kind.AUDIO].ended)
    assert 1.0 <= (time.monotonic_ns() - start_ns) / NS <= 2.5
    assert 58 <= len(sound) <= 62
    read_back = [read(f) for _, f in pictures if isinstance(f, VideoFrame)]
    assert read_back == [Stamp(9, i) for i in range(18)]
    for frames, spacing_ns in ((sound, 20_000_000), (pictures, NS // 15)):
        for (_, a), (_, b) in pairwise(frames):
            assert b.timestamp_ns - a.timestamp_ns == pytest.approx(spacing_ns, abs=2_000_000)
        assert all(f.timestamp_ns <= arrived_ns + 1000 for arrived_ns, f in frames)
    await source.aclose()


async def test_a_file_can_play_over_and_over(tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", tone(500, 0, 0.3), kinds=[Kind.AUDIO])
    source = FileSource(path, loop=True)
    frames = collect(source, Kind.AUDIO)
    source.start()
    await until(lambda: len(frames) > 40)
    await source.aclose()
    assert all(b.timestamp_ns > a.timestamp_ns for (_, a), (_, b) in pairwise(frames))


async def test_sound_of_any_rate_is_played_at_ours(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "x.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=22_050, layout="stereo")
        frame = av.AudioFrame(format="s16", layout="stereo", samples=22_050 // 2)
        frame.planes[0].update(bytes(22_050 * 2))
        frame.sample_rate = 22_050
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = FileSource(tmp_path / "x.wav")
    assert tuple(source.hubs) == (Kind.AUDIO,)
    frames = collect(source, Kind.AUDIO)
    source.start()
    await until(lambda: source.hubs[Kind.AUDIO].ended)
    await source.aclose()
    assert 24 <= len(frames) <= 27
    for _, frame in frames:
        assert isinstance(frame, AudioFrame)
        assert (frame.sample_rate, frame.channels, frame.samples) == (48_000, 1, 960)


async def test_a_file_that_vanishes_before_the_start_is_an_error(tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", tone(500, 0, 0.3))
    source = FileSource(path)
    errors: list[MediaError] = []
    source.on_error = errors.append
    path.unlink()
    source.start()
    await until(lambda: source.hubs[Kind.AUDIO].ended)
    assert errors == [source.error]
    await source.aclose()


def test_files_that_cannot_be_played_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no media at all")
    for path, why in (
        (tmp_path / "none.mkv", "there is no such file"),
        (tmp_path, "it is a folder"),
        (text, "Invalid data"),
    ):
        with pytest.raises(MediaError) as caught:
            probe_file(path)
        assert why in caught.value.why
        assert caught.value.do


def test_a_file_whose_media_is_damaged_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", pattern(9, 0, 0.5), kinds=[Kind.VIDEO])
    raw = bytearray(path.read_bytes())
    for i in range(raw.index(b"\x1f\x43\xb6\x75"), len(raw)):
        raw[i] = 0
    path.write_bytes(raw)
    with pytest.raises(MediaError, match="cannot be"):
        probe_file(path)


async def test_a_file_that_turns_corrupt_is_an_error_and_not_an_end(tmp_path: Path) -> None:
    source = FileSource(record_damaged(tmp_path / "x.avi", good=10), loop=True)
    frames = collect(source, Kind.VIDEO)
    hub, ended = source.hubs[Kind.VIDEO], threading.Event()
    hub.when_ended(ended.set)
    source.start()
    await until(ended.is_set)
    assert hub.error is not None
    assert hub.error is source.error
    assert "is damaged" in hub.error.what
    assert hub.error.do
    assert len(frames) == 10


async def test_a_film_with_a_scratch_is_played_to_its_end(tmp_path: Path) -> None:
    source = FileSource(record_damaged(tmp_path / "x.avi", good=10, damaged=5))
    hub, ended = source.hubs[Kind.VIDEO], threading.Event()
    hub.when_ended(ended.set)
    source.start()
    await until(ended.is_set)
    assert hub.error is None


async def test_a_device_that_goes_is_an_error() -> None:
    source = DeviceSource(Kind.AUDIO, driver="lavfi", name="sine=duration=0.2")
    source.start()
    await until(lambda: source.hubs[Kind.AUDIO].ended)
    assert source.hubs[Kind.AUDIO].error is source.error
    assert source.error is not None
    assert "gives no more" in source.error.what


async def test_a_device_is_read_through_its_driver() -> None:
    """FFmpeg's virtual input device stands in for a microphone."""
    source = DeviceSource(Kind.AUDIO, driver="lavfi", name="sine=frequency=600,arealtime")
    source.check()
    frames = collect(source, Kind.AUDIO)
    source.start()
    await until(lambda: len(frames) >= 20)
    await source.aclose()
    for arrived_ns, frame in frames:
        assert abs(frame.timestamp_ns - arrived_ns) <= 150_000_000


@pytest.mark.parametrize("kind", list(Kind))
def test_a_device_of_this_machine_can_be_opened(kind: Kind) -> None:
    try:
        DeviceSource(kind).check()
    except MediaError as error:
        pytest.skip(f"this machine has no usable {kind.value} device: {error.why}")
