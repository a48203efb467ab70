"""The places inside aiortc and aioice that the engine reaches: a new version must keep them or be met."""

from __future__ import annotations

import inspect
import re

import aioice
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection
from aiortc.codecs.vpx import Vp8Encoder, VpxPayloadDescriptor
from aiortc.rtcicetransport import RTCIceGatherer
from aiortc.rtcrtpreceiver import RTCRtpReceiver, StreamStatistics
from aiortc.stats import RTCTransportStats
from rtcfoci_mesh.feeds import Feeds
from rtcfoci_mesh.outgoing import equip
from rtcfoci_mesh.picture import FLOOR_BPS, PictureFeed


async def test_the_transport_is_where_we_look_for_it() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    try:
        transceiver = pc.addTransceiver("audio", direction="recvonly")
        channel = pc.createDataChannel("x", negotiated=True, id=0)
        assert channel.bufferedAmount == 0
        assert pc.sctp is not None
        dtls = pc.sctp.transport
        assert dtls is transceiver.receiver.transport, "media and data are not bundled"
        ice = dtls.transport
        assert inspect.iscoroutinefunction(ice._send)
        assert isinstance(ice._connection, aioice.Connection)
        (totals,) = dtls._get_stats().values()
        assert isinstance(totals, RTCTransportStats)
        assert totals.packetsReceived == 0
    finally:
        await pc.close()


def test_packets_are_sent_through_the_attribute_that_drills_replace() -> None:
    source = inspect.getsource(inspect.getmodule(RTCIceGatherer.__mro__[0].gather) or object)
    assert "self._send = self._connection.send" in source
    from aiortc.rtcdtlstransport import RTCDtlsTransport

    assert "self.transport._send(" in inspect.getsource(RTCDtlsTransport)


def test_gathering_takes_addresses_and_a_timeout() -> None:
    parameters = inspect.signature(aioice.Connection.get_component_candidates).parameters
    assert list(parameters) == ["self", "component", "addresses", "timeout"]
    source = inspect.getsource(aioice.Connection.gather_candidates)
    assert "self.get_component_candidates(component=component, addresses=addresses)" in source


def test_the_default_servers_are_public_which_is_why_we_never_leave_them_out() -> None:
    assert RTCIceGatherer.getDefaultIceServers()


def test_decoder_threads_take_after_the_thread_that_starts_them() -> None:
    source = inspect.getsource(RTCRtpReceiver.receive)
    assert "threading.Thread(" in source
    assert "daemon" not in source


async def test_figures_are_where_we_look_for_them() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    try:
        transceiver = pc.addTransceiver("video", direction="recvonly")
        assert transceiver._codecs == []
        assert transceiver.receiver._RTCRtpReceiver__remote_streams == {}
        assert transceiver.receiver._RTCRtpReceiver__rtx_ssrc == {}
        assert aioice.Connection(ice_controlling=True)._nominated == {}
        pair = aioice.ice.CandidatePair
        assert isinstance(pair.local_candidate, property)
        inner = aioice.turn.TurnClientTcpProtocol(("", 0), None, None, 600, 540)
        assert aioice.turn.TurnTransport(inner)._TurnTransport__inner_protocol is inner
        stream = StreamStatistics(90_000)
        assert (stream._clockrate, stream.packets_received) == (90_000, 0)
        assert isinstance(StreamStatistics.packets_lost, property)
    finally:
        await pc.close()


async def test_a_receiver_is_fed_and_keeps_account_where_we_look_for_it() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        receiver = pc.addTransceiver("video", direction="recvonly").receiver
        for name in (
            "codecs",
            "remote_bitrate_estimator",
            "remote_streams",
            "rtcp_ssrc",
            "rtx_ssrc",
            "stop_decoder",
        ):
            assert hasattr(receiver, f"_RTCRtpReceiver__{name}"), name
    finally:
        await pc.close()
    assert list(inspect.signature(RTCRtpReceiver._handle_rtp_packet).parameters) == [
        "self",
        "packet",
        "arrival_time_ms",
    ]
    from aiortc.rtcdtlstransport import RTCDtlsTransport

    source = inspect.getsource(RTCDtlsTransport._handle_rtp_data)
    assert "await receiver._handle_rtp_packet(packet, arrival_time_ms=" in source
    reports = inspect.getsource(RTCRtpReceiver._run_rtcp)
    assert "self.__remote_streams.items()" in reports, "reports tell what we counted"


async def test_our_sender_can_take_the_place_of_aiortcs() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    try:
        transceiver = pc.addTransceiver("video", direction="sendrecv")
        held = transceiver.sender
        assert vars(transceiver)["_RTCRtpTransceiver__sender"] is held
        assert held._enabled is True
        assert {held._ssrc, held._rtx_ssrc} == {int(held._ssrc), int(held._rtx_ssrc)}
        ours = equip(transceiver, Feeds(lambda track: PictureFeed(track, lambda *_: None)))
        assert transceiver.sender is ours
        assert pc.getSenders() == [ours]
        assert (ours._ssrc, ours._stream_id) == (held._ssrc, held._stream_id)
        assert f"a=ssrc:{ours._ssrc} " in (await pc.createOffer()).sdp
        assert equip(transceiver, Feeds(lambda track: PictureFeed(track, lambda *_: None))) is ours
    finally:
        await pc.close()


def test_a_connection_asks_of_a_sender_what_ours_gives() -> None:
    """Whatever aiortc calls on a sender is either the base class's or overridden."""
    from aiortc import rtcdtlstransport, rtcpeerconnection, rtcrtptransceiver

    sources = map(inspect.getsource, (rtcpeerconnection, rtcrtptransceiver))
    used = {name for source in sources for name in re.findall(r"sender\.(\w+)", source)}
    given = {"_rtx_ssrc", "_ssrc", "_stream_id", "_track_id", "_enabled", "track", "replaceTrack"}
    assert used <= given | {"send", "stop", "setTransport"}
    protocol = inspect.getsource(rtcdtlstransport.RtpSender)
    assert set(re.findall(r"(?:def (\w+)|^    (_\w+):)", protocol, re.MULTILINE)) == {
        ("_handle_rtcp_packet", ""),
        ("", "_ssrc"),
    }


def test_sending_a_packet_does_not_wait_of_itself() -> None:
    from aiortc.rtcdtlstransport import RTCDtlsTransport

    for method, waits in (
        (RTCDtlsTransport._send_rtp, ["self.transport._send(data)"]),
        (aioice.Connection.send, ["self.sendto(data, 1)"]),
        (
            aioice.Connection.sendto,
            ["active_pair.protocol.send_data(data, active_pair.remote_addr)"],
        ),
        (aioice.ice.StunProtocol.send_data, []),
    ):
        assert re.findall(r"await (.*)", inspect.getsource(method)) == waits


def test_the_encoder_is_what_we_build_on() -> None:
    encoder = Vp8Encoder()
    assert encoder.target_bitrate == 500_000
    encoder.target_bitrate = 1
    assert encoder.target_bitrate == FLOOR_BPS
    source = inspect.getsource(Vp8Encoder.encode)
    assert "> 0.1" in source, "by how much a rate must change to be taken"
    described = VpxPayloadDescriptor(partition_start=1, partition_id=0, picture_id=4711)
    assert len(bytes(described)) == 4, "a keyframe is told by the fifth byte"
