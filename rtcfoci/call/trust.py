"""The trust policy: which URLs a backend may open, and the HTTP and WebSocket that obey it.

In: checking URLs and resolved addresses, size and time limits, no redirects.
Out: what the URLs are for. ICE candidates are exempt: docs/explanation/trust.md says what they reveal.

Trusted: what stands in our configuration or comes from our homeserver, and what a backend marks as
following from those. Everything else may have been named by a member, and must not reach a private
network on our behalf unless `TrustPolicy.allow` lists that network.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from rtcfoci.core.addresses import Network, is_misshapen, permits
from rtcfoci.core.model import JsonObject
from rtcfoci.errors import BackendError
from rtcfoci.plugin.context import HttpResponse

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

__all__ = ["TrustPolicy", "TrustedHttp", "origins_in"]

_MAX_BODY_BYTES = 1 << 20
_MAX_MESSAGE_BYTES = 1 << 20
_GOODBYE_S = 0.5
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """What member-supplied URLs may reach."""

    allow: tuple[Network, ...] = ()
    """Private networks that members may name all the same, such as those of an intranet call."""
    max_foci: int = 16
    """Remote foci connected at once."""
    max_new_foci_per_sender: int = 2
    """Remote foci that one sender may make us open."""

    def permits(self, address: str) -> bool:
        """Whether an untrusted URL may lead to this IP address."""
        return permits(address, self.allow)


def origins_in(values: Iterable[object]) -> frozenset[tuple[str, int]]:
    """Collect (host, port) of every URL found anywhere in JSON-like values."""
    found: set[tuple[str, int]] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            if "://" in value:
                try:
                    found.add(_origin(urlsplit(value)))
                except ValueError:
                    continue
        elif isinstance(value, Mapping):
            todo.extend(value.values())
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            todo.extend(value)
    return frozenset(found)


def _origin(parts: SplitResult) -> tuple[str, int]:
    return (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


@dataclass(slots=True)
class TrustedHttp:
    """HTTP and WebSocket for backends; sessions open lazily and close with the call.

    :param known: origins of configuration and homeserver, which need no check.
    """

    policy: TrustPolicy
    known: frozenset[tuple[str, int]] = frozenset()
    _sessions: dict[bool, aiohttp.ClientSession] = field(default_factory=dict)

    def check_url(self, url: str, *, trusted: bool = False) -> bool:
        """Pass, saying whether the URL is trusted, or raise `BackendError`."""
        try:
            parts = urlsplit(url)
            origin = _origin(parts)
        except ValueError as error:
            raise _refused(url, str(error)) from None
        if parts.scheme not in _DEFAULT_PORTS or not origin[0]:
            raise _refused(url, "it is not an http, https, ws or wss URL with a host")
        if parts.username or parts.password:
            raise _refused(url, "it carries credentials")
        if trusted or origin in self.known:
            return True
        try:
            permitted = self.policy.permits(origin[0])
        except ValueError:
            if is_misshapen(origin[0]):
                raise _refused(url, f"{origin[0]} is neither an address nor a name") from None
            return False  # a name: its addresses are checked when it is resolved
        if not permitted:
            raise _refused(url, f"{origin[0]} is a private address and a member named it")
        return False

    async def http(
        self,
        method: str,
        url: str,
        *,
        body: JsonObject | None = None,
        timeout_s: float = 10.0,
        trusted: bool = False,
    ) -> HttpResponse:
        """Send one request; redirects are not followed, larger answers than 1 MiB are refused."""
        import aiohttp

        session = self._session(self.check_url(url, trusted=trusted))
        try:
            async with session.request(
                method,
                url,
                json=None if body is None else dict(body),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                data = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    data += chunk
                    if len(data) > _MAX_BODY_BYTES:
                        raise _refused(url, f"its answer is larger than {_MAX_BODY_BYTES} bytes")
                return HttpResponse(response.status, dict(response.headers), bytes(data))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(url, error) from None

    async def websocket(
        self, url: str, *, timeout_s: float = 10.0, trusted: bool = False
    ) -> _WebSocket:
        """Open a WebSocket; messages larger than 1 MiB close it."""
        import asyncio

        import aiohttp

        session = self._session(self.check_url(url, trusted=trusted))
        try:
            async with asyncio.timeout(timeout_s):
                socket_ = await session.ws_connect(
                    url, max_msg_size=_MAX_MESSAGE_BYTES, heartbeat=10.0
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(url, error) from None
        return _WebSocket(socket_, url)

    async def aclose(self) -> None:
        """Close the sessions; idempotent."""
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()

    def _session(self, trusted: bool) -> aiohttp.ClientSession:
        import aiohttp

        if trusted not in self._sessions:
            resolver = None if trusted else _checking_resolver(self.policy)
            self._sessions[trusted] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver), trace_configs=[_no_redirects()]
            )
        return self._sessions[trusted]


class _WebSocket:
    def __init__(self, socket_: aiohttp.ClientWebSocketResponse, url: str) -> None:
        self._socket = socket_
        self._url = url

    async def send(self, message: str | bytes) -> None:
        try:
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)
        except (ConnectionError, RuntimeError) as error:
            raise _failed(self._url, error) from None

    async def receive(self) -> str | bytes:
        import aiohttp

        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            text: str = message.data
            return text
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        raise BackendError(
            f"the WebSocket to {_bare(self._url)} is closed",
            why=f"close code {self._socket.close_code}",
            do="connect again",
            retryable=True,
        )

    async def aclose(self) -> None:
        import asyncio

        # Bounded, since a frozen server never says good-bye; cut off, aiohttp drops the connection.
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._socket.close()


def _checking_resolver(policy: TrustPolicy) -> aiohttp.abc.AbstractResolver:
    from aiohttp.resolver import ThreadedResolver

    class Resolver(ThreadedResolver):
        """Refuses names that lead to addresses the policy forbids, so that rebinding cannot help."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            results = await super().resolve(host, port, family)
            permitted = [r for r in results if policy.permits(r["host"])]
            if not permitted:
                raise OSError(f"{host} leads to private addresses and a member named it")
            return permitted

    resolver: aiohttp.abc.AbstractResolver = Resolver()
    return resolver


def _no_redirects() -> aiohttp.TraceConfig:
    """Refuse redirects where aiohttp has no option for it: when a WebSocket is opened."""
    import aiohttp

    async def refuse(_: object, __: object, about: aiohttp.TraceRequestRedirectParams) -> None:
        about.response.close()
        raise _refused(str(about.url), "it redirects elsewhere")

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(refuse)
    return config


def _bare(url: str) -> str:
    """Leave out credentials, query and fragment: secrets travel there."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a malformed URL"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[:200]


def _refused(url: str, why: str) -> BackendError:
    return BackendError(
        "a URL was refused by the trust policy",
        why=f"{_bare(url)}: {why}",
        do="if this address is meant to be reached, list its network in trust.allow",
    )


def _failed(url: str, error: Exception) -> BackendError:
    return BackendError(
        f"{_bare(url)} could not be reached",
        why=str(error) or type(error).__name__,
        do="check that the server runs and can be reached from here",
        retryable=True,
    )
