"""What an aiortc receiver does with a packet, done our way.

In: statistics, the estimate of what the sender may send, retransmissions, asking for packets and key
pictures. Out: the packet's way to the application (`hearing`, `seeing`), reports to the sender (aiortc).

aiortc decodes every track, read or not, on a thread for each; it waits for a lost packet of sound until
sixteen came and drops most of them then; it asks for a lost packet once. So the packets are taken where
its transport hands them to its receiver, and its decoder thread is ended. These private places are held
by `tests/test_private_places.py` against the pinned version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiortc.codecs import is_rtx
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, pack_remb_fci, unwrap_rtx

from rtcfoci.media.frames import Kind
from rtcfoci_mesh.engine import SessionEvents
from rtcfoci_mesh.hearing import SoundIntake
from rtcfoci_mesh.incoming import Intake
from rtcfoci_mesh.seeing import PictureIntake

if TYPE_CHECKING:
    from aiortc import RTCRtpReceiver
    from aiortc.rate import RemoteBitrateEstimator
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
    from aiortc.rtp import RtpPacket

__all__ = ["Reception"]

_MOST_STREAMS = 8
"""Names (SSRCs) that one media section is heard under; each has its statistics."""
_log = logging.getLogger(__name__)


class Reception:
    """Stands in for a receiver's way with packets.

    :param receiver: before it was started.
    :param events_of: gives None after the end.
    """

    def __init__(
        self,
        receiver: RTCRtpReceiver,
        mid: str,
        kind: Kind,
        events_of: Callable[[], SessionEvents | None],
    ) -> None:
        self._receiver = receiver
        intake = SoundIntake if kind is Kind.AUDIO else PictureIntake
        self._intake: Intake = intake(mid, events_of)
        self._start = receiver.receive
        self._codecs: dict[int, RTCRtpCodecParameters] = self._private("codecs")
        self._streams: dict[int, StreamStatistics] = self._private("remote_streams")
        self._rtx: dict[int, int] = self._private("rtx_ssrc")
        self._estimator: RemoteBitrateEstimator | None = self._private("remote_bitrate_estimator")
        receiver.receive = self._receive  # type: ignore[method-assign]
        receiver._handle_rtp_packet = self._take  # type: ignore[method-assign]

    def close(self) -> None:
        """Take nothing any more."""
        self._intake.close()

    def _private(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._receiver, f"_RTCRtpReceiver__{name}")

    async def _receive(self, parameters: RTCRtpReceiveParameters) -> None:
        await self._start(parameters)
        self._private("stop_decoder")()

    async def _take(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """Take a packet; whatever it holds, the connection goes on."""
        try:
            await self._took(packet, arrival_time_ms)
        except Exception as error:
            _log.debug("a packet was of no use: %r", error)

    async def _took(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        receiver = self._receiver
        if self._estimator is not None:
            await self._estimate(self._estimator, packet, arrival_time_ms)
        codec = self._codecs.get(packet.payload_type)
        if codec is None:
            return
        statistics = self._streams.get(packet.ssrc)
        if statistics is None:
            if len(self._streams) >= _MOST_STREAMS:
                return
            statistics = self._streams[packet.ssrc] = StreamStatistics(codec.clockRate)
        statistics.add(packet)
        if is_rtx(codec):
            ssrc, payload_type = self._rtx.get(packet.ssrc), codec.parameters.get("apt")
            if ssrc is None or not isinstance(payload_type, int) or len(packet.payload) < 2:
                return
            codec = self._codecs.get(payload_type)
            if codec is None or is_rtx(codec):
                return
            packet = unwrap_rtx(packet, payload_type=payload_type, ssrc=ssrc)
        requests = self._intake.take(packet, codec)
        if requests is None:
            return
        if requests.numbers:
            await receiver._send_rtcp_nack(packet.ssrc, list(requests.numbers))
        if requests.key:
            await receiver._send_rtcp_pli(packet.ssrc)

    async def _estimate(
        self, estimator: RemoteBitrateEstimator, packet: RtpPacket, arrival_time_ms: int
    ) -> None:
        """Tell the sender how much the path bears (REMB)."""
        sent = packet.extensions.abs_send_time
        if sent is None:
            return
        estimate = estimator.add(
            abs_send_time=sent,
            arrival_time_ms=arrival_time_ms,
            payload_size=len(packet.payload) + packet.padding_size,
            ssrc=packet.ssrc,
        )
        ours = self._private("rtcp_ssrc")
        if estimate is not None and ours is not None:
            told = RtcpPsfbPacket(
                fmt=RTCP_PSFB_APP, ssrc=ours, media_ssrc=0, fci=pack_remb_fci(*estimate)
            )
            await self._receiver._send_rtcp(told)
