"""What we send on one media section: the packets of a shared feed, and what the receiver says of them.

In: RTP and RTCP of one stream, sending again what was lost, muting. Out: encoding (`feeds` and what it
names), how much a receiver takes (`rate`), encryption and sockets (aiortc's transport).

This stands in for aiortc's own sender, which takes two tasks for a stream, and a task's step, a packet
object and its serialisation for each packet: in a call of many, that is what an hour of processor goes
into. A packet here is a header of fixed shape in front of a payload that all senders share, and goes
out in the very call that hands it over. A sender lives as long as its connection and is fed by one
track after another. While it has no track, or a muted one, it sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
import time
from collections.abc import Coroutine
from typing import Any

from aiortc import RTCRtpSender, RTCRtpTransceiver, clock, rtp
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpSendParameters
from aiortc.stats import (
    RTCOutboundRtpStreamStats,
    RTCRemoteInboundRtpStreamStats,
    RTCStatsReport,
)

from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci_mesh.feeds import Coded, Feeds, Tap
from rtcfoci_mesh.rate import Rate, Thinner

__all__ = ["Sender", "equip"]

_MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_HISTORY = 512
"""Packets that can be sent again."""
_SUSPENDED = 64
"""Packets that may wait for the transport at once (a relay that binds a channel)."""
_REPORT_S = (0.5, 1.5)
_RTT_ALPHA = 0.85
_LONG_FORM = 15
"""Numbers of header extensions from which on they are written in another form; nobody uses them."""
_HEADER = struct.Struct("!BBHLL")
_BODY = _HEADER.size
_log = logging.getLogger(__name__)


class Sender(RTCRtpSender):
    """One outgoing stream, in the place of aiortc's."""

    def __init__(self, kind: Kind, transport: RTCDtlsTransport, feeds: Feeds) -> None:
        super().__init__(kind.value, transport)
        self._feeds = feeds
        self._track: LocalTrack | None = None
        self._muted = False
        self._tap: Tap | None = None
        self._started = False
        self._rate = Rate()
        self._thinner = Thinner() if kind is Kind.VIDEO else None
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Task[None]] = set()
        # The stream
        self._type = 0
        self._sequence = random.randrange(1 << 15)  # low: SRTP begins before the first wrap
        self._origin = random.randrange(1 << 32)
        self._extension = b""
        self._timed = False
        self._sent: dict[int, tuple[int, bytes]] = {}
        self._rtx_type: int | None = None
        self._rtx_sequence = random.randrange(1 << 15)
        # Reports
        self._names = b""
        self._report: asyncio.TimerHandle | None = None
        self._timestamp, self._sent_ntp = 0, 0
        self._packets = self._octets = 0
        self._reported: tuple[int, float] = (0, 0.0)
        self._rtt_s: float | None = None
        self._stats = RTCStatsReport()

    # Tracks

    @property
    def track_id(self) -> TrackId | None:
        """The track that feeds this stream."""
        return self._track.track_id if self._track else None

    @property
    def rate_bps(self) -> float:
        """What the receiver can take."""
        return self._rate.bps

    def feed(self, track: LocalTrack | None, *, muted: bool = False) -> None:
        """Send this track from now on, or nothing."""
        self._track, self._muted = track, muted
        self._follow()

    def mute(self, muted: bool) -> None:
        """Send nothing while muted."""
        self._muted = muted
        self._follow()

    def _follow(self) -> None:
        if self._tap is not None:
            self._tap.stop()
            self._tap = None
        if self._track is not None and self._started and not self._muted:
            if self._thinner is not None:
                self._thinner.begin()
            self._tap = self._feeds.listen(self._track, self)

    # What a connection asks of its sender

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Begin: the transport is there, and what is sent is agreed upon."""
        if self._started:
            return
        self._type = parameters.codecs[0].payloadType or 0
        for codec in parameters.codecs:
            if codec.name.lower() == "rtx" and codec.parameters.get("apt") == self._type:
                self._rtx_type = codec.payloadType
        self._extension, self._timed = _extension(parameters)
        name = [(1, (parameters.rtcp.cname or "").encode())]
        self._names = bytes(rtp.RtcpSdesPacket([rtp.RtcpSourceInfo(self._ssrc, name)]))
        self.transport._register_rtp_sender(self, parameters)
        self._started = True
        self._follow()
        self._report_later()

    async def stop(self) -> None:
        """End for good."""
        if self._started:
            self._started = False
            self.feed(None)
            self.transport._unregister_rtp_sender(self)
            if self._report is not None:
                self._report.cancel()
            self._pass_on(bytes(rtp.RtcpByePacket([self._ssrc])))

    # Packets

    def take(self, coded: Coded) -> None:
        """Send 20 ms of sound or a picture."""
        now_s = time.time()
        thinner = self._thinner
        if not self._enabled or (
            thinner is not None and not thinner.passes(coded, self._rate.bps, now_s)
        ):
            return
        self._timestamp = timestamp = (self._origin + coded.timestamp) & 0xFFFFFFFF
        self._sent_ntp = int((now_s + 2_208_988_800) * 4294967296)
        extension = self._extension
        if self._timed:  # 24 bits: 6 of seconds, 18 of their fraction
            extension += (int(now_s * 262_144) & 0xFFFFFF).to_bytes(3, "big")
        kind, last = self._type, len(coded.payloads) - 1
        for index, payload in enumerate(coded.payloads):
            if index == last and thinner is not None:
                kind |= 0x80  # the marker: a picture is complete
            sequence = self._sequence
            packet = _HEADER.pack(0x90, kind, sequence, timestamp, self._ssrc) + extension + payload
            self._sequence = (sequence + 1) & 0xFFFF
            self._sent[sequence % _HISTORY] = sequence, packet
            self._packets += 1
            self._octets += len(payload)
            self._pass_on(packet)

    def _again(self, sequence: int) -> None:
        held, packet = self._sent.get(sequence % _HISTORY, (-1, b""))
        if held != sequence:
            return
        if self._rtx_type is not None:  # in a stream of its own (RFC 4588)
            body = _BODY + len(self._extension) + 3 * self._timed
            marked = packet[1] & 0x80 | self._rtx_type
            header = _HEADER.pack(
                0x90,
                marked,
                self._rtx_sequence,
                *struct.unpack_from("!L", packet, 4),
                self._rtx_ssrc,
            )
            self._rtx_sequence = (self._rtx_sequence + 1) & 0xFFFF
            packet = header + packet[_BODY:body] + sequence.to_bytes(2, "big") + packet[body:]
        self._pass_on(packet)

    def _pass_on(self, packet: bytes) -> None:
        """Give a packet to the transport without a task: as a rule it never waits."""
        sending = self.transport._send_rtp(packet)
        try:
            waits_for = _begin(sending)
        except StopIteration:
            return
        except Exception as error:  # one member's broken connection stops nobody's feed
            _log.debug("a packet was not sent: %r", error)
            return
        if len(self._waiting) >= _SUSPENDED:
            sending.close()
            return
        task = self._loop.create_task(_finish(sending, waits_for))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    # Reports

    async def _handle_rtcp_packet(self, packet: rtp.AnyRtcpPacket) -> None:
        if isinstance(packet, rtp.RtcpRrPacket | rtp.RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self._received(report, packet.ssrc)
        elif isinstance(packet, rtp.RtcpRtpfbPacket):
            if packet.fmt == rtp.RTCP_RTPFB_NACK:
                for sequence in packet.lost:
                    self._again(sequence)
        elif isinstance(packet, rtp.RtcpPsfbPacket):
            if packet.fmt in (rtp.RTCP_PSFB_PLI, rtp.RTCP_PSFB_FIR):
                if self._tap is not None:
                    self._tap.refresh()
            elif packet.fmt == rtp.RTCP_PSFB_APP:
                self._estimated(packet.fci)

    def _estimated(self, fci: bytes) -> None:
        try:
            bps, streams = rtp.unpack_remb_fci(fci)
        except (ValueError, struct.error):
            return
        if self._ssrc in streams:
            self._rate.estimated(bps)

    def _received(self, report: rtp.RtcpReceiverInfo, reporter: int) -> None:
        sent_ntp, at_s = self._reported
        if report.lsr and report.lsr == sent_ntp:
            rtt_s = max(0.0, time.time() - at_s - report.dlsr / 65536)
            held_s = rtt_s if self._rtt_s is None else self._rtt_s
            self._rtt_s = _RTT_ALPHA * held_s + (1 - _RTT_ALPHA) * rtt_s
        self._rate.lost(report.fraction_lost / 256)
        self._stats.add(
            RTCRemoteInboundRtpStreamStats(
                timestamp=clock.current_datetime(),
                type="remote-inbound-rtp",
                id=f"remote-inbound-rtp_{id(self)}",
                ssrc=reporter,
                kind=self.kind,
                transportId=self.transport._stats_id,
                packetsReceived=self._packets - report.packets_lost,
                packetsLost=report.packets_lost,
                jitter=report.jitter,
                roundTripTime=self._rtt_s,  # type: ignore[arg-type]  # aiortc has None there too
                fractionLost=report.fraction_lost,
            )
        )

    def _report_later(self) -> None:
        self._report = self._loop.call_later(random.uniform(*_REPORT_S), self._report_now)

    def _report_now(self) -> None:
        info = rtp.RtcpSenderInfo(
            self._sent_ntp, self._timestamp, self._packets & 0xFFFFFFFF, self._octets & 0xFFFFFFFF
        )
        self._reported = (self._sent_ntp >> 16) & 0xFFFFFFFF, time.time()
        self._pass_on(bytes(rtp.RtcpSrPacket(self._ssrc, info)) + self._names)
        self._report_later()

    async def getStats(self) -> RTCStatsReport:
        """Give what was sent, and what the receiver said of it."""
        self._stats.add(
            RTCOutboundRtpStreamStats(
                timestamp=clock.current_datetime(),
                type="outbound-rtp",
                id=f"outbound-rtp_{id(self)}",
                ssrc=self._ssrc,
                kind=self.kind,
                transportId=self.transport._stats_id,
                packetsSent=self._packets,
                bytesSent=self._octets,
                trackId=self._track_id,
            )
        )
        self._stats.update(self.transport._get_stats())
        return self._stats


def equip(transceiver: RTCRtpTransceiver, feeds: Feeds) -> Sender:
    """Give the sender of a media section: ours, put in the place of aiortc's before that began."""
    held = transceiver.sender
    if isinstance(held, Sender):
        return held
    sender = Sender(Kind(transceiver.kind), held.transport, feeds)
    sender._ssrc, sender._rtx_ssrc = held._ssrc, held._rtx_ssrc  # the receiver reports under it
    sender._stream_id = held._stream_id
    transceiver._RTCRtpTransceiver__sender = sender  # type: ignore[attr-defined]
    return sender


