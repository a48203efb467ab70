"""The transport of an aiortc connection: gathering, ICE, and the data channels.

In: the private places of aiortc's transports that the mesh needs, and how long and where they gather.
Out: descriptions and media sections (`aiortc_engine`), figures (`aiortc_figures`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, cast

from aiortc import RTCPeerConnection

from rtcfoci_mesh.engine import EngineError, SessionOptions

if TYPE_CHECKING:
    import aioice
    from aiortc import RTCDataChannel
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcicetransport import RTCIceTransport
    from aiortc.stats import RTCTransportStats

__all__ = ["Link", "limit_gathering", "swallow"]


class Link:
    """The one transport of a connection, and the two data channels on it."""

    def __init__(self, pc: RTCPeerConnection) -> None:
        self.reliable: RTCDataChannel = pc.createDataChannel("rtcfoci", negotiated=True, id=0)
        self.lossy: RTCDataChannel = pc.createDataChannel(
            "rtcfoci-lossy", negotiated=True, id=1, ordered=False, maxRetransmits=0
        )
        if pc.sctp is None:
            raise EngineError("aiortc made no data transport")
        self.dtls: RTCDtlsTransport = pc.sctp.transport
        self.ice: RTCIceTransport = self.dtls.transport
        self.send_packet = self.ice._send

    def channel(self, reliable: bool) -> RTCDataChannel:
        return self.reliable if reliable else self.lossy

    @property
    def totals(self) -> RTCTransportStats:
        return cast("RTCTransportStats", next(iter(self.dtls._get_stats().values())))


async def swallow(data: bytes) -> None:
    """Take a packet that goes nowhere."""


def limit_gathering(ice: aioice.Connection, options: SessionOptions) -> None:
    """Bound how long this one connection gathers, and on loopback from which address."""
    gather = ice.get_component_candidates

    def limited(
        component: int, addresses: list[str], timeout: int = 5
    ) -> Awaitable[list[aioice.Candidate]]:
        mine = ["127.0.0.1"] if options.loopback else addresses
        return gather(component, mine, cast("int", options.gather_timeout_s))

    ice.get_component_candidates = limited  # type: ignore[method-assign,assignment]
