"""The small parts: what is read from others, who fits in, clocks and frames."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.mediastreams import MediaStreamError
from hypothesis import given
from hypothesis import strategies as st
from meshes import CONFIG, FakeContext, Wire, member, membership
from rtcfoci_mesh import MESH
from rtcfoci_mesh.aiortc_engine import AiortcEngine
from rtcfoci_mesh.backend import MeshBackend
from rtcfoci_mesh.config import IceServer, MeshConfig, MeshTransport
from rtcfoci_mesh.data import MAX_DATA_BYTES, AppData, Mute, Ping, Pong, pack, unpack
from rtcfoci_mesh.engine import EngineError, SessionEvents, SessionOptions
from rtcfoci_mesh.ice import IceServers, read_turn_server
from rtcfoci_mesh.incoming import CallClock, audio_frame, video_frame
from rtcfoci_mesh.outgoing import AudioSlot, VideoSlot
from rtcfoci_mesh.roster import Seat, read_seat, seated
from rtcfoci_mesh.sound import SoundFeeds
from rtcfoci_mesh.tracks import RemoteTracks
from rtcfoci_mesh.wire import Lines, TrackInfo, check_sdp, read_signal

from rtcfoci.core.model import Transport
from rtcfoci.errors import BackendError, RemoteProtocolError
from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import ConnectionEvent, TrackMuted


@given(st.binary(max_size=300))
def test_data_of_others_never_raises(frame: bytes) -> None:
    unpack(frame)


@given(st.text(max_size=40), st.binary(max_size=200))
def test_data_comes_back_as_it_was_sent(topic: str, payload: bytes) -> None:
    try:
        frame = pack(AppData(topic, payload))
    except (BackendError, UnicodeEncodeError):
        return
    assert unpack(frame) == AppData(topic, payload)


@pytest.mark.parametrize("small", [Mute("camera", "0", True), Ping(7), Pong(7)])
def test_small_talk_comes_back(small: Mute | Ping | Pong) -> None:
    assert unpack(pack(small)) == small


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x00", b"\x00[1]", b'\x00{"ping": true}', b'\x00{"ping": "x"}', b"\x01\xff", b"\x07a",
     b"\x01\x01\xff", b'\x00{"mute": ["a"]}', b"\x00" + b"[" * 2000],
)  # fmt: skip
def test_unknown_data_is_nothing(frame: bytes) -> None:
    assert unpack(frame) is None


def test_the_largest_message_passes_and_the_next_does_not() -> None:
    pack(AppData("t", bytes(MAX_DATA_BYTES - 1)))
    with pytest.raises(BackendError, match="too large") as caught:
        pack(AppData("t", bytes(MAX_DATA_BYTES)))
    assert caught.value.why
    assert caught.value.do
    assert unpack(b"\x01\x01t" + bytes(MAX_DATA_BYTES - 1)) is not None
    assert unpack(b"\x01\x01t" + bytes(MAX_DATA_BYTES)) is None


def test_everything_wrong_with_a_signal_is_named() -> None:
    track = {"mid": 1, "kind": "smell", "source": "a", "name": "b", "muted": "no"}
    payload = {
        "kind": "offer",
        "instance": "a.b",
        "attempt": "c.1",
        "seq": -1,
        "sdp": "x",
        "tracks": [track, track],
    }
    with pytest.raises(RemoteProtocolError) as caught:
        read_signal(payload)
    words = str(caught.value)
    for part in ("instance", "attempt", "seq", "v=0", "mid", "audio nor video", "muted", "same"):
        assert part in words


def test_a_good_description_has_no_problems() -> None:
    sdp = "v=0\nm=audio 9\na=fingerprint:sha-256 AA\nm=application 9\n"
    assert check_sdp(sdp) == []
    assert check_sdp(sdp + "m=text 9\n")
    assert check_sdp(sdp + "m=application 9\n")
    assert check_sdp(sdp + "a=candidate:1\n" * 200) == []  # each section repeats them
    assert check_sdp(sdp + "".join(f"a=candidate:{n}\n" for n in range(65)))
    assert check_sdp(sdp + "a=max-message-size:0\na=max-message-size:262144\n") == []
    for limit in ("10", "-1", "", "1e9", "9" * 5000):
        assert check_sdp(f"{sdp}a=max-message-size:{limit}\n")


# Who fits in


def test_seats_are_filled_in_order_of_joining() -> None:
    seats = [Seat(member(f"u{n:02}"), n, video=False) for n in range(20)]
    fits = seated(reversed(seats), max_video=8, max_audio=16)
    assert fits == {s.member for s in seats[:16]}
    with_video = [replace(s, video=True) for s in seats]
    assert len(seated(with_video, max_video=8, max_audio=16)) == 8
    late_video = [*seats[:10], replace(seats[10], video=True), *seats[11:12]]
    assert seats[10].member not in seated(late_video, max_video=8, max_audio=16)


@given(st.permutations(range(12)), st.integers(2, 12))
def test_everybody_comes_to_the_same_answer(order: list[int], cap: int) -> None:
    seats = [Seat(member(f"u{n:02}"), n // 3, video=n % 2 == 0) for n in range(12)]
    expected = seated(seats, max_video=cap, max_audio=cap + 2)
    assert seated([seats[i] for i in order], max_video=cap, max_audio=cap + 2) == expected


def test_a_claim_to_the_future_is_cut_to_the_time_of_the_event() -> None:
    late = replace(membership(member("eve"), joined_ts_ms=10**15), created_ts_ms=5000)
    assert read_seat(late, ["rtcfoci.mesh"]).joined_ts_ms == 5000
    raw = {"type": "mesh", "joined_ts_ms": True, "video": "x"}
    odd = replace(late, transports=(Transport("mesh", raw),))
    assert read_seat(odd, ["mesh"]) == Seat(odd.member, 5000, video=True)
    assert read_seat(late, ["rtcfoci.mesh"]).claimed_ts_ms == 10**15


# Servers


def test_turn_servers_are_read_with_care() -> None:
    answer = {
        "uris": ["turn:turn.test:3478?transport=udp", "javascript:x", 7, "turns:[::1]:1"],
        "username": "u",
        "password": "secret",
        "ttl": 7200,
    }
    (server,), keep_s = read_turn_server(answer)
    assert server.urls == ("turn:turn.test:3478?transport=udp",)
    assert keep_s == 3600
    assert "secret" not in repr(server)
    assert read_turn_server({}) == ((), 60.0)
    assert read_turn_server({"uris": "turn:x", "ttl": "y"}) == ((), 60.0)


async def test_the_homeserver_is_asked_once_and_never_a_public_server() -> None:
    context = FakeContext(member("alice"), Wire())
    context.turn = {"uris": ["turn:turn.test"], "username": "u", "password": "p", "ttl": 7200}
    servers = IceServers(context, MeshConfig())
    assert servers.known() is None
    one, two = await asyncio.gather(servers.get(), servers.get())
    assert one == two == servers.known()
    assert one[0].urls == ("turn:turn.test",)
    assert context.asked == 1
    for config, expected in (
        (MeshConfig(loopback=True), ()),
        (MeshConfig(ice_servers=()), ()),
        (MeshConfig(ice_servers=(IceServer(urls=("stun:s.test",)),)), ("stun:s.test",)),
    ):
        fixed = IceServers(context, config).known()
        assert fixed is not None
        assert tuple(url for server in fixed for url in server.urls) == expected
    context.turn = {}
    assert await IceServers(context, MeshConfig()).get() == ()


# The backend


async def test_the_backend_offers_one_mesh_and_knows_its_own() -> None:
    backend = MeshBackend(FakeContext(member("alice"), Wire()), MeshConfig(video=False))
    (transport,) = await backend.local_transports(())
    assert (await backend.local_transports(()))[0] is transport
    model = MeshTransport.model_validate({**transport.raw, "extra": 1})
    assert model.video is False
    assert model.model_dump()["extra"] == 1
    bob = member("bob")
    assert backend.connection_key(transport, bob, ()) == "all"
    assert backend.connection_key(Transport("livekit", {"type": "livekit"}), bob, ()) is None
    with pytest.raises(BackendError, match="MeshConfig"):
        MeshBackend(backend.context, {"loopback": True})
    await backend.prepare(transport)


def test_what_the_descriptor_names_exists() -> None:
    for name in (MESH.backend, MESH.config_model, MESH.transport_model):
        module, _, attribute = name.partition(":")
        assert getattr(importlib.import_module(module), attribute).__name__ == attribute


# Clocks and frames


def test_the_call_clock_follows_the_earliest_frame() -> None:
    clock, ms = CallClock(Kind.AUDIO), 1_000_000
    assert clock.map(0, 180 * ms) == 100 * ms  # what the jitter buffer holds back
    assert clock.map(20 * ms, 230 * ms) == pytest.approx(120 * ms, abs=10_000)  # 30 ms late
    assert clock.map(40 * ms, 215 * ms) == 135 * ms  # earlier than thought
    assert clock.map(60 * ms, 980 * ms) == 900 * ms  # a jump


@given(
    st.sampled_from(Kind),
    st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 10**9)), max_size=30),
)
def test_the_call_clock_never_runs_backwards(kind: Kind, steps: list[tuple[int, int]]) -> None:
    clock, media, arrival, before = CallClock(kind), 0, 10**12, 0
    for media_step, arrival_step in steps:
        media, arrival = media + media_step, arrival + arrival_step
        given_ns = clock.map(media, arrival)
        assert before < given_ns <= arrival + len(steps)
        before = given_ns


def test_a_picture_waited_for_the_next_one() -> None:
    clock, ms = CallClock(Kind.VIDEO), 1_000_000
    assert clock.map(0, 170 * ms) == 170 * ms  # nothing is known yet
    for at_ms in (66, 132, 198, 331, 397):  # one is missing
        assert clock.map(at_ms * ms, (170 + at_ms) * ms) == pytest.approx(
            (104 + at_ms) * ms, abs=0.1 * ms
        )


def test_sound_becomes_mono() -> None:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=960)
    wave = np.stack([np.full(960, 1000), np.full(960, 3000)], axis=1).astype("<i2")
    frame.planes[0].update(wave.tobytes())
    frame.sample_rate = 48_000
    got = audio_frame(frame, 5)
    assert got == AudioFrame(pcm=np.full(960, 2000, "<i2").tobytes(), timestamp_ns=5)


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


async def test_without_servers_the_engine_asks_none() -> None:
    options = SessionOptions(ice_servers=(), loopback=True, gather_timeout_s=1.0)
    session = AiortcEngine().open(options, cast("SessionEvents", object()))
    try:
        await session.offer((), Lines(1, 0))
        assert session._link is not None
        ice = session._link.ice._connection
        assert (ice.stun_server, ice.turn_server) == (None, None)
        assert {c.host for c in ice.local_candidates} == {"127.0.0.1"}
    finally:
        await session.close()


@pytest.mark.parametrize(("rate", "samples"), [(8000, 160), (48_000, 2880), (48_000, 960)])
async def test_whatever_codec_a_member_chose_sound_comes_as_ours(rate: int, samples: int) -> None:
    hub, got = FrameHub(Kind.AUDIO), []
    hub.consume(got.append)

    class Events:
        def received(self, mid: str) -> None: ...
        def sink(self, mid: str, kind: Kind) -> FrameHub:
            return hub

    class Decoded(MediaStreamTrack):
        kind = "audio"
        count = 0

        async def recv(self) -> av.AudioFrame:
            if self.count == 10:
                raise MediaStreamError
            frame = av.AudioFrame(format="s16", layout="mono", samples=samples)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = self.count * samples
            self.count += 1
            return frame

    options = SessionOptions(ice_servers=(), loopback=True, gather_timeout_s=1.0)
    session = AiortcEngine().open(options, cast("SessionEvents", Events()))
    try:
        await session._read("0", Decoded())
    finally:
        await session.close()
    assert len(got) >= 9
    assert {(f.samples, f.sample_rate, f.channels) for f in got if f} == {(960, 48_000, 1)}


# What a member says of muting

MUTED, LOUD = (
    TrackInfo(mid="0", kind=Kind.AUDIO, source="a", name="0", muted=m) for m in (True, False)
)


def test_the_last_word_on_muting_counts_whatever_overtakes_it() -> None:
    events: list[ConnectionEvent] = []
    tracks = RemoteTracks(member("bob"), events.append)
    tracks.attach()
    tracks.set_muted("a", "0", True)  # before the description of the track
    tracks.describe((LOUD,))
    tracks.describe((LOUD,))  # made before the word, and later here
    assert [e.muted for e in events if isinstance(e, TrackMuted)] == [True]
    tracks.detach()
    tracks.describe((LOUD,))  # a new connection: what is described there is true
    tracks.attach()
    assert [e.muted for e in events if isinstance(e, TrackMuted)] == [True, False]
    for number in range(1000):
        tracks.set_muted("a", str(number), True)
    assert len(tracks._said) <= 64


def _track(kind: Kind) -> LocalTrack:
    return LocalTrack(TrackId(member("alice"), "x", "0"), FrameHub(kind))


async def test_a_picture_survives_the_way_out_and_in() -> None:
    slot, track = VideoSlot(), _track(Kind.VIDEO)
    slot.feed(track)
    data = bytes(range(256)) * 6
    sent = VideoFrame(data=data[: 34 * 30 * 3 // 2], width=34, height=30, timestamp_ns=1)
    track.hub.push(sent)
    got = await slot.recv()
    assert video_frame(got, 1) == sent
    track.hub.push(replace(sent, timestamp_ns=1))  # time stood still: the picture goes on
    assert (await slot.recv()).pts == 1
    slot.stop()


class Ear:
    """A slot that is fed, and its packets decoded as aiortc's receiver does."""

    def __init__(self, feeds: SoundFeeds | None = None, track: LocalTrack | None = None) -> None:
        self.track = track or _track(Kind.AUDIO)
        self.slot = AudioSlot(feeds or SoundFeeds())
        self.slot.feed(self.track)
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate, self._decoder.format = 48_000, av.AudioFormat("s16")

    def push(self, level: int = 8000, number: int = 0) -> None:
        """Push 20 ms of a square wave."""
        pcm = np.repeat([level, -level], 48).astype("<i2").tobytes() * 10
        self.track.hub.push(AudioFrame(pcm=pcm, timestamp_ns=number * 20_000_000))

    async def hear(self) -> tuple[int, int]:
        """Give the timestamp of the next packet, and how loud it is."""
        packet = await self.slot.recv()
        assert packet.time_base == Fraction(1, 48_000)
        assert packet.pts is not None
        pts = packet.pts
        (frame,) = self._decoder.decode(av.Packet(bytes(packet)))  # type: ignore[arg-type]
        return pts, int(np.abs(frame.to_ndarray().astype(int)).max())


