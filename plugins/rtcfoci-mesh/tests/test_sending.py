"""Sending: one encoder for all members, what it gives whom, and the packets that go out."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import av
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, rtp
from aiortc.codecs.vpx import Vp8Encoder, vp8_depayload
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpSendParameters,
)
from meshes import member, stations, until
from rtcfoci_mesh import picture, sound
from rtcfoci_mesh.aiortc_engine import AiortcEngine
from rtcfoci_mesh.conditions import UNSENT
from rtcfoci_mesh.engine import EngineError, SessionEvents, SessionOptions
from rtcfoci_mesh.feeds import Coded, Feed, Feeds
from rtcfoci_mesh.outgoing import Sender
from rtcfoci_mesh.picture import FLOOR_BPS, MOST_BPS, PictureFeed
from rtcfoci_mesh.rate import Rate, Thinner
from rtcfoci_mesh.sound import SoundFeed
from rtcfoci_mesh.wire import Lines

from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import ConditionCleared, ConditionRaised


def local_track(kind: Kind) -> LocalTrack:
    return LocalTrack(TrackId(member("alice"), "x", "0"), FrameHub(kind))


@dataclass
class Ear:
    """A listener that keeps what it is given."""

    rate_bps: float = MOST_BPS
    taken: list[Coded] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    def take(self, coded: Coded) -> None:
        self.taken.append(coded)
        self.times_s.append(time.monotonic())

    @property
    def keys(self) -> int:
        return sum(coded.key for coded in self.taken)


@dataclass
class Troubles:
    """What was said of tracks that cannot be encoded."""

    said: list[str | None] = field(default_factory=list)

    def __call__(self, track_id: TrackId, why: str | None) -> None:
        self.said.append(why)


@dataclass
class Rig:
    """A track, its feeds, and a source at hand."""

    kind: Kind
    troubles: Troubles = field(default_factory=Troubles)
    made: list[Feed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.track = local_track(self.kind)
        self.feeds = Feeds(self._make)

    def _make(self, track: LocalTrack) -> Feed:
        make = SoundFeed if self.kind is Kind.AUDIO else PictureFeed
        self.made.append(make(track, self.troubles))
        return self.made[-1]

    def push(
        self, number: int = 0, *, level: int = 8000, width: int = 64, height: int = 48
    ) -> None:
        """Push 20 ms of a square wave, or a picture."""
        if self.kind is Kind.AUDIO:
            pcm = np.repeat([level, -level], 48).astype("<i2").tobytes() * 10
            self.track.hub.push(AudioFrame(pcm=pcm, timestamp_ns=number * 20_000_000))
        else:
            luma = bytes([40 + 7 * number % 160]) * (width * height)
            data = luma + bytes([128]) * (width * height // 2)
            stamp_ns = time.monotonic_ns()
            self.track.hub.push(
                VideoFrame(data=data, width=width, height=height, timestamp_ns=stamp_ns)
            )

    async def show(self, seconds: float, until_true: Callable[[], object] = lambda: False) -> None:
        """Push 20 pictures a second."""
        end_s, number = time.monotonic() + seconds, 0
        while time.monotonic() < end_s and not until_true():
            self.push(number)
            number += 1
            await asyncio.sleep(0.05)


def decoded(taken: list[Coded]) -> list[av.VideoFrame]:
    """Decode pictures as a receiver does that misses none."""
    decoder = av.VideoCodecContext.create("libvpx", "r")
    frames = []
    for coded in taken:
        frames += decoder.decode(av.Packet(b"".join(map(vp8_depayload, coded.payloads))))
    return frames


class Loud:
    """How loud packets of sound are, one after the other."""

    def __init__(self) -> None:
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate, self._decoder.format = 48_000, av.AudioFormat("s16")

    def __call__(self, coded: Coded) -> int:
        (payload,) = coded.payloads
        (frame,) = self._decoder.decode(av.Packet(payload))  # type: ignore[arg-type]
        return int(np.abs(frame.to_ndarray().astype(int)).max())


# Sound


async def test_sound_is_paced_and_gaps_are_silence() -> None:
    rig, ear, loud = Rig(Kind.AUDIO), Ear(), Loud()
    tap = rig.feeds.listen(rig.track, ear)
    rig.push()
    await until(lambda: len(ear.taken) >= 6)
    assert ear.times_s[5] - ear.times_s[0] == pytest.approx(0.1, abs=0.05)
    first = ear.taken[0].timestamp
    assert [c.timestamp - first for c in ear.taken[:6]] == [0, 960, 1920, 2880, 3840, 4800]
    levels = [loud(coded) for coded in ear.taken[:6]]
    assert max(levels[:2]) > 4000
    assert max(levels[3:]) < 400
    tap.stop()
    count = len(ear.taken)
    rig.push()
    await asyncio.sleep(0.3)
    assert len(ear.taken) == count
    tap = rig.feeds.listen(rig.track, ear)
    rig.push()
    await until(lambda: len(ear.taken) > count)
    after = ear.taken[count].timestamp
    assert after - ear.taken[count - 1].timestamp >= 960 * 14  # timestamps measured the pause
    assert (after - first) % 960 == 0
    tap.stop()


async def test_silence_ends_after_a_second() -> None:
    rig, ear = Rig(Kind.AUDIO), Ear()
    tap = rig.feeds.listen(rig.track, ear)
    rig.push()
    await until(lambda: len(ear.taken) >= 45)
    await asyncio.sleep(0.5)
    count = len(ear.taken)
    await asyncio.sleep(0.4)
    assert len(ear.taken) == count
    tap.stop()


async def test_what_waited_for_the_connection_is_not_late_for_good() -> None:
    rig, ear, loud = Rig(Kind.AUDIO), Ear(), Loud()
    tap = rig.feeds.listen(rig.track, ear)
    for number in range(5):
        rig.push(number)
    await until(lambda: len(ear.taken) >= 6)
    levels = [loud(coded) for coded in ear.taken]
    assert levels[1] > 4000
    assert max(levels[4:6]) < 400
    tap.stop()


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (24_000, 1), (16_000, 2)])
async def test_sound_of_other_shapes_is_converted(rate: int, channels: int) -> None:
    rig, ear, loud = Rig(Kind.AUDIO), Ear(), Loud()
    tap = rig.feeds.listen(rig.track, ear)
    wave = np.repeat([8000, -8000], rate // 1000)
    pcm = np.repeat(np.tile(wave, 10), channels).astype("<i2").tobytes()
    for number in range(4):
        rig.track.hub.push(
            AudioFrame(
                pcm=pcm, timestamp_ns=number * 20_000_000, sample_rate=rate, channels=channels
            )
        )
    await until(lambda: len(ear.taken) >= 3)
    assert max(map(loud, ear.taken)) > 4000
    tap.stop()


# One encoder


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_track_is_encoded_once_for_all_members(kind: Kind) -> None:
    rig, ears = Rig(kind), [Ear(), Ear(), Ear()]
    taps = [rig.feeds.listen(rig.track, ear) for ear in ears]
    rig.push()
    await until(lambda: all(ear.taken for ear in ears))
    assert len({id(ear.taken[0]) for ear in ears}) == 1
    assert len(rig.made) == 1
    # One that mutes or goes takes nothing from the others; the last one stops the encoder.
    taps[0].stop()
    count = len(ears[0].taken)
    await rig.show(2, lambda: len(ears[1].taken) > 1 + count)
    assert len(ears[1].taken) > 1 + count
    assert len(ears[0].taken) == count
    assert rig.track.hub.wanted
    for tap in taps:
        tap.stop()
    assert not rig.track.hub.wanted
    assert not rig.feeds._feeds


async def test_a_listener_that_fails_takes_nothing_from_the_others() -> None:
    class Deaf(Ear):
        def take(self, coded: Coded) -> None:
            raise RuntimeError("deaf")

    rig, ear = Rig(Kind.AUDIO), Ear()
    taps = [rig.feeds.listen(rig.track, listener) for listener in (Deaf(), ear)]
    rig.push()
    await until(lambda: len(ear.taken) > 3)
    assert rig.troubles.said == []
    for tap in taps:
        tap.stop()


async def test_pictures_are_encoded_as_often_as_they_come() -> None:
    rig, ears = Rig(Kind.VIDEO), [Ear() for _ in range(8)]
    taps = [rig.feeds.listen(rig.track, ear) for ear in ears]
    await rig.show(0.6)
    await asyncio.sleep(0.1)
    (feed,) = rig.made
    assert isinstance(feed, PictureFeed)
    assert feed.encoded == len(ears[0].taken) == len(ears[7].taken) >= 6
    stamps = [coded.timestamp for coded in ears[0].taken]
    assert stamps == sorted(set(stamps))
    assert len(decoded(ears[0].taken)) == len(stamps)
    for tap in taps:
        tap.stop()


async def test_a_picture_survives_the_way_out() -> None:
    rig, ear = Rig(Kind.VIDEO), Ear()
    tap = rig.feeds.listen(rig.track, ear)
    rig.push(10)
    await until(lambda: ear.taken)
    (frame,) = decoded(ear.taken)
    assert (frame.width, frame.height, frame.format.name) == (64, 48, "yuv420p")
    assert abs(frame.to_ndarray()[10, 10] - 110) < 10
    # Time that stands still, or goes back, does not reach the other side.
    still = VideoFrame(data=bytes(64 * 72), width=64, height=48, timestamp_ns=1)
    rig.track.hub.push(still)
    await until(lambda: len(ear.taken) > 1)
    assert ear.taken[1].timestamp == ear.taken[0].timestamp + 1
    tap.stop()


async def test_a_picture_of_another_size_is_complete() -> None:
    rig, ear = Rig(Kind.VIDEO), Ear()
    tap = rig.feeds.listen(rig.track, ear)
    for number, (width, height) in enumerate([(64, 48), (64, 48), (128, 96), (128, 96), (64, 48)]):
        rig.push(number, width=width, height=height)
        await until(lambda seen=number: len(ear.taken) > seen)
    assert [coded.key for coded in ear.taken] == [True, False, True, False, True]
    assert [frame.width for frame in decoded(ear.taken)] == [64, 64, 128, 128, 64]
    tap.stop()


# Keyframes


async def test_whoever_comes_late_gets_a_keyframe_at_once() -> None:
    rig, one, two = Rig(Kind.VIDEO), Ear(), Ear()
    taps = [rig.feeds.listen(rig.track, one)]
    await rig.show(0.7)
    keys = one.keys
    came_s = time.monotonic()
    taps.append(rig.feeds.listen(rig.track, two))
    await rig.show(1, lambda: two.keys)
    assert two.times_s[0] - came_s < 1.0
    assert two.taken[0].key
    assert one.keys == keys + 1
    for tap in taps:
        tap.stop()


async def test_many_requests_make_few_keyframes_and_none_is_forgotten() -> None:
    rig, ear = Rig(Kind.VIDEO), Ear()
    tap = rig.feeds.listen(rig.track, ear)
    await rig.show(0.2)
    for _ in range(10):
        tap.refresh()
        await rig.show(0.1)
    tap.refresh()
    asked_s = time.monotonic()
    await rig.show(picture.KEY_GAP_S + 0.3)
    at_s = [at for at, coded in zip(ear.times_s, ear.taken, strict=True) if coded.key]
    assert any(at > asked_s for at in at_s)
    assert all(b - a > picture.KEY_GAP_S - 0.15 for a, b in itertools.pairwise(at_s))
    tap.stop()


async def test_a_source_that_stands_still_answers_with_its_last_picture() -> None:
    rig, one, two = Rig(Kind.VIDEO), Ear(), Ear()
    taps = [rig.feeds.listen(rig.track, one)]
    rig.push()
    await until(lambda: one.taken)
    await asyncio.sleep(0.5)
    taps.append(rig.feeds.listen(rig.track, two))
    assert await until(lambda: two.taken) < 0.9
    assert two.taken[0].key
    assert two.taken[0].timestamp > one.taken[0].timestamp + 90_000 // 4
    await asyncio.sleep(0.5)
    assert len(two.taken) == 1, "it is sent again once, not on and on"
    for tap in taps:
        tap.stop()


async def test_keyframes_come_at_the_latest_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "KEY_EVERY_S", 0.6)
    rig, ear = Rig(Kind.VIDEO), Ear()
    tap = rig.feeds.listen(rig.track, ear)
    await rig.show(2.0)
    assert ear.keys >= 3
    tap.stop()


async def test_a_request_of_a_member_reaches_the_encoder_within_a_second() -> None:
    async with stations("alice", "bob", "carol") as (alice, bob, carol):
        track = await alice.publish("camera", Kind.VIDEO)
        for station, others in ((alice, (bob, carol)), (bob, (alice,)), (carol, (alice,))):
            await station.meet(*others)
        await until(lambda: bob.frames and carol.frames)
        engine = alice.connection.engine
        assert isinstance(engine, AiortcEngine)
        (feed,) = engine._feeds[Kind.VIDEO]._feeds.values()
        assert len(feed.listeners) == 2, "one encoder for both"
        ear = Ear()
        feed.listeners = (*feed.listeners, ear)
        await asyncio.sleep(2 * picture.KEY_GAP_S)
        keys = ear.keys
        sender = cast("Sender", feed.listeners[0])
        pli = rtp.RtcpPsfbPacket(fmt=rtp.RTCP_PSFB_PLI, ssrc=1, media_ssrc=sender._ssrc)
        bytes_in = bytes(pli)

        async def request() -> None:  # as it comes from the transport
            await sender.transport._handle_rtcp_data(bytes_in)

        await alice.connection._media.run(request())
        assert await until(lambda: ear.keys > keys) < 1.0
        assert track.hub.wanted


async def test_whoever_joins_late_sees_a_picture_soon_and_again_after_muting() -> None:
    async with stations("alice", "bob", "carol") as (alice, bob, carol):
        track = await alice.publish("camera", Kind.VIDEO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: bob.frames)
        await asyncio.gather(alice.meet(carol), carol.meet(alice))
        await until(carol.reaches)
        assert await until(lambda: carol.frames) < 2.0
        await alice.connection.set_muted(track.track_id, True)
        await asyncio.sleep(0.3)
        count = carol.frames[track.track_id]
        await asyncio.sleep(0.5)
        assert carol.frames[track.track_id] <= count + 1
        await alice.connection.set_muted(track.track_id, False)
        assert await until(lambda: carol.frames[track.track_id] > count + 2) < 2.5


# The rate


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[Vp8Encoder]:
    made: list[Vp8Encoder] = []

    class Kept(Vp8Encoder):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(picture, "Vp8Encoder", Kept)
    monkeypatch.setattr(picture, "KEY_GAP_S", 0.0)
    monkeypatch.setattr(picture, "KEY_EVERY_S", 0.3)
    return made


async def test_the_rate_is_that_of_the_slowest_above_the_floor(encoders: list[Vp8Encoder]) -> None:
    rig, fast, slow = Rig(Kind.VIDEO), Ear(), Ear(rate_bps=900_000)
    taps = [rig.feeds.listen(rig.track, ear) for ear in (fast, slow)]
    rig.push()
    await until(lambda: fast.taken)
    (encoder,) = encoders
    assert encoder.target_bitrate == 900_000
    slow.rate_bps = 400_000
    await rig.show(1, lambda: encoder.target_bitrate == 400_000)
    assert encoder.target_bitrate == 400_000
    slow.rate_bps = 60_000  # below the floor: it gets less often, the others as before
    await rig.show(1, lambda: encoder.target_bitrate == FLOOR_BPS)
    assert encoder.target_bitrate == FLOOR_BPS
    taps[1].stop()
    await rig.show(1, lambda: encoder.target_bitrate == MOST_BPS)
    assert encoder.target_bitrate == MOST_BPS
    assert len(encoders) == 1
    taps[0].stop()


def test_a_receiver_takes_what_it_estimates_and_what_its_losses_allow() -> None:
    rate = Rate()
    rate.estimated(800_000)
    assert rate.bps == 800_000
    for _ in range(3):
        rate.lost(0.2)
    assert 500_000 < rate.bps < 600_000
    for _ in range(30):
        rate.lost(0.2)
    assert rate.bps == FLOOR_BPS  # at random, fewer pictures help nobody
    for _ in range(30):
        rate.lost(0.05)
    assert rate.bps == FLOOR_BPS
    for _ in range(40):
        rate.lost(0.0)
    assert rate.bps == 800_000
    for _ in range(30):
        rate.lost(0.6)
    assert rate.bps < FLOOR_BPS / 2
    rate.estimated(1)
    assert rate.bps > 0


def test_who_takes_too_little_gets_fewer_pictures_whole_from_a_keyframe_on() -> None:
    thinner, sent, bits = Thinner(), [], 0
    for number in range(600):  # 20 s at 30 pictures a second, 240 kbit/s
        coded = Coded((bytes(1000),), number, key=number % 60 == 0)
        if thinner.passes(coded, 100_000, number / 30):
            sent.append(number)
            bits += 8000
    assert 60_000 < bits / 20 < 110_000
    for number in sent:
        assert number % 60 == 0 or number - 1 in sent, "a picture without the one before it"
    assert len({number // 60 for number in sent}) >= 8, "it sees something all the time"
    # And whoever takes enough again gets all of them, from the next keyframe on.
    later = [
        n for n in range(600, 720) if thinner.passes(Coded((b"",), n, n % 60 == 0), 1e6, n / 30)
    ]
    assert later[0] in (600, 660)
    assert later == list(range(later[0], 720))


async def test_a_member_that_takes_too_little_holds_up_nobody(encoders: list[Vp8Encoder]) -> None:
    rig, dice = Rig(Kind.VIDEO), np.random.default_rng(1)
    senders, transports = [], []
    for bps in (800_000, 60_000):
        transport = Transport()
        sender = Sender(Kind.VIDEO, cast("RTCDtlsTransport", transport), rig.feeds)
        await sender.send(parameters(Kind.VIDEO))
        sender._rate.estimated(bps)
        sender.feed(rig.track)
        senders.append(sender)
        transports.append(transport)
    for _ in range(45):  # noise, which takes all there is
        data = dice.integers(0, 256, 160 * 120 * 3 // 2, dtype=np.uint8).tobytes()
        rig.track.hub.push(
            VideoFrame(data=data, width=160, height=120, timestamp_ns=time.monotonic_ns())
        )
        await asyncio.sleep(1 / 15)
    (feed,) = rig.made
    assert isinstance(feed, PictureFeed)
    await until(lambda: not feed._frames)
    whole, thinned = (
        sum(packet[1] == 0x80 | 97 for packet in transport.sent) for transport in transports
    )
    assert encoders[0].target_bitrate == FLOOR_BPS
    assert whole >= feed.encoded - 1
    assert 0 < thinned < whole / 2
    for sender in senders:
        await sender.stop()


# Failures


async def test_pictures_that_cannot_be_encoded_are_said_to_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, ear, fails = Rig(Kind.VIDEO), Ear(), True
    encode = picture._encode

    def failing(*arguments: object) -> list[bytes]:
        if fails:
            raise MemoryError("no memory")
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(picture, "_encode", failing)
    monkeypatch.setattr("rtcfoci_mesh.feeds._AGAIN_S", 0.1)
    monkeypatch.setattr("rtcfoci_mesh.feeds._CALM_S", 0.3)
    tap = rig.feeds.listen(rig.track, ear)
    await rig.show(0.5)
    assert rig.troubles.said == ["MemoryError: no memory"]
    fails = False
    await rig.show(2, lambda: len(rig.troubles.said) == 2)
    assert rig.troubles.said == ["MemoryError: no memory", None]
    assert ear.taken[0].key
    tap.stop()


async def test_sound_that_cannot_be_taken_in_does_not_end_the_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, ear = Rig(Kind.AUDIO), Ear()
    tap = rig.feeds.listen(rig.track, ear)
    (feed,) = rig.made
    assert isinstance(feed, SoundFeed)
    convert, feed._converter.convert = feed._converter.convert, _raising  # type: ignore[method-assign]
    rig.push()
    await until(lambda: rig.troubles.said)
    feed._converter.convert = convert  # type: ignore[method-assign]
    rig.push()
    await until(lambda: ear.taken)
    tap.stop()
    assert rig.troubles.said[-1] is None  # a track that is gone has no troubles


def _raising(frame: AudioFrame) -> list[AudioFrame]:
    raise ValueError("odd")


async def test_the_application_is_told_and_told_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opus, fails = sound._opus, True

    def failing() -> av.AudioCodecContext:
        if fails:
            raise OSError("no libopus")
        return opus()

    monkeypatch.setattr(sound, "_opus", failing)
    monkeypatch.setattr("rtcfoci_mesh.feeds._AGAIN_S", 0.1)
    monkeypatch.setattr("rtcfoci_mesh.feeds._CALM_S", 0.3)
    async with stations("alice", "bob") as (alice, bob):
        await alice.publish("microphone", Kind.AUDIO)
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.saw(ConditionRaised))
        (raised,) = alice.saw(ConditionRaised)
        assert isinstance(raised, ConditionRaised)
        assert (raised.code, raised.cause) == (UNSENT.code, "OSError: no libopus")
        fails = False
        await until(lambda: bob.frames)
        await until(lambda: alice.saw(ConditionCleared))


# Packets


class Transport:
    """Keeps what it is given to send."""

    _stats_id = "transport"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.senders: list[Sender] = []
        self.gate: asyncio.Future[None] | None = None
        self.state = "connected"

    def _register_rtp_sender(self, sender: Sender, parameters: RTCRtpSendParameters) -> None:
        self.senders.append(sender)

    def _unregister_rtp_sender(self, sender: Sender) -> None:
        self.senders.remove(sender)

    async def _send_rtp(self, packet: bytes) -> None:
        if self.gate is not None:
            await self.gate
        self.sent.append(packet)


class Never(Feed):
    """A feed that gives what it is told to."""

    def refresh(self) -> None:
        pass

    def _take(self, frame: object) -> None:
        pass

    async def _run(self) -> None:
        await asyncio.Event().wait()


def parameters(kind: Kind, *, mid: str = "1") -> RTCRtpSendParameters:
    clock = 48_000 if kind is Kind.AUDIO else 90_000
    codecs = [RTCRtpCodecParameters(f"{kind.value}/VP8", clock, payloadType=97)]
    codecs.append(RTCRtpCodecParameters("video/rtx", clock, payloadType=98, parameters={"apt": 97}))
    return RTCRtpSendParameters(
        codecs=codecs,
        headerExtensions=[
            RTCRtpHeaderExtensionParameters(id=1, uri="urn:ietf:params:rtp-hdrext:sdes:mid"),
            RTCRtpHeaderExtensionParameters(
                id=3, uri="http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
            ),
        ][: 1 if kind is Kind.AUDIO else 2],
        muxId=mid,
        rtcp=RTCRtcpParameters(cname="name"),
    )


async def started(kind: Kind, mid: str = "1") -> tuple[Sender, Transport, rtp.HeaderExtensionsMap]:
    transport = Transport()
    feeds = Feeds(lambda track: Never(track, Troubles()))
    sender = Sender(kind, cast("RTCDtlsTransport", transport), feeds)
    await sender.send(parameters(kind, mid=mid))
    extensions = rtp.HeaderExtensionsMap()
    extensions.configure(parameters(kind, mid=mid))
    return sender, transport, extensions


@pytest.mark.parametrize("mid", ["1", "22", "333", "4444", "x" * 16, "y" * 20])
@pytest.mark.parametrize("kind", list(Kind))
async def test_packets_are_what_aiortc_would_have_sent(kind: Kind, mid: str) -> None:
    sender, transport, extensions = await started(kind, mid)
    sender.take(Coded((b"one", b"two", b"three"), 4711, key=True))
    packets = [rtp.RtpPacket.parse(packet, extensions) for packet in transport.sent]
    assert [packet.payload for packet in packets] == [b"one", b"two", b"three"]
    assert {packet.ssrc for packet in packets} == {sender._ssrc}
    assert {packet.payload_type for packet in packets} == {97}
    first = packets[0].sequence_number
    assert [packet.sequence_number - first for packet in packets] == [0, 1, 2]
    marks = [packet.marker for packet in packets]
    assert marks == ([0, 0, 1] if kind is Kind.VIDEO else [0, 0, 0])
    named = mid if len(mid) <= 16 else None
    assert {packet.extensions.mid for packet in packets} == {named}
    for packet, raw in zip(packets, transport.sent, strict=True):
        if kind is Kind.VIDEO:
            assert packet.extensions.abs_send_time is not None
            now = int(time.time() * (1 << 18))
            assert (now - packet.extensions.abs_send_time) & 0xFFFFFF < 1 << 18
        assert len(packet.serialize(extensions)) <= len(raw)
    sender.take(Coded((b"next",), 4711 + 960, key=True))
    last = rtp.RtpPacket.parse(transport.sent[-1], extensions)
    assert (last.timestamp - packets[0].timestamp) & 0xFFFFFFFF == 960
    await sender.stop()


async def test_what_was_lost_is_sent_again_in_its_own_stream() -> None:
    sender, transport, extensions = await started(Kind.VIDEO)
    sender.take(Coded((b"one", b"two"), 1, key=True))
    lost = rtp.RtpPacket.parse(transport.sent[1], extensions)
    await sender._handle_rtcp_packet(
        rtp.RtcpRtpfbPacket(
            fmt=rtp.RTCP_RTPFB_NACK,
            ssrc=1,
            media_ssrc=sender._ssrc,
            lost=[lost.sequence_number, (lost.sequence_number + 700) & 0xFFFF],
        )
    )
    assert len(transport.sent) == 3
    again = rtp.RtpPacket.parse(transport.sent[2], extensions)
    assert (again.payload_type, again.ssrc) == (98, sender._rtx_ssrc)
    unwrapped = rtp.unwrap_rtx(again, payload_type=97, ssrc=sender._ssrc)
    assert unwrapped.serialize(extensions) == lost.serialize(extensions)
    await sender.stop()


async def test_a_transport_that_waits_gets_the_packets_in_order_and_not_too_many() -> None:
    sender, transport, extensions = await started(Kind.AUDIO)
    transport.gate = asyncio.get_running_loop().create_future()
    for number in range(100):
        sender.take(Coded((b"%d" % number,), number, key=True))
    assert transport.sent == []
    transport.gate.set_result(None)
    await until(lambda: len(transport.sent) == 64)
    payloads = [rtp.RtpPacket.parse(packet, extensions).payload for packet in transport.sent]
    assert payloads == [b"%d" % number for number in range(64)]
    transport.gate = asyncio.get_running_loop().create_future()
    sender.take(Coded((b"lost",), 0, key=True))
    transport.gate.set_exception(ConnectionError())
    await until(lambda: not sender._waiting)
    await sender.stop()


async def test_reports_go_out_and_are_understood() -> None:
    sender, transport, _ = await started(Kind.VIDEO)
    sender.take(Coded((b"one", b"two"), 90_000, key=True))
    await until(lambda: len(transport.sent) > 2, 2.0)
    report, names = rtp.RtcpPacket.parse(transport.sent[2])
    assert isinstance(report, rtp.RtcpSrPacket)
    assert isinstance(names, rtp.RtcpSdesPacket)
    assert (report.sender_info.packet_count, report.sender_info.octet_count) == (2, 6)
    assert names.chunks[0].items == [(1, b"name")]
    lsr = (report.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
    sending = rtp.RtcpReceiverInfo(
        ssrc=sender._ssrc, fraction_lost=64, packets_lost=1, highest_sequence=0, jitter=9,
        lsr=lsr, dlsr=0,
    )  # fmt: skip
    before_bps = sender.rate_bps
    await sender._handle_rtcp_packet(rtp.RtcpRrPacket(ssrc=1, reports=[sending]))
    assert sender.rate_bps < before_bps
    fci = rtp.pack_remb_fci(300_000, [sender._ssrc])
    remb = rtp.RtcpPsfbPacket(fmt=rtp.RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=fci)
    await sender._handle_rtcp_packet(remb)
    assert sender.rate_bps == pytest.approx(300_000, rel=0.01)
    await sender._handle_rtcp_packet(
        rtp.RtcpPsfbPacket(fmt=rtp.RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=b"REMB\xff\0\0\0")
    )
    stats = {entry.type: entry for entry in sender._stats.values()}
    assert stats["remote-inbound-rtp"].packetsLost == 1
    assert 0 <= stats["remote-inbound-rtp"].roundTripTime < 2
    await sender.stop()
    assert isinstance(rtp.RtcpPacket.parse(transport.sent[-1])[0], rtp.RtcpByePacket)
    assert not transport.senders


async def test_a_sender_that_may_not_send_sends_nothing() -> None:
    sender, transport, _ = await started(Kind.VIDEO)
    sender._enabled = False  # what aiortc sets where the member wants nothing
    sender.take(Coded((b"one",), 0, key=True))
    sender._enabled = True
    sender.take(Coded((b"two",), 0, key=False))  # not before a keyframe
    assert transport.sent == []
    await sender.stop()


# What is agreed upon


async def answer_to(kind: str, first: str, *, alone: bool = False) -> str:
    """What we answer to an offer that prefers a codec."""
    offerer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    options = SessionOptions(ice_servers=(), loopback=True, gather_timeout_s=1.0)
    session = AiortcEngine().open(options, cast("SessionEvents", object()))
    try:
        section = offerer.addTransceiver(kind)
        known = RTCRtpSender.getCapabilities(kind).codecs
        chosen = [c for c in known if c.name in (first, "rtx")] if alone else known
        section.setCodecPreferences(sorted(chosen, key=lambda codec: codec.name != first))
        offerer.createDataChannel("x", negotiated=True, id=0)
        offer = await offerer.createOffer()
        return (await session.answer(offer.sdp, ())).sdp
    finally:
        await session.close()
        await offerer.close()


async def test_an_offer_that_prefers_other_sound_than_opus_is_refused() -> None:
    with pytest.raises(EngineError, match="not Opus"):
        await answer_to("audio", "PCMU")


async def test_pictures_are_vp8_whatever_is_preferred() -> None:
    sdp = await answer_to("video", "H264")
    assert "VP8/90000" in sdp
    assert "rtx/90000" in sdp
    assert "H264" not in sdp
    with pytest.raises(EngineError, match="VP8"):
        await answer_to("video", "H264", alone=True)


async def test_we_offer_vp8_alone() -> None:
    options = SessionOptions(ice_servers=(), loopback=True, gather_timeout_s=1.0)
    session = AiortcEngine().open(options, cast("SessionEvents", object()))
    try:
        sdp = (await session.offer((), Lines(1, 1))).sdp
    finally:
        await session.close()
    assert "VP8/90000" in sdp
    assert "H264" not in sdp
    assert "PCMU" not in sdp
