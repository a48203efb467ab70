"""Which STUN and TURN servers to use: the configured ones, else the homeserver's, else none.

In: asking, keeping them as long as they are valid, refusing addresses that an engine cannot read.
Out: reaching them (the engine).
"""

from __future__ import annotations

import asyncio
import re

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import RtcfociError
from rtcfoci.plugin import Context
from rtcfoci_mesh.config import IceServer, MeshConfig

__all__ = ["IceServers", "read_turn_server"]

_HOST = r"([^?:@/\[\]\s]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?"
_URI = re.compile(rf"stuns?:{_HOST}|turns?:{_HOST}(\?transport=(udp|tcp))?")
_TURN_PATH = "/_matrix/client/v3/voip/turnServer"
_RETRY_S = 60.0
_SOON_S = 5.0
"""The homeserver is not asked more often, however short the life of what it gives."""


class IceServers:
    """The servers of one call; credentials are fetched anew before they end."""

    def __init__(self, context: Context, config: MeshConfig) -> None:
        self._context = context
        self._fixed = config.ice_servers
        if self._fixed is None and config.loopback:
            self._fixed = ()  # no server can reach a loopback address
        self._held: tuple[IceServer, ...] = ()
        self._until_s: float | None = None
        self._asked_s = 0.0
        self._asking = asyncio.Lock()

    def known(self) -> tuple[IceServer, ...] | None:
        """Give the servers if nobody needs to be asked; from any thread."""
        if self._fixed is not None:
            return self._fixed
        if self._until_s is None or self._context.now().s >= self._until_s:
            return None
        return self._held

    def refused(self) -> None:
        """Ask anew when servers are needed next: these credentials are not taken; from any thread."""
        if self._context.now().s >= self._asked_s + _SOON_S:
            self._until_s = None

    async def get(self) -> tuple[IceServer, ...]:
        """Give the servers; without an answer of the homeserver, none."""
        async with self._asking:
            known = self.known()
            if known is not None:
                return known
            try:
                answer = await self._context.homeserver("GET", _TURN_PATH)
                self._held, ttl_s = read_turn_server(answer)
            except RtcfociError as error:
                self._context.log.info("no TURN servers: %s", error.what)
                self._held, ttl_s = (), _RETRY_S
            self._asked_s = self._context.now().s
            self._until_s = self._asked_s + ttl_s
            return self._held


def read_turn_server(answer: JsonObject) -> tuple[tuple[IceServer, ...], float]:
    """Read `/voip/turnServer`: the servers, and for how long to keep them (half their life)."""
    uris, ttl = answer.get("uris"), answer.get("ttl")
    username, password = answer.get("username"), answer.get("password")
    listed = uris if isinstance(uris, list) else []
    urls = tuple(u for u in listed[:16] if isinstance(u, str) and _URI.fullmatch(u))
    keep_s = ttl / 2 if isinstance(ttl, int | float) and 0 < ttl < 10**7 else _RETRY_S
    if not urls:
        return (), max(keep_s, _RETRY_S)
    return (
        IceServer(
            urls=urls,
            username=username if isinstance(username, str) else None,
            credential=password if isinstance(password, str) else None,
        ),
    ), max(keep_s, _SOON_S)
