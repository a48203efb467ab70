"""From packets to frames: what is decoded, what is made up, and what is left alone."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.codecs.g711 import PcmuEncoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import Wire, close_station, frequency_hz, member, open_station, until
from rtcfoci_mesh import hearing, opus, seeing
from rtcfoci_mesh.aiortc_engine import AiortcEngine
from rtcfoci_mesh.hearing import SoundIntake, audio_frame
from rtcfoci_mesh.incoming import CallClock, MediaTime
from rtcfoci_mesh.seeing import PictureIntake, video_frame

from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub
from rtcfoci.plugin import ConditionRaised

OPUS = RTCRtpCodecParameters("audio/opus", clockRate=48_000, channels=2, payloadType=96)
PCMU = RTCRtpCodecParameters("audio/PCMU", clockRate=8_000, channels=1, payloadType=0)
VP8 = RTCRtpCodecParameters("video/VP8", clockRate=90_000, payloadType=97)


@dataclass
class Events:
    """The owner of a session."""

    kind: Kind
    counts: Counter[str] = field(default_factory=Counter)
    frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub = FrameHub(self.kind)

    def read(self) -> None:
        self.stop = self.hub.consume(lambda frame: self.frames.append(frame) if frame else None)

    def received(self, mid: str) -> None:
        self.counts["received"] += 1

    def handed(self, *, concealed: bool = False) -> None:
        self.counts["concealed" if concealed else "real"] += 1

    def sink(self, mid: str, kind: Kind) -> FrameHub:
        assert kind is self.kind
        return self.hub


def tone(count: int, *, options: dict[str, str] | None = None) -> list[bytes]:
    """Encode so many times 20 ms of 440 Hz."""
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.bit_rate, encoder.options = 32_000, options or {}
    encoder.format, encoder.layout = av.AudioFormat("s16"), av.AudioLayout("mono")
    encoder.sample_rate, encoder.time_base = 48_000, Fraction(1, 48_000)
    packets: list[bytes] = []
    for index in range(count):
        at = np.arange(index * 960, index * 960 + 960)
        frame = av.AudioFrame(format="s16", layout="mono", samples=960)
        frame.planes[0].update((8000 * np.sin(2 * np.pi * 440 * at / 48_000)).astype("<i2"))
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


def rtp(index: int, payload: bytes, *, step: int = 960, ssrc: int = 1, base: int = 0) -> RtpPacket:
    return RtpPacket(96, 0, (65_530 + index) & 0xFFFF, base + step * index, ssrc, payload)


class Ear:
    """A section for sound whose packets come on time, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events = Events(Kind.AUDIO)
        self.events.read()
        self.now_s = 1000.0
        self.intake = SoundIntake("0", lambda: self.events)
        monkeypatch.setattr(hearing, "time", self)

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, until_s: float) -> None:
        """Let time pass."""
        while (stream := self.intake._stream) is not None:
            due_s = stream.buffer.due_s
            if due_s is None or due_s > until_s:
                break
            self.now_s = due_s
            self.intake._expire()
        self.now_s = until_s

    def hear(
        self, packets: list[bytes], lost: Iterable[int] = (), *, codec: RTCRtpCodecParameters = OPUS
    ) -> list[AudioFrame]:
        """Let packets in that are 20 ms apart, without those that are lost."""
        start_s, absent = self.now_s, set(lost)
        for index, payload in enumerate(packets):
            self.wait(start_s + 0.02 * index)
            if index not in absent:
                self.intake.take(rtp(index, payload, step=codec.clockRate // 50), codec)
        self.wait(self.now_s + 1)
        self.intake.close()
        return [frame for frame in self.events.frames if isinstance(frame, AudioFrame)]


@pytest.fixture
async def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    return Ear(monkeypatch)


# Sound


async def test_sound_comes_as_it_was_sent(ear: Ear) -> None:
    frames = ear.hear(tone(50))
    assert [frame.concealed for frame in frames] == [False] * 50
    assert {(f.samples, f.sample_rate, f.channels) for f in frames} == {(960, 48_000, 1)}
    assert frequency_hz(frames[-1]) == pytest.approx(440, abs=30)
    assert ear.events.counts == {"received": 50, "real": 50}


async def test_a_lost_packet_is_made_up_and_flagged(ear: Ear) -> None:
    frames = ear.hear(tone(50), lost=(20, 30, 31))
    assert [i for i, frame in enumerate(frames) if frame.concealed] == [20, 30, 31]
    assert len(frames) == 50
    assert all(np.frombuffer(frames[i].pcm, "<i2").std() > 500 for i in (20, 30)), "not silence"
    assert ear.events.counts == {"received": 47, "real": 47, "concealed": 3}
    steps = [b.timestamp_ns - a.timestamp_ns for a, b in itertools.pairwise(frames)]
    assert steps == [pytest.approx(20e6, abs=0.1e6)] * 49


async def test_what_the_next_packet_holds_of_a_lost_one_is_taken_from_there(ear: Ear) -> None:
    packets = tone(50, options={"fec": "1", "packet_loss": "20", "application": "voip"})
    library = opus.find_libopus()
    assert library is not None
    before = opus.LibOpus(library)
    for payload in packets[:20]:
        before.decode(payload)
    frames = ear.hear(packets, lost=(20,))
    assert frames[20].concealed
    assert frames[20].pcm == before.recover(packets[21], 960)
    assert np.frombuffer(frames[20].pcm, "<i2").std() > 2000, "the copy is as loud as the sound"


async def test_a_long_hole_is_not_filled_to_its_end(ear: Ear) -> None:
    frames = ear.hear(tone(50), lost=range(5, 45))
    assert [frame.concealed for frame in frames] == [False] * 5 + [True] * 10 + [False] * 5


async def test_who_pauses_or_is_muted_is_not_made_up(ear: Ear) -> None:
    frames = ear.hear(tone(10))
    assert len(frames) == 10
    assert ear.now_s > 1001
    assert not ear.events.counts["concealed"]


async def test_what_waits_behind_a_hole_comes_out_by_the_clock(ear: Ear) -> None:
    frames = ear.hear(tone(9), lost=(7,))
    assert [frame.concealed for frame in frames] == [False] * 7 + [True, False]


async def test_what_cannot_be_decoded_is_made_up(ear: Ear) -> None:
    packets = tone(12)
    packets[5] = b"\xff" * 9
    frames = ear.hear(packets)
    assert [frame.concealed for frame in frames] == [False] * 5 + [True] + [False] * 6


async def test_without_libopus_silence_stands_in(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "find_libopus", lambda: None)
    frames = ear.hear(tone(50), lost=(20,))
    assert [i for i, frame in enumerate(frames) if frame.concealed] == [20]
    assert frames[20].pcm == bytes(1920)
    assert frequency_hz(frames[19]) == pytest.approx(440, abs=30)


async def test_without_libopus_a_condition_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtcfoci_mesh.aiortc_engine.find_libopus", lambda: None)
    station = await open_station(Wire(), member("alice"))
    await close_station(station)
    (raised,) = station.saw(ConditionRaised)
    assert isinstance(raised, ConditionRaised)
    assert raised.code == "mesh_no_concealment"
    assert "libopus" in raised.cause
    assert raised.remedy


def test_libopus_is_found_here_and_by_its_names_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AiortcEngine().conceals
    opus.find_libopus.cache_clear()
    monkeypatch.setattr(opus, "_places", lambda: iter(["no-such-library", "libc.so.6"]))
    assert opus.find_libopus() is None
    opus.find_libopus.cache_clear()


async def test_whatever_codec_a_member_chose_sound_comes_as_ours(ear: Ear) -> None:
    encoder, payloads = PcmuEncoder(), []
    for index in range(40):
        at = np.arange(index * 160, (index + 1) * 160)
        frame = av.AudioFrame(format="s16", layout="mono", samples=160)
        frame.planes[0].update((8000 * np.sin(2 * np.pi * 440 * at / 8000)).astype("<i2"))
        frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), index * 160
        payloads.append(b"".join(encoder.encode(frame)[0]))
    frames = ear.hear([p for p in payloads if p], lost=(20,), codec=PCMU)
    assert len(frames) >= 37
    assert {(f.samples, f.sample_rate, f.channels) for f in frames} == {(960, 48_000, 1)}
    assert sum(frame.concealed for frame in frames) in (1, 2)
    assert frequency_hz(frames[9]) == pytest.approx(440, abs=60)


async def test_packets_need_not_hold_20_ms(ear: Ear) -> None:
    packets = tone(16, options={"frame_duration": "60"})
    for index, payload in enumerate(packets):
        ear.wait(1000 + 0.06 * index)
        ear.intake.take(rtp(index, payload, step=2880), OPUS)
    frames = [frame for frame in ear.events.frames if isinstance(frame, AudioFrame)]
    assert len(frames) == 3 * len(packets)
    assert {(f.samples, f.sample_rate, f.channels) for f in frames} == {(960, 48_000, 1)}
    ear.intake.close()


async def test_what_nobody_reads_is_noticed_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "_SoundStream", None)
    monkeypatch.setattr(seeing, "_PictureStream", None)
    monkeypatch.setattr(seeing, "depayload", None)
    sound, picture = Events(Kind.AUDIO), Events(Kind.VIDEO)
    ears, eyes = SoundIntake("0", lambda: sound), PictureIntake("1", lambda: picture)
    for index in range(1000):
        ears.take(rtp(index, b"\xff" * 100), OPUS)
        packet = rtp(index, b"\x10\x00" * 500)
        packet.marker = index % 5 == 4
        assert eyes.take(packet, VP8) is None
    assert (sound.counts, picture.counts) == ({"received": 1000}, {"received": 200})


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=60),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFFFFFF),
            st.integers(1, 3),
        ),
        max_size=40,
    )
)
def test_whatever_a_member_sends_nothing_breaks(
    packets: list[tuple[bytes, int, int, int]],
) -> None:
    async def take() -> None:
        for kind, codecs in ((Kind.AUDIO, (OPUS, PCMU)), (Kind.VIDEO, (VP8,))):
            events = Events(kind)
            events.read()
            intake = (SoundIntake if kind is Kind.AUDIO else PictureIntake)("0", lambda: events)  # noqa: B023
            for payload, number, timestamp, ssrc in packets:
                codec = codecs[ssrc % len(codecs)]
                intake.take(RtpPacket(96, number & 1, number, timestamp, ssrc, payload), codec)
            intake.close()
            for frame in events.frames:
                assert 0 < frame.timestamp_ns < 2**62

    asyncio.run(take())