async def test_sound_is_paced_and_gaps_are_silence() -> None:
    ear = Ear()
    ear.push()
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    heard = [await ear.hear() for _ in range(6)]
    assert loop.time() - start_s == pytest.approx(0.1, abs=0.05)
    first = heard[0][0]
    assert [pts - first for pts, _ in heard] == [0, 960, 1920, 2880, 3840, 4800]
    assert max(level for _, level in heard[:2]) > 4000
    assert max(level for _, level in heard[3:]) < 400
    ear.slot.mute(True)
    ear.push()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ear.slot.recv(), 0.4)
    ear.slot.mute(False)
    ear.push()
    after, _ = await ear.hear()
    assert after - first >= 4800 + 960 * 20  # timestamps measured the pause
    assert (after - first) % 960 == 0
    ear.slot.feed(None)


async def test_silence_ends_after_a_second() -> None:
    ear = Ear()
    ear.push()
    for _ in range(45):
        await asyncio.wait_for(ear.slot.recv(), 0.5)
    await asyncio.sleep(0.5)
    while ear.slot._packets:
        await ear.slot.recv()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ear.slot.recv(), 0.5)
    ear.slot.feed(None)


async def test_what_waited_for_the_connection_is_not_late_for_good() -> None:
    ear = Ear()
    for number in range(5):
        ear.push(number=number)
    levels = [(await ear.hear())[1] for _ in range(6)]
    assert min(levels[1:2]) > 4000
    assert max(levels[4:]) < 400
    ear.slot.feed(None)


