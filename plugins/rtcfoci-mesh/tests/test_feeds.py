"""One encoder for all members: what it gives whom, when, at which rate, and what if it fails."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import cast

import av
import numpy as np
import pytest
from aiortc import rtp
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.rtcdtlstransport import RTCDtlsTransport
from feeding import Ear, Loud, Rig, Transport, decoded, parameters
from meshes import stations, until
from rtcfoci_mesh import picture, sound
from rtcfoci_mesh.aiortc_engine import AiortcEngine
from rtcfoci_mesh.conditions import UNSENT
from rtcfoci_mesh.feeds import Coded
from rtcfoci_mesh.outgoing import Sender
from rtcfoci_mesh.picture import FLOOR_BPS, MOST_BPS, PictureFeed
from rtcfoci_mesh.rate import Rate, Thinner
from rtcfoci_mesh.sound import SoundFeed

from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
from rtcfoci.plugin import ConditionCleared, ConditionRaised

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