def test_sound_becomes_mono() -> None:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=960)
    wave = np.stack([np.full(960, 1000), np.full(960, 3000)], axis=1).astype("<i2")
    frame.planes[0].update(wave.tobytes())
    frame.sample_rate = 48_000
    got = audio_frame(frame, 5)
    assert got == AudioFrame(pcm=np.full(960, 2000, "<i2").tobytes(), timestamp_ns=5)


# Pictures


def film(count: int, *, keys: tuple[int, ...] = (0,), side: int = 64) -> list[RtpPacket]:
    """Encode pictures whose grey tells their number."""
    encoder, packets = Vp8Encoder(), []
    for index in range(count):
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane, grey in zip(frame.planes, (60 + 3 * index, 128, 128), strict=True):
            plane.update(bytes([grey]) * plane.buffer_size)
        frame.pts, frame.time_base = 3000 * index, Fraction(1, 90_000)
        payloads, timestamp = encoder.encode(frame, force_keyframe=index in keys)
        for at, payload in enumerate(payloads):
            number = (65_530 + len(packets)) & 0xFFFF
            last = int(at == len(payloads) - 1)
            packets.append(RtpPacket(97, last, number, timestamp, 1, payload))
    return packets


async def seen(intake: PictureIntake, events: Events, count: int) -> list[int]:
    """Give the numbers of the pictures that came, once they are so many."""
    await until(lambda: len(events.frames) >= count)
    await asyncio.sleep(0.05)
    frames = [frame for frame in events.frames if isinstance(frame, VideoFrame)]
    return [round((frame.data[0] - 60) / 3) for frame in frames]


