"""How well media goes between us and somebody, in figures that every backend gives alike.

In: the shape, units in its names. Out: where the figures come from (each backend), who shows them
(`call.stats`, the command line, `rtcfoci.call.prometheus`).

What a backend does not know is None: never a zero that would look like a measurement. Rates, ratios and
times are of the last seconds; what is counted is counted from the join on, over every connection that
there was. No figure holds an address: the kind of a path is told, not where it leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from rtcfoci.core.model import Member

__all__ = ["ConnectionStats", "Extras", "PairStats", "PathStats"]

Extras: TypeAlias = Mapping[str, float | str]
"""Figures that only one backend has, units in their names; for people, not for comparing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStats:
    """Which way packets take, in the words of ICE."""

    local: str
    """Our candidate: `host`, `srflx`, `prflx` or `relay`."""
    remote: str
    """The other side's candidate."""
    protocol: str = "udp"
    """`udp` or `tcp`; on a relayed path, that between us and the relay."""

    @property
    def relayed(self) -> bool:
        """Whether a TURN server forwards the packets, ours or the other side's."""
        return "relay" in (self.local, self.remote)

    def __str__(self) -> str:
        ends = self.local if self.local == self.remote else f"{self.local}-{self.remote}"
        return f"{ends} {self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStats:
    """The figures between us and a member, or between us and the focus's server.

    A mesh knows all of them for every member. With a server between, round trip, path and what is sent
    belong to the pair with the server (`member` None); what is received is told for each member.
    """

    member: Member | None
    """The other side; None: the focus's own server."""
    state: str
    """`connected`, or what is being done about it, in the backend's words."""
    connect_time_s: float | None = None
    """How long the newest connection took, from its first step until media could flow."""
    rebuilt: int | None = None
    """How many connections came after the first."""
    rtt_ms: float | None = None
    """There and back."""
    jitter_ms: float | None = None
    """Of what we receive (RFC 3550, 6.4.1); the worst of its streams."""
    loss_received_ratio: float | None = None
    """Of the media packets meant for us, how many were lost: 0 to 1. Those sent again count as lost, too."""
    loss_sent_ratio: float | None = None
    """Of our media packets, how many the other side reports as missing: 0 to 1."""
    bitrate_received_bps: float | None = None
    """Bits a second, everything on the transport."""
    bitrate_sent_bps: float | None = None
    bytes_received: int | None = None
    bytes_sent: int | None = None
    packets_received: int | None = None
    """Media packets."""
    packets_sent: int | None = None
    packets_received_lost: int | None = None
    packets_sent_lost: int | None = None
    frames_received: int | None = None
    """Audio frames and pictures handed out, concealed ones included."""
    frames_concealed: int | None = None
    """Those of them that were made up for what was lost."""
    path: PathStats | None = None
    audio_codec: str | None = None
    """Such as `opus`."""
    video_codec: str | None = None
    """Such as `VP8`."""
    extras: Extras = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStats:
    """The figures of one connection to a focus."""

    pairs: tuple[PairStats, ...] = ()
    """At most one for each member, and one for the server."""
    extras: Extras = field(default_factory=dict)
