"""Gathering: the addresses at which we can be reached, and why a server gave us none.

In: host addresses, STUN and TURN servers, what they answered. Out: which servers (`ice`), checks of
candidates (`aiortc_paths`).

aiortc knows one STUN and one TURN server, waits five seconds for them and swallows what went wrong. So it
is told of no server, and they are asked here: the best first, the next one when that fails or is slow.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import aioice
from aioice import stun
from aioice.ice import StunProtocol, relayed_candidate, server_reflexive_candidate

from rtcfoci_mesh.engine import SessionOptions

__all__ = ["Gathering", "Server", "read_server"]

_URI = re.compile(
    r"(?P<scheme>stun|turns?):(?P<host>\[[0-9a-fA-F:.]+\]|[^?:\[\]]+)(:(?P<port>\d{1,5}))?"
    r"(\?transport=(?P<transport>udp|tcp))?"
)
_HEAD_START_S = 0.4
"""How long a server has to answer before the next one is asked too."""
_MOST_BYTES = 16 * 1024
"""More than a datagram of WebRTC has on any link."""
_MAX_ADDRESSES = 16
_REFUSED = (401, 403, 441)
"""STUN errors that speak of credentials (RFC 8489 section 14.8, RFC 8656 section 19)."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Server:
    """One way to one server."""

    kind: str
    """`STUN` or `TURN`."""
    host: str
    port: int
    transport: str
    """`udp`, `tcp` or `tls`."""
    username: str | None = field(default=None, repr=False)
    credential: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind} {host}:{self.port} ({self.transport})"


def read_server(
    url: str, username: str | None = None, credential: str | None = None
) -> Server | None:
    """Read a STUN or TURN address (RFC 7064, RFC 7065); None for what we cannot use."""
    match = _URI.fullmatch(url)
    if match is None:
        return None
    secure = match["scheme"] == "turns"
    transport = match["transport"] or ("tcp" if secure else "udp")
    if secure and transport == "udp":
        return None  # DTLS to a TURN server
    port = int(match["port"]) if match["port"] else 5349 if secure else 3478
    host = match["host"].strip("[]")
    if match["scheme"] == "stun":
        return Server("STUN", host, port, "udp")
    return Server("TURN", host, port, "tls" if secure else transport, username, credential)


def _shrink_reads(transport: asyncio.DatagramTransport) -> None:
    """Have a socket read into a buffer of the size of datagrams.

    asyncio takes 256 KiB for each datagram and gives all but its length back, a hundred times a second
    for every member: that tears the heap apart, which then grows by megabytes an hour.
    """
    if hasattr(transport, "max_size"):
        transport.max_size = _MOST_BYTES


