"""The packets that go out, and what is agreed upon before."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, rtp
from aiortc.rtcdtlstransport import RTCDtlsTransport
from feeding import Transport, Troubles, parameters
from meshes import until
from rtcfoci_mesh.aiortc_engine import AiortcEngine
from rtcfoci_mesh.engine import EngineError, SessionEvents, SessionOptions
from rtcfoci_mesh.feeds import Coded, Feed, Feeds
from rtcfoci_mesh.outgoing import Sender
from rtcfoci_mesh.wire import Lines

from rtcfoci.media.frames import Kind


class Never(Feed):
    """A feed that gives what it is told to."""

    def refresh(self) -> None:
        pass

    def _take(self, frame: object) -> None:
        pass

    async def _run(self) -> None:
        await asyncio.Event().wait()


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