def _extension(parameters: RTCRtpSendParameters) -> tuple[bytes, bool]:
    """Write the header extensions that do not change, and say whether the time of sending follows."""
    ids = {e.uri: e.id for e in parameters.headerExtensions if e.id < _LONG_FORM}
    named, timed = ids.get(_MID), ids.get(_SEND_TIME)
    mid = parameters.muxId.encode()
    words = b""
    if named is not None and 0 < len(mid) <= _LONG_FORM + 1:
        words = bytes([named << 4 | len(mid) - 1]) + mid
    if timed is not None:
        # Padding may stand between elements, so that what changes is last.
        words += bytes(-len(words) % 4) + bytes([timed << 4 | 2])
    length = len(words) + 3 if timed is not None else len(words) + -len(words) % 4
    words = words if timed is not None else words.ljust(length, b"\0")
    return struct.pack("!HH", 0xBEDE, length // 4) + words, timed is not None


async def _finish(
    sending: Coroutine[Any, Any, None], waits_for: asyncio.Future[object] | None
) -> None:
    """Go on with what was begun outside a task, as a task does."""
    with contextlib.closing(sending):
        try:
            while True:
                if waits_for is None:
                    await asyncio.sleep(0)
                else:
                    await asyncio.wait([waits_for])
                waits_for = _begin(sending)
        except StopIteration:
            return
        except Exception as error:  # a relay that does not answer: the packet is lost
            _log.debug("a packet was not sent: %r", error)


def _begin(sending: Coroutine[Any, Any, None]) -> asyncio.Future[object] | None:
    """Run up to where it waits, and give what for. :raises StopIteration: when it is done."""
    waits_for: asyncio.Future[object] | None = sending.send(None)
    if waits_for is not None:
        waits_for._asyncio_future_blocking = False  # taken note of: others may wait for it too
    return waits_for
