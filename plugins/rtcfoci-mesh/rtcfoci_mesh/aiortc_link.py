"""The transport of an aiortc connection: ICE, the data channels, and whether its addresses are still ours.

In: the private places of aiortc's transports that the mesh needs. Out: gathering (`aiortc_gather`), words
for what failed (`aiortc_paths`), descriptions and media sections (`aiortc_engine`), figures
(`aiortc_figures`).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiortc import RTCPeerConnection
from aiortc.rtcicetransport import candidate_to_aioice
from aiortc.sdp import candidate_from_sdp

from rtcfoci_mesh.aiortc_gather import Gathering
from rtcfoci_mesh.aiortc_paths import diagnose
from rtcfoci_mesh.engine import Diagnosis, EngineError, SessionOptions

if TYPE_CHECKING:
    import aioice
    from aioice import stun
    from aioice.ice import StunProtocol
    from aiortc import RTCDataChannel
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcicetransport import RTCIceTransport
    from aiortc.stats import RTCTransportStats

__all__ = ["Link", "bound_candidates", "swallow"]

_LOOK_EVERY_S = 0.5
_MAX_CANDIDATES = 32
_MAX_NAMES = 4
_MAX_HEARD = 64
_CANDIDATE = re.compile(r"^a=candidate:(.*)\r?\n", re.MULTILINE)


class _SendPacket(Protocol):
    def __call__(self, data: bytes) -> Coroutine[Any, Any, None]: ...


class Link:
    """The one transport of a connection, and the two data channels on it.

    :param lost: is told, once, when the path has gone in a way that nobody on it can mend.
    """

    def __init__(
        self, pc: RTCPeerConnection, options: SessionOptions, lost: Callable[[str], None]
    ) -> None:
        self.reliable: RTCDataChannel = pc.createDataChannel("rtcfoci", negotiated=True, id=0)
        self.lossy: RTCDataChannel = pc.createDataChannel(
            "rtcfoci-lossy", negotiated=True, id=1, ordered=False, maxRetransmits=0
        )
        if pc.sctp is None:
            raise EngineError("aiortc made no data transport")
        self.dtls: RTCDtlsTransport = pc.sctp.transport
        self.ice: RTCIceTransport = self.dtls.transport
        self.send_packet: _SendPacket = self.ice._send
        self._lost = lost
        self._connection: aioice.Connection = self.ice._connection
        self._gathering = Gathering(self._connection, options, self._relay_lost)
        self._heard: dict[tuple[str, int], None] = {}
        self._local: list[aioice.Candidate] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._take_check = self._connection.request_received
        self._connection.request_received = self._note_check  # type: ignore[method-assign]

    def channel(self, reliable: bool) -> RTCDataChannel:
        return self.reliable if reliable else self.lossy

    @property
    def totals(self) -> RTCTransportStats:
        return cast("RTCTransportStats", next(iter(self.dtls._get_stats().values())))

    def explain(self) -> Diagnosis:
        """Say which path there is, or which were tried."""
        self._local = self._connection._local_candidates or self._local
        return diagnose(self._connection, self._gathering, self._local, self._heard)

    def watch(self) -> None:
        """Look from now on whether the path's address is still ours."""
        self._spawn(self._watch())

    def look_up(self, candidates: list[str]) -> None:
        """Ask the local network for names ending in .local, which hide a browser's addresses."""
        for text in candidates:
            self._spawn(self._look_up(text))

    def stop(self) -> None:
        """End what `watch` and `look_up` began."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, text: str) -> None:
        try:
            candidate = candidate_to_aioice(candidate_from_sdp(text))
            await self._connection.add_remote_candidate(candidate)
        except (OSError, ValueError, AssertionError):
            return  # no multicast here, or no candidate: the others have to do

    async def _watch(self) -> None:
        while (pair := self._connection._nominated.get(1)) is not None:
            base = pair.protocol.transport
            # On the way to a relay it is the address from which we speak to the server.
            inner = getattr(base, "_TurnTransport__inner_protocol", None)
            name = (base if inner is None else inner.transport).get_extra_info("sockname")
            if name and not _is_ours(name[0]):
                self._lost(f"{name[0]} is no longer an address of this machine")
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _relay_lost(self, protocol: StunProtocol, why: str) -> None:
        pair = self._connection._nominated.get(1)
        if pair is not None and pair.protocol is protocol:
            self._lost(why)

    def _note_check(
        self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol
    ) -> None:
        if len(self._heard) < _MAX_HEARD:
            self._heard[addr] = None
        self._take_check(message, addr, protocol)


async def swallow(data: bytes) -> None:
    """Take a packet that goes nowhere."""


def bound_candidates(sdp: str) -> tuple[str, list[str]]:
    """Take out of a description what would make us work or wait too long.

    Give the description with so many candidates at most, and those that are names of the local network:
    they are looked up while the others are tried. There may be as many again for each media section.
    """
    seen: set[str] = set()
    names: list[str] = []

    def judge(found: re.Match[str]) -> str:
        text, parts = found[1].rstrip(), found[1].split()
        if len(parts) > 4 and parts[4].lower().endswith(".local"):
            if text not in names and len(names) < _MAX_NAMES:
                names.append(text)
            return ""
        if len(seen) >= _MAX_CANDIDATES and text not in seen:
            return ""
        seen.add(text)
        return found[0]

    bounded = _CANDIDATE.sub(judge, sdp)
    if names:  # they follow
        bounded = re.sub(r"^a=end-of-candidates\r?\n", "", bounded, flags=re.MULTILINE)
    return bounded, names


def _is_ours(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
