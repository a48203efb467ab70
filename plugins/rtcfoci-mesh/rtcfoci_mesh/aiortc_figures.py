"""Figures of an aiortc connection, units in their names.

In: what aiortc counts, summed over the tracks of a pair. Out: who shows them (`call.stats`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from aiortc import RTCPeerConnection

from rtcfoci_mesh.aiortc_link import Link

__all__ = ["figures"]


async def figures(pc: RTCPeerConnection, link: Link) -> Mapping[str, float | str]:
    """Sum up the connection's tracks; jitter of one of them."""
    report = list((await pc.getStats()).values())
    transport = link.totals
    sums: Counter[str] = Counter()
    found: dict[str, float | str] = {
        "bytes_received": transport.bytesReceived,
        "bytes_sent": transport.bytesSent,
        "packets_received": transport.packetsReceived,
        "packets_sent": transport.packetsSent,
    }
    for entry in report:
        kind, direction = getattr(entry, "kind", ""), entry.type
        rate_hz = 48_000 if kind == "audio" else 90_000
        if direction == "inbound-rtp":
            sums[f"{kind}_packets_received"] += entry.packetsReceived
            sums[f"{kind}_packets_lost"] += entry.packetsLost
            found[f"{kind}_jitter_ms"] = 1000 * entry.jitter / rate_hz
        elif direction == "outbound-rtp":
            sums[f"{kind}_packets_sent"] += entry.packetsSent
            sums[f"{kind}_bytes_sent"] += entry.bytesSent
        elif direction == "remote-inbound-rtp":
            sums[f"{kind}_remote_packets_lost"] += entry.packetsLost
            if entry.roundTripTime is not None:
                found["rtt_ms"] = 1000 * entry.roundTripTime
    return found | sums