async def test_pictures_come_as_they_were_sent() -> None:
    events = Events(Kind.VIDEO)
    events.read()
    intake = PictureIntake("0", lambda: events)
    for packet in film(10):
        asked = intake.take(packet, VP8)
        assert asked is not None
        assert not asked.key
    assert await seen(intake, events, 10) == list(range(10))
    times = [frame.timestamp_ns for frame in events.frames]
    assert times == sorted(times)
    intake.close()


async def test_who_begins_to_read_asks_for_a_key_picture_at_once() -> None:
    events, packets = Events(Kind.VIDEO), film(12, keys=(0, 9))
    intake = PictureIntake("0", lambda: events)
    for packet in packets[:5]:
        assert intake.take(packet, VP8) is None
    events.read()
    asked = intake.take(packets[5], VP8)
    assert asked is not None
    assert asked.key
    for packet in packets[6:]:
        intake.take(packet, VP8)
    assert await seen(intake, events, 3) == [9, 10, 11]
    events.stop()
    assert intake.take(packets[0], VP8) is None
    assert intake._stream is None


@pytest.mark.parametrize("left", [4, 5, 12])
async def test_a_picture_that_cannot_be_decoded_leads_to_a_new_key_picture(left: int) -> None:
    events, packets = Events(Kind.VIDEO), film(12, keys=(0, 9))
    events.read()
    intake = PictureIntake("0", lambda: events)
    for packet in packets[:3]:
        intake.take(packet, VP8)
    await seen(intake, events, 3)
    bad = packets[3]
    bad.payload = bad.payload[:4] + b"\xff" * (left - 4)
    asked = [intake.take(bad, VP8)]
    await asyncio.sleep(0.1)
    asked += [intake.take(packet, VP8) for packet in packets[4:]]
    assert any(a is not None and a.key for a in asked)
    assert (await seen(intake, events, 6))[-3:] == [9, 10, 11]
    intake.close()


