"""The way out: requests to other servers, and which of them members may make us reach.

In: `Outgoing`, the sessions and the rule for addresses, which every redirect has to pass again. Out: where
a server is (`discovery`), what it is asked.

A server that the operator named may be anywhere. Any other was named by whoever wants a token; under
`refuse_private_addresses` it must have public addresses, judged when the connection is made, so that a name
that leads elsewhere the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from multidict import CIMultiDictProxy
from yarl import URL

from rtcfoci.core.addresses import is_misshapen, permits
from rtcfoci_livekit_auth.environment import Network
from rtcfoci_livekit_auth.settings import Settings

__all__ = ["Answered", "Outgoing", "Unreachable"]

CONNECT_S = 5.0
TOTAL_S = 30.0
_IDLE_S = 45.0
_CONNECTIONS_PER_HOST = 128
_NAMES_S = 60
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Unreachable(Exception):
    """A server gave no usable answer; says why, without the query, where tokens travel."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer over HTTP."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes = field(repr=False)


class _Resolver(AbstractResolver):
    """Resolves names to what may be reached, and to nothing where that is nothing."""

    def __init__(self, inner: AbstractResolver, allow: tuple[Network, ...]) -> None:
        self._inner = inner
        self._allow = allow

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        permitted = [one for one in found if permits(one["host"], self._allow)]
        if not permitted:
            raise OSError(f"{host} leads to private addresses, and nobody listed it")
        return permitted

    async def close(self) -> None:
        await self._inner.close()


class Outgoing:
    """Requests to homeservers: one session for those that the operator named, one for all others.

    :param resolver: looks up names, before their addresses are judged; for tests.
    """

    def __init__(self, settings: Settings, *, resolver: AbstractResolver | None = None) -> None:
        named = settings.full_access | set(settings.client_urls) | set(settings.federation_urls)
        if settings.appservice is not None:
            named |= {settings.appservice.server_name}
        self._named = named - {"*"}
        self._guarded = settings.policy.refuse_private_addresses
        self._allow = settings.allow_networks
        self._tls = _tls(settings)
        self._resolver = resolver
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def trusts(self, server_name: str) -> bool:
        """Tell whether a server may be anywhere: the operator named it, or addresses are not judged."""
        return not self._guarded or server_name in self._named

    def session(self, *, trusted: bool) -> aiohttp.ClientSession:
        """Give the session for servers of one kind; it opens when first used.

        The caller follows no redirect by itself, and calls `check_host` first where `trusted` is false.
        """
        return self._open("named" if trusted else "guarded")

    def sfu_session(self) -> aiohttp.ClientSession:
        """Give the session for LiveKit servers, which no homeserver can keep busy."""
        return self._open("sfu")

    def check_host(self, host: str, *, trusted: bool) -> None:
        """Pass, or refuse a host of a URL before anything is sent.

        :raises Unreachable: saying why.
        """
        if trusted:
            return
        try:
            if permits(host, self._allow):
                return
        except ValueError:
            if not is_misshapen(host):
                return  # a name: its addresses are judged when it is resolved
        raise Unreachable(f"{host} is no public address, and nobody listed it")

    async def request(
        self,
        method: str,
        url: str,
        *,
        trusted: bool,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        server_hostname: str | None = None,
        timeout_s: float = TOTAL_S,
        most_bytes: int = 1 << 16,
        follow: bool = False,
    ) -> Answered:
        """Ask a server.

        :param server_hostname: the name its certificate must bear, where the URL has another.
        :param follow: whether redirects are followed; each passes the same rule.
        :raises Unreachable: when there is no answer, or a larger one than `most_bytes`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(1 + (_MOST_REDIRECTS if follow else 0)):
                    answer = await self._once(
                        method, url, trusted, headers, data, server_hostname, most_bytes
                    )
                    if not follow or answer.status not in _REDIRECTS:
                        return answer
                    url = urljoin(url, answer.headers.get("Location", ""))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"{_bare(url)}: {_said(error)}") from None
        raise Unreachable(f"{_bare(url)}: it redirects again and again")

    async def aclose(self) -> None:
        """Close the sessions; idempotent."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    def _open(self, purpose: str) -> aiohttp.ClientSession:
        session = self._sessions.get(purpose)
        if session is None:
            inner = self._resolver or ThreadedResolver()
            resolver = _Resolver(inner, self._allow) if purpose == "guarded" else inner
            connector = aiohttp.TCPConnector(
                ssl=self._tls,
                resolver=resolver,
                # No bound over all hosts, lest one that is slow keep others waiting.
                limit=0,
                limit_per_host=_CONNECTIONS_PER_HOST,
                ttl_dns_cache=_NAMES_S,
                keepalive_timeout=_IDLE_S,
            )
            session = self._sessions[purpose] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S),
                # Nothing that is asked for is large; what is compressed could be.
                headers={"User-Agent": "rtcfoci-livekit-auth", "Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        return session

    async def _once(
        self,
        method: str,
        url: str,
        trusted: bool,
        headers: Mapping[str, str] | None,
        data: bytes | None,
        server_hostname: str | None,
        most_bytes: int,
    ) -> Answered:
        target = URL(url, encoded=True)
        if target.scheme not in ("http", "https") or not target.raw_host or target.user:
            raise Unreachable("the URL is not plain http or https with a host")
        if not trusted:
            self.check_host(target.raw_host, trusted=False)
        async with self.session(trusted=trusted).request(
            method,
            target,
            headers=headers,
            data=data,
            server_hostname=server_hostname,
            allow_redirects=False,
        ) as response:
            body = await response.content.read(most_bytes + 1)
            while len(body) <= most_bytes and not response.content.at_eof():
                body += await response.content.read(most_bytes + 1 - len(body))
            if len(body) > most_bytes:
                raise Unreachable(f"{_bare(url)}: its answer is larger than {most_bytes} bytes")
            return Answered(response.status, response.headers, body)


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
    if not settings.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _bare(url: str) -> str:
    """Leave out credentials, query and fragment."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]
    except ValueError:
        return "a malformed URL"


def _said(error: Exception) -> str:
    """Say what went wrong; errors of HTTP parsers quote what they read, which may hold a token."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientSSLError):
        return str(error.os_error) if isinstance(error, aiohttp.ClientOSError) else str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return type(error).__name__