async def test_a_track_is_encoded_once_for_all_members() -> None:
    feeds = SoundFeeds()
    one = Ear(feeds)
    two = Ear(feeds, one.track)
    one.push()
    assert await one.slot.recv() is await two.slot.recv()
    # One that mutes or goes takes nothing from the other; the last one stops the encoder.
    one.slot.mute(True)
    one.push()
    await two.slot.recv()
    assert not one.slot._packets
    assert one.track.hub.wanted
    two.slot.feed(None)
    assert not one.track.hub.wanted
    assert not feeds._feeds


async def test_a_member_that_takes_no_packets_hears_the_newest() -> None:
    feeds = SoundFeeds()
    one = Ear(feeds)
    two = Ear(feeds, one.track)
    one.push()
    heard = [(await one.hear())[0] for _ in range(12)]
    assert (await two.hear())[0] >= heard[-5]
    one.slot.feed(None)
    two.slot.feed(None)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (24_000, 1), (16_000, 2)])
async def test_sound_of_other_shapes_is_converted(rate: int, channels: int) -> None:
    ear = Ear()
    wave = np.repeat([8000, -8000], rate // 1000)
    pcm = np.repeat(np.tile(wave, 10), channels).astype("<i2").tobytes()
    for number in range(4):
        ear.track.hub.push(
            AudioFrame(
                pcm=pcm, timestamp_ns=number * 20_000_000, sample_rate=rate, channels=channels
            )
        )
    assert max([(await ear.hear())[1] for _ in range(3)]) > 4000
    ear.slot.feed(None)


async def test_a_picture_taken_while_muting_is_not_sent() -> None:
    slot, track = VideoSlot(), _track(Kind.VIDEO)
    slot.feed(track)
    picture = VideoFrame(data=bytes(64 * 48 * 3 // 2), width=64, height=48, timestamp_ns=0)
    track.hub.push(picture)
    slot.mute(True)
    slot._frames.append(picture)  # the source's thread was just at it
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(slot.recv(), 0.1)
    slot.mute(False)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(slot.recv(), 0.1)
    slot.feed(None)


async def test_an_offer_that_prefers_other_sound_than_opus_is_refused() -> None:
    offerer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    options = SessionOptions(ice_servers=(), loopback=True, gather_timeout_s=1.0)
    session = AiortcEngine().open(options, cast("SessionEvents", object()))
    try:
        sound = offerer.addTransceiver("audio")
        known = RTCRtpSender.getCapabilities("audio").codecs
        sound.setCodecPreferences(sorted(known, key=lambda codec: codec.name != "PCMU"))
        offerer.createDataChannel("x", negotiated=True, id=0)
        offer = await offerer.createOffer()
        with pytest.raises(EngineError, match="not Opus"):
            await session.answer(offer.sdp, ())
    finally:
        await session.close()
        await offerer.close()


def test_the_test_configuration_never_leaves_the_machine() -> None:
    assert CONFIG.loopback
