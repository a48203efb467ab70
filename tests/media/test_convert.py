import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcfoci.errors import MediaError
from rtcfoci.media.convert import (
    AudioConverter,
    converted,
    from_av_audio,
    from_av_video,
    scaled,
    to_av_audio,
    to_av_video,
)
from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub

RATES = [8000, 16_000, 24_000, 44_100, 48_000]


def sine(rate: int, channels: int, samples: int, start: int = 0) -> bytes:
    values = (
        round(9000 * math.sin(2 * math.pi * 440 * (start + n) / rate)) for n in range(samples)
    )
    return b"".join(struct.pack("<h", v) * channels for v in values)


def stretch(rate: int, channels: int, sizes: list[int], start_ns: int = 0) -> list[AudioFrame]:
    """Frames of these sizes, one after the other."""
    frames, place = [], 0
    for size in sizes:
        frames.append(
            AudioFrame(
                pcm=sine(rate, channels, size, place),
                timestamp_ns=start_ns + place * 1_000_000_000 // rate,
                sample_rate=rate,
                channels=channels,
            )
        )
        place += size
    return frames


@given(
    source=st.sampled_from(RATES),
    target=st.sampled_from(RATES),
    channels=st.integers(1, 2),
    wanted=st.integers(1, 2),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30),
)
@settings(max_examples=80, deadline=None)
def test_any_audio_becomes_20_ms_frames_of_the_same_length(
    source: int, target: int, channels: int, wanted: int, sizes: list[int]
) -> None:
    converter = AudioConverter(target, wanted)
    out = [f for frame in stretch(source, channels, sizes, 77) for f in converter.convert(frame)]
    out += converter.flush()
    assert {(f.sample_rate, f.channels, f.samples) for f in out} <= {(target, wanted, target // 50)}
    length_s = sum(sizes) / source
    assert length_s - 0.002 <= len(out) * 0.02 <= length_s + 0.022
    for i, f in enumerate(out):
        assert f.timestamp_ns == 77 + i * 20_000_000


@pytest.mark.parametrize("source", RATES)
@pytest.mark.parametrize("target", RATES)
def test_a_tone_stays_a_tone(source: int, target: int) -> None:
    converter = AudioConverter(target, 1)
    frames = stretch(source, 2, [source // 50] * 50)
    pcm = b"".join(f.pcm for frame in frames for f in converter.convert(frame))
    samples = np.frombuffer(pcm, "<i2").astype(float)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    peak_hz = np.argmax(power) * target / len(samples)
    assert peak_hz == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(samples[target // 10 :] ** 2)) == pytest.approx(6364, rel=0.05)


def test_audio_that_fits_passes_untouched() -> None:
    frames = stretch(48_000, 1, [960] * 3)
    converter = AudioConverter()
    assert [converter.convert(f)[0] for f in frames] == frames


def test_a_gap_keeps_its_place() -> None:
    converter = AudioConverter(16_000)
    first, second = stretch(48_000, 1, [500]), stretch(48_000, 1, [960], start_ns=3_000_000_000)
    assert converter.convert(first[0]) == []
    out = converter.convert(second[0]) + converter.flush()
    assert [f.timestamp_ns for f in out] == [0, 3_000_000_000]
    assert {f.samples for f in out} == {320}


def test_concealment_stays_flagged() -> None:
    frame = AudioFrame(pcm=bytes(1920), timestamp_ns=0, concealed=True)
    [out] = AudioConverter(48_000, 2).convert(frame)
    assert out.concealed


@pytest.mark.parametrize(
    ("rate", "channels"), [(0, 1), (48_001, 1), (10**7, 1), (48_000, 0), (48_000, 3)]
)
def test_impossible_conversions_are_refused(rate: int, channels: int) -> None:
    with pytest.raises(MediaError, match="cannot be converted") as caught:
        AudioConverter(rate, channels)
    assert caught.value.do


def test_video_has_no_rate() -> None:
    with pytest.raises(MediaError, match="no sample rate"):
        converted(FrameHub(Kind.VIDEO), sample_rate=8000, channels=None)


def test_a_converted_hub_works_only_while_it_is_read() -> None:
    hub = FrameHub(Kind.AUDIO)
    out = converted(hub, sample_rate=8000, channels=1)
    assert not hub.wanted
    reader = out.open()
    assert hub.wanted
    reader.close()
    assert not hub.wanted


@given(
    width=st.integers(1, 100).map(lambda n: 2 * n),
    height=st.integers(1, 60).map(lambda n: 2 * n),
    seed=st.binary(min_size=1, max_size=50),
)
@settings(max_examples=60, deadline=None)
def test_pictures_go_through_pyav_unchanged(width: int, height: int, seed: bytes) -> None:
    size = width * height * 3 // 2
    frame = VideoFrame(
        data=(seed * (size // len(seed) + 1))[:size], width=width, height=height, timestamp_ns=5000
    )
    av_frame = to_av_video(frame)
    assert av_frame.pts == 5
    assert from_av_video(av_frame, 5000) == frame
    assert scaled(frame, width, height) is frame


def test_other_pixel_formats_and_odd_sizes_are_taken() -> None:
    import av

    rgb = av.VideoFrame.from_ndarray(np.full((31, 41, 3), 255, np.uint8), format="rgb24")
    frame = from_av_video(rgb, 1)
    assert (frame.width, frame.height, len(frame.data)) == (40, 30, 1800)
    assert set(frame.data[:1200]) <= {234, 235}
    with pytest.raises(MediaError, match="1x1"):
        from_av_video(av.VideoFrame(1, 1, "yuv420p"), 1)


@given(st.integers(1, 8), st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
def test_sound_goes_through_pyav_unchanged(channels: int, samples: int) -> None:
    pcm = (bytes(range(256)) * (2 * channels * samples // 256 + 1))[: 2 * channels * samples]
    frame = AudioFrame(pcm=pcm, timestamp_ns=0, sample_rate=44_100, channels=channels)
    assert from_av_audio(to_av_audio(frame), 0) == frame


def test_sound_of_another_format_is_refused() -> None:
    import av

    with pytest.raises(MediaError, match="fltp"):
        from_av_audio(av.AudioFrame(format="fltp", layout="stereo", samples=10), 0)