async def test_a_decoder_that_falls_behind_keeps_no_more_than_it_may() -> None:
    events, packets = Events(Kind.VIDEO), film(60, keys=(0, 50))
    events.read()
    intake = PictureIntake("0", lambda: events)
    asked = [intake.take(packet, VP8) for packet in packets]  # the loop never gets to breathe
    stream = intake._stream
    assert stream is not None
    assert len(stream._waiting) <= seeing.MOST_WAITING
    assert asked is not None
    assert (await seen(intake, events, 10))[-1] == 59
    intake.close()


@pytest.mark.parametrize(("width", "height"), [(64, 48), (322, 241), (1, 1), (33, 35)])
def test_pictures_become_i420_with_even_sides(width: int, height: int) -> None:
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, grey in zip(frame.planes, (50, 100, 150), strict=True):
        plane.update(bytes([grey]) * plane.buffer_size)
    got = video_frame(frame, 7)
    w, h = width & ~1, height & ~1
    if not w:
        assert got is None
        return
    assert got is not None
    data = b"\x32" * (w * h) + b"\x64" * (w * h // 4) + b"\x96" * (w * h // 4)
    assert got == VideoFrame(data=data, width=w, height=h, timestamp_ns=7)


def test_pictures_too_large_to_keep_are_left_out() -> None:
    assert video_frame(av.VideoFrame(4098, 2306, "yuv420p"), 7) is None


async def test_pictures_too_large_to_keep_are_not_even_decoded() -> None:
    events, packets = Events(Kind.VIDEO), film(2, keys=(0, 1))
    events.read()
    intake = PictureIntake("0", lambda: events)
    head, body = packets[0].payload[:4], bytearray(packets[0].payload[4:])
    assert seeing._pixels(body) == 64 * 64
    body[6:10] = b"\xff\x3f\xff\x3f"
    packets[0].payload = head + bytes(body)
    intake.take(packets[0], VP8)
    assert intake._stream is not None
    assert not intake._stream._waiting
    intake.take(packets[1], VP8)
    assert await seen(intake, events, 1) == [1]


# Time


def test_the_call_clock_follows_the_earliest_frame() -> None:
    clock, ms = CallClock(), 1_000_000
    assert clock.map(0, 100 * ms) == 100 * ms
    assert clock.map(20 * ms, 150 * ms) == pytest.approx(120 * ms, abs=10_000)  # 30 ms late
    assert clock.map(40 * ms, 135 * ms) == 135 * ms  # earlier than thought
    assert clock.map(60 * ms, 900 * ms) == 900 * ms  # a jump


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 10**9)), max_size=30))
def test_the_call_clock_never_runs_backwards(steps: list[tuple[int, int]]) -> None:
    clock, media, arrival, before = CallClock(), 0, 10**12, 0
    for media_step, arrival_step in steps:
        media, arrival = media + media_step, arrival + arrival_step
        given_ns = clock.map(media, arrival)
        assert before < given_ns <= arrival + len(steps)
        before = given_ns


def test_media_time_goes_on_when_timestamps_wrap_around() -> None:
    time = MediaTime(48_000)
    first = time.ns(0xFFFFFFFF - 959)
    assert time.ns(0) - first == 20_000_000
    assert time.ns(0xFFFFFFFF - 959) == first
