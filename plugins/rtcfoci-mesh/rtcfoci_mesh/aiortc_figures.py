"""What is counted of an aiortc connection, as the engine protocol wants it.

In: sums over the streams of a pair, the nominated pair of candidates, the agreed codecs. Out: rates and
what is left of earlier connections (`meter`).

aiortc's own report has one entry for each receiver: of a stream and its retransmissions only the one
that came last. So the streams are read where it counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aioice.turn import TurnClientTcpProtocol
from aiortc import RTCPeerConnection, RTCRtpReceiver

from rtcfoci.plugin import PathStats
from rtcfoci_mesh.aiortc_link import Link
from rtcfoci_mesh.engine import SessionStats, Totals

if TYPE_CHECKING:
    from aiortc.rtcrtpreceiver import StreamStatistics

__all__ = ["figures"]


async def figures(pc: RTCPeerConnection, link: Link) -> SessionStats:
    """Sum up the connection's streams; jitter and round trip are the worst of them."""
    transport, sums = link.totals, Counter[str]()
    jitters_ms, rtts_ms = [], []
    for receiver in pc.getReceivers():
        for stream in _streams(receiver):
            sums["received"] += stream.packets_received
            sums["received_lost"] += stream.packets_lost
            jitters_ms.append(1000 * stream.jitter / stream._clockrate)
    for sender in pc.getSenders():
        for entry in (await sender.getStats()).values():
            if entry.type == "outbound-rtp":
                sums["sent"] += entry.packetsSent
            elif entry.type == "remote-inbound-rtp":
                sums["sent_lost"] += entry.packetsLost
                if entry.roundTripTime is not None:
                    rtts_ms.append(1000 * entry.roundTripTime)
    return SessionStats(
        totals=Totals(
            bytes_received=transport.bytesReceived,
            bytes_sent=transport.bytesSent,
            packets_received=sums["received"],
            packets_sent=sums["sent"],
            packets_received_lost=sums["received_lost"],
            packets_sent_lost=sums["sent_lost"],
        ),
        rtt_ms=max(rtts_ms, default=None),
        jitter_ms=max(jitters_ms, default=None),
        path=_path(link),
        audio_codec=_codec(pc, "audio"),
        video_codec=_codec(pc, "video"),
    )


def _streams(receiver: RTCRtpReceiver) -> Iterator[StreamStatistics]:
    """Give what a section received, without what was sent again: that would count twice."""
    streams: dict[int, StreamStatistics] = receiver._RTCRtpReceiver__remote_streams  # type: ignore[attr-defined]
    again = receiver._RTCRtpReceiver__rtx_ssrc  # type: ignore[attr-defined]
    return (stream for ssrc, stream in streams.items() if ssrc not in again)


def _path(link: Link) -> PathStats | None:
    pair = link.ice._connection._nominated.get(1)
    if pair is None:
        return None
    # What is relayed is always UDP between the relays; to our own it may go in TCP.
    to_relay = getattr(pair.protocol.transport, "_TurnTransport__inner_protocol", None)
    return PathStats(
        local=pair.local_candidate.type,
        remote=pair.remote_candidate.type,
        protocol="tcp" if isinstance(to_relay, TurnClientTcpProtocol) else "udp",
    )


def _codec(pc: RTCPeerConnection, kind: str) -> str | None:
    """Name what the first media section of a kind was agreed to carry."""
    for transceiver in pc.getTransceivers():
        if transceiver.kind == kind and transceiver._codecs:
            return str(transceiver._codecs[0].name)
    return None
