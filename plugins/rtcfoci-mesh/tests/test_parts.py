"""The small parts: what is read from others, who fits in, clocks and frames."""

from __future__ import annotations

import asyncio
import importlib
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import CONFIG, FakeContext, Wire, member
from rtcfoci_mesh import MESH
from rtcfoci_mesh.aiortc_engine import AiortcEngine
from rtcfoci_mesh.backend import MeshBackend
from rtcfoci_mesh.config import IceServer, MeshConfig, MeshTransport
from rtcfoci_mesh.data import MAX_DATA_BYTES, AppData, Mute, Ping, Pong, pack, unpack
from rtcfoci_mesh.engine import SessionEvents, SessionOptions
from rtcfoci_mesh.ice import IceServers, read_turn_server
from rtcfoci_mesh.tracks import RemoteTracks
from rtcfoci_mesh.wire import Lines, TrackInfo, check_sdp, read_signal

from rtcfoci.core.model import Transport
from rtcfoci.errors import BackendError, RemoteProtocolError
from rtcfoci.media.frames import Kind
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


# Servers


def test_turn_servers_are_read_with_care() -> None:
    answer = {
        "uris": ["turn:turn.test:3478?transport=udp", "javascript:x", 7, "turns:::1:1"],
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


def test_a_muted_track_that_comes_back_is_shown_muted() -> None:
    events: list[ConnectionEvent] = []
    tracks = RemoteTracks(member("bob"), events.append)
    for _ in range(2):
        tracks.describe((MUTED,))
        tracks.attach()
        tracks.detach()
    # Whoever is told that a track is removed forgets that it was muted.
    told = [e.muted if isinstance(e, TrackMuted) else type(e).__name__ for e in events]
    assert told == ["TrackAdded", True, "TrackRemoved"] * 2


def test_the_test_configuration_never_leaves_the_machine() -> None:
    assert CONFIG.loopback