class Gathering:
    """What one connection gathers.

    :param lost: is told when a relay that we use is no more.
    """

    def __init__(
        self,
        ice: aioice.Connection,
        options: SessionOptions,
        lost: Callable[[StunProtocol, str], None],
    ) -> None:
        self.failures: dict[Server, str] = {}
        """Servers that gave nothing, and why; no credentials in it."""
        self.refused: bool = False
        """Whether a server did not take our credentials, or takes them no longer."""
        self.untrusted: bool = False
        """Whether a server showed a certificate that this machine does not trust."""
        self.relay_only: bool = options.relay_only
        self._ice = ice
        self._options = options
        self._lost = lost
        found = [
            read_server(url, server.username, server.credential)
            for server in options.ice_servers
            for url in server.urls
        ]
        servers = [server for server in found if server is not None]
        self.turn: list[Server] = sorted(
            (s for s in servers if s.kind == "TURN"),
            key=lambda s: ("udp", "tcp", "tls").index(s.transport),
        )
        self.stun: list[Server] = (
            [] if self.relay_only else [s for s in servers if s.kind == "STUN"]
        )
        self._hosts = ice.get_component_candidates
        ice.get_component_candidates = self._gather  # type: ignore[method-assign]

    async def _gather(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[aioice.Candidate]:
        mine = ["127.0.0.1"] if self._options.loopback else addresses[:_MAX_ADDRESSES]
        candidates = list(await self._hosts(component, mine))
        for protocol in self._ice._protocols:
            _shrink_reads(protocol.transport)
        works = [self._relay(component)] if self.turn else []
        if self.stun:
            works += [
                self._reflexive(protocol)
                for protocol in tuple(self._ice._protocols)
                if ipaddress.ip_address(protocol.local_candidate.host).version == 4
            ]
        tasks = [asyncio.create_task(work) for work in works]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._options.gather_timeout_s)
            for task in late:
                task.cancel()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(found, list):
                    candidates += found
        return candidates

    async def _reflexive(self, protocol: StunProtocol) -> list[aioice.Candidate]:
        async def ask(server: Server) -> aioice.Candidate:
            found, _ = await server_reflexive_candidate(protocol, (server.host, server.port))
            return found

        base = protocol.local_candidate
        found = await _race([self._asked(s, ask(s)) for s in self.stun])
        # One behind no NAT is its own image.
        return [c for c in found if (c.host, c.port) != (base.host, base.port)]

    async def _relay(self, component: int) -> list[aioice.Candidate]:
        async def ask(server: Server) -> tuple[aioice.Candidate, StunProtocol]:
            return await relayed_candidate(
                component=component,
                hide_related_address=self.relay_only,
                protocol_factory=lambda: _Relay(self._ice, lambda p: self._relay_lost(p, server)),
                turn_server=(server.host, server.port),
                turn_username=server.username,
                turn_password=server.credential,
                turn_ssl=server.transport == "tls",
                turn_transport="udp" if server.transport == "udp" else "tcp",
            )

        found = await _race([self._asked(s, ask(s)) for s in self.turn])
        self._ice._protocols += [protocol for _, protocol in found]
        return [candidate for candidate, _ in found]

    def _relay_lost(self, protocol: StunProtocol, server: Server) -> None:
        if not self._ice._closing:
            # Its refresh was refused, or the way to it broke: either way fresh credentials do no harm.
            self.refused = True
            self.failures[server] = "gave our relay up"
            self._lost(protocol, f"{server} gave our relay up")

    async def _asked(self, server: Server, work: Coroutine[object, object, _T]) -> _T | None:
        """Ask one server; what goes wrong is kept for the person who has to mend it."""
        since_s = time.monotonic()
        try:
            answer = await work
        except asyncio.CancelledError:
            self.failures[server] = f"no answer within {time.monotonic() - since_s:.1f} s"
            raise
        except Exception as error:  # whatever aioice and the network raise
            self.failures[server] = self._reason(error)
            return None
        self.failures.pop(server, None)
        return answer

    def _reason(self, error: Exception) -> str:
        match error:
            case stun.TransactionFailed():
                code, words = error.response.attributes.get("ERROR-CODE", (0, "refused"))
                self.refused |= code in _REFUSED
                words = re.sub(r"[^ -~]", "", str(words))[:40]  # the server's own words
                return f"{code} {words}".strip()
            case stun.TransactionTimeout():
                return "no answer"
            case ssl.SSLCertVerificationError():
                self.untrusted = True
                return f"its certificate is not trusted: {error.verify_message}"
            case socket.gaierror():
                return "its name is not known"
            case OSError():
                return error.strerror or type(error).__name__
        return type(error).__name__


class _Relay(StunProtocol):
    """A TURN allocation that says when it is lost."""

    def __init__(self, ice: aioice.Connection, lost: Callable[[StunProtocol], None]) -> None:
        super().__init__(ice)
        self._tell = lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell(self)
        super().connection_lost(exc)


async def _race(works: Sequence[Coroutine[object, object, _T | None]]) -> list[_T]:
    """Start one after the other until one answers; give what was answered by then."""
    running: set[asyncio.Task[_T | None]] = set()
    waiting = list(works)
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(waiting.pop(0)))
            done, running = await asyncio.wait(
                running,
                timeout=_HEAD_START_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            answers = [a for task in done if (a := task.result()) is not None]
            if answers:
                return answers
        return []
    finally:
        for work in waiting:
            work.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
