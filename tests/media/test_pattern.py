from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcfoci.media.convert import from_av_video, scaled, to_av_video
from rtcfoci.media.frames import VideoFrame
from rtcfoci.media.pattern import Stamp, draw, read

from .making import coarse, mirrored, noisy

stamps = st.builds(Stamp, st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
even = st.integers(40, 320).map(lambda n: 2 * n)


@given(stamps, even, even)
@settings(max_examples=100, deadline=None)
def test_a_drawn_picture_is_read_at_any_size(stamp: Stamp, width: int, height: int) -> None:
    frame = draw(stamp, width, height, 7)
    assert len(frame.data) == width * height * 3 // 2
    assert frame.timestamp_ns == 7
    assert read(frame) == stamp


@given(stamps, st.integers(0, 2**32), st.integers(0, 60))
@settings(max_examples=10, deadline=None)
def test_it_is_read_through_noise(stamp: Stamp, seed: int, spread: int) -> None:
    assert read(noisy(draw(stamp, 160, 120, 0), spread, seed)) == stamp


@given(stamps, st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_it_is_read_through_blur(stamp: Stamp, factor: int) -> None:
    assert read(coarse(draw(stamp, 320, 240, 0), factor)) == stamp


@given(stamps, even, even)
@settings(max_examples=30, deadline=None)
def test_it_is_read_after_scaling(stamp: Stamp, width: int, height: int) -> None:
    assert read(scaled(draw(stamp, 320, 240, 0), width, height)) == stamp


@given(st.binary(min_size=80, max_size=80))
def test_other_blocks_are_refused(levels: bytes) -> None:
    rows = b""
    for row in range(8):
        line = b"".join(bytes([level]) * 8 for level in levels[row * 10 : row * 10 + 10])
        rows += line * 8
    frame = VideoFrame(data=rows + bytes(80 * 64 // 2), width=80, height=64, timestamp_ns=0)
    assert read(frame) is None


@pytest.mark.parametrize(
    "level", [bytes([0]), bytes([128]), bytes([255])], ids=["black", "grey", "white"]
)
def test_a_plain_picture_is_refused(level: bytes) -> None:
    frame = VideoFrame(data=level * (320 * 240 * 3 // 2), width=320, height=240, timestamp_ns=0)
    assert read(frame) is None


def test_distorted_pictures_are_refused() -> None:
    frame = draw(Stamp(4711, 99), 320, 240, 0)
    assert read(mirrored(frame)) is None
    assert read(noisy(frame, 4000)) is None
    assert read(coarse(frame, 30)) is None


def test_a_picture_too_small_is_refused() -> None:
    assert read(VideoFrame(data=bytes(6), width=2, height=2, timestamp_ns=0)) is None


@pytest.mark.parametrize("bit_rate", [60_000, 250_000])
def test_it_is_read_through_vp8_at_call_bit_rates(bit_rate: int) -> None:
    """As a mesh sends it: real time, no look-ahead, at a fourth of the usual starting rate too."""
    import av

    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 320, 240, "yuv420p"
    encoder.bit_rate = bit_rate
    encoder.time_base, encoder.framerate = Fraction(1, 15), Fraction(15)
    encoder.thread_count = 1
    encoder.options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    decoder = av.CodecContext.create("vp8", "r")
    sent = [Stamp(4711, i) for i in range(45)]
    packets = []
    for stamp in sent:
        frame = to_av_video(draw(stamp, 320, 240, 0))
        frame.time_base, frame.pts = Fraction(1, 15), stamp.number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    received = [
        read(from_av_video(frame, 0)) for packet in packets for frame in decoder.decode(packet)
    ]
    assert None not in received
    assert len(received) >= 40, "the encoder may leave out a few"
    assert set(received) <= set(sent)
