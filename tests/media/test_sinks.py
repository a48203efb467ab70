import asyncio
from pathlib import Path

import pytest

from rtcfoci.errors import MediaError
from rtcfoci.media.frames import Frame, Kind
from rtcfoci.media.sinks import CallbackSink, DeviceSink, NullSink
from rtcfoci.media.tracks import FrameHub, FrameStream
from rtcfoci.media.verdict import inspect_recording

from .making import pattern, tone, until


async def test_the_null_sink_counts() -> None:
    sink, audio, video = NullSink(), FrameHub(Kind.AUDIO), FrameHub(Kind.VIDEO)
    assert sink.add(audio)
    assert sink.add(audio)
    assert sink.add(video)
    for frame in tone(500, 0, 0.2):
        audio.push(frame)
    for frame in pattern(9, 0, 0.2):
        video.push(frame)
    assert sink.frames == {Kind.AUDIO: 10, Kind.VIDEO: 3}
    sink.remove(audio)
    assert not audio.wanted
    assert video.wanted
    await sink.aclose()
    await sink.aclose()
    assert not video.wanted


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_callback_sink_calls_on_its_loop(asynchronous: bool) -> None:
    seen: list[tuple[FrameStream, int]] = []

    def plain(track: FrameStream, frame: Frame) -> None:
        asyncio.get_running_loop()
        seen.append((track, frame.timestamp_ns))

    async def slow(track: FrameStream, frame: Frame) -> None:
        await asyncio.sleep(0)
        plain(track, frame)

    sink, hub = CallbackSink(slow if asynchronous else plain), FrameHub(Kind.AUDIO)
    assert sink.add(hub)
    frames = tone(500, 0, 0.2)
    await asyncio.to_thread(lambda: [hub.push(f) for f in frames])
    await until(lambda: len(seen) == 10)
    assert seen == [(hub, f.timestamp_ns) for f in frames]
    await sink.aclose()
    assert not hub.wanted


async def test_a_busy_callback_loses_the_oldest_and_stalls_nobody() -> None:
    gate = asyncio.Event()
    seen: list[int] = []

    async def busy(track: FrameStream, frame: Frame) -> None:
        await gate.wait()
        seen.append(frame.timestamp_ns)

    sink, hub = CallbackSink(busy, limit=3), FrameHub(Kind.AUDIO)
    sink.add(hub)
    frames = tone(500, 0, 1)
    for frame in frames:
        hub.push(frame)
    gate.set()
    await until(lambda: len(seen) == 3)
    assert seen == [f.timestamp_ns for f in frames[-3:]]
    await sink.aclose()


async def test_a_track_removed_as_soon_as_it_is_added_is_let_go() -> None:
    sink, hub = CallbackSink(lambda track, frame: None), FrameHub(Kind.AUDIO)
    sink.add(hub)
    sink.remove(hub)
    await until(lambda: not hub.wanted)
    await sink.aclose()


async def test_what_a_callback_raises_comes_out_at_the_end() -> None:
    def fail(track: FrameStream, frame: Frame) -> None:
        raise ValueError("mine")

    sink, hub = CallbackSink(fail), FrameHub(Kind.AUDIO)
    sink.add(hub)
    hub.push(tone(500, 0, 0.1)[0])
    await until(lambda: not hub.wanted)
    with pytest.raises(ValueError, match="mine"):
        await sink.aclose()


async def test_the_loudspeaker_mixes_its_tracks(tmp_path: Path) -> None:
    """A file stands in for the loudspeaker."""
    path = tmp_path / "speaker.wav"
    sink = DeviceSink(driver="wav", name=str(path))
    tracks = [FrameHub(Kind.AUDIO) for _ in range(2)]
    assert not sink.add(FrameHub(Kind.VIDEO))
    assert all(sink.add(track) for track in tracks)
    for frame in tone(700, 0, 1):
        tracks[0].push(frame)
        await asyncio.sleep(0.02)
    sink.remove(tracks[0])
    for frame in tone(1500, 0, 0.6):
        tracks[1].push(frame)
        await asyncio.sleep(0.02)
    await sink.aclose()
    assert not any(track.wanted for track in tracks)
    facts = inspect_recording(path)
    assert facts.tone_s(700) >= 0.5
    assert facts.tone_s(1500) >= 0.3


async def test_a_missing_loudspeaker_is_a_clear_error() -> None:
    with pytest.raises(MediaError, match="loudspeaker") as caught:
        DeviceSink(driver="wav", name="/proc/none/x.wav")
    assert caught.value.do


async def test_this_machines_loudspeaker() -> None:
    try:
        sink = DeviceSink()
    except MediaError as error:
        pytest.skip(f"this machine has no usable loudspeaker: {error.why}")
    await sink.aclose()
