"""What one client may take: how many requests, how large, how slowly.

In: rates per address, server and user; reading a body within its bounds; ending connections that never
finish a request's head. Out: which endpoint has which bound (`endpoints`), and the bounds (`settings`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from rtcfoci_livekit_auth.bodies import Refusal
from rtcfoci_livekit_auth.environment import Network
from rtcfoci_livekit_auth.settings import Settings

__all__ = ["KEEP_ALIVE_S", "Gate", "Heads", "Rate", "client_address", "read_body"]

Handler = RequestHandler  # aiohttp's name for one connection of a client

KEEP_ALIVE_S = 120.0
"""How long a connection may idle between requests."""


class Rate:
    """So many a minute for each key, a minute's worth at once; bounded.

    :param most: how many keys are followed; the one unused for longest is forgotten.
    """

    def __init__(
        self, per_minute: int, *, most: int = 50_000, clock_s: Callable[[], float] = monotonic
    ) -> None:
        self._step_s = 60.0 / per_minute
        self._most = most
        self._clock_s = clock_s
        self._free_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._free_s)

    def wait_s(self, key: str) -> float:
        """Count one and give 0; or give how long to wait, and count nothing."""
        now_s = self._clock_s()
        free_s = max(self._free_s.get(key, now_s), now_s) + self._step_s
        if free_s - now_s > 60.0 + 1e-6:
            return free_s - now_s - 60.0
        self._free_s[key] = free_s
        self._free_s.move_to_end(key)
        if len(self._free_s) > self._most:
            self._free_s.popitem(last=False)
        return 0.0


class Gate:
    """The rates of a service; open to all where they are off."""

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        self._on = settings.policy.rate_limits
        self._proxies = limits.trusted_proxies
        self._address = Rate(limits.per_address)
        self._server = Rate(limits.per_server)
        self._user = Rate(limits.per_user)
        self.refused: dict[str, int] = {"address": 0, "server": 0, "user": 0}
        """How many were refused, by the rate that they exceeded."""

    def admit(self, request: web.BaseRequest) -> None:
        """Pass, or refuse a client's address.

        :raises Refusal: 429, with the time to wait.
        """
        if self._on:
            address = client_address(
                request.remote or "", request.headers.getall("X-Forwarded-For", ()), self._proxies
            )
            self._pass("address", self._address.wait_s(address))

    def ask(self, server_name: str) -> None:
        """Pass, or refuse to ask a server once more.

        :raises Refusal: 429, with the time to wait.
        """
        if self._on:
            self._pass("server", self._server.wait_s(server_name))

    def serve(self, user_id: str) -> None:
        """Pass, or refuse a user.

        :raises Refusal: 429, with the time to wait.
        """
        if self._on:
            self._pass("user", self._user.wait_s(user_id))

    def _pass(self, rate: str, wait_s: float) -> None:
        if wait_s > 0:
            self.refused[rate] += 1
            wait_ms = math.ceil(wait_s * 1000)
            raise Refusal(429, "M_LIMIT_EXCEEDED", "Too Many Requests", retry_after_ms=wait_ms)


def client_address(peer: str, forwarded: Iterable[str], proxies: tuple[Network, ...]) -> str:
    """Give the address that a request came from: the last one that no proxy of ours vouches for."""
    chain = [peer, *reversed([one.strip() for line in forwarded for one in line.split(",")])]
    for address in chain:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return peer
        if not any(ip in network for network in proxies):
            # A network of this size is what one household gets, so one who has it counts as one.
            return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else address
    return peer


async def read_body(request: web.BaseRequest, *, most_bytes: int, within_s: float) -> bytes:
    """Read a request's body.

    :raises Refusal: when it is larger, or does not arrive in time.
    """
    content = request.content
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within_s):
            while part := await content.readany():
                size += len(part)
                if size > most_bytes:
                    raise Refusal(413, "M_TOO_LARGE", f"The body may have {most_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, "M_UNKNOWN", "The request did not arrive in time") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Heads:
    """Ends connections whose first request's head does not arrive; aiohttp's keep-alive ends later ones.

    :param within_s: how long a head may take; it may take twice that.
    """

    def __init__(self, connections: Callable[[], Iterable[Handler]], *, within_s: float) -> None:
        self._connections = connections
        self._within_s = within_s
        # By id, since connections cannot be referred to weakly; a note that outlived its connection would
        # excuse another one of the same id, so notes end.
        self._heard_s: dict[int, float] = {}
        self._silent: set[int] = set()

    def arrived(self, request: web.BaseRequest) -> None:
        """Note that a connection has sent a whole head."""
        self._heard_s[id(request.protocol)] = monotonic()

    async def watch(self) -> None:
        """Go round until cancelled."""
        while True:
            await asyncio.sleep(self._within_s)
            self.sweep()

    def sweep(self) -> None:
        """End what was silent the last time already."""
        open_now = {id(one): one for one in self._connections()}
        since_s = monotonic() - 2 * KEEP_ALIVE_S
        self._heard_s = {
            key: heard_s
            for key, heard_s in self._heard_s.items()
            if key in open_now and heard_s > since_s
        }
        silent = open_now.keys() - self._heard_s.keys()
        for key in silent & self._silent:
            connection = open_now[key]
            connection.force_close()
            if connection.transport is not None:
                connection.transport.close()
        self._silent = silent
