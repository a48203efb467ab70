"""Where a server is: its federation side and its client side, from nothing but its name.

In: server discovery of the server-server specification (v1.17, section 2.3), client discovery by well-known,
overrides. Out: which addresses may be reached (`guard`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rtcfoci_livekit_auth.bodies import object_of
from rtcfoci_livekit_auth.caching import Remembered
from rtcfoci_livekit_auth.guard import Outgoing, Unreachable
from rtcfoci_livekit_auth.settings import Settings

__all__ = ["Destination", "Discovery", "split_server_name"]

_FEDERATION_PORT = 8448
_MOST_SERVER_BYTES = 50 << 10
_MOST_CLIENT_BYTES = 64 << 10
_CLIENT_S = 4 * 3600.0
_FOUND_S, _FOUND_MOST_S, _ABSENT_S = 600.0, 3600.0, 60.0
"""How long a federation address holds: by itself, at most, and where there is no well-known."""

_NAME = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[0-9A-Za-z.-]{1,230}))(?::(?P<port>[0-9]{1,5}))?"
)
_IPV4 = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_MAX_AGE = re.compile(r"max-age=([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a server's federation side is."""

    url: str
    """Scheme, host and port."""
    host_header: str | None
    """What `Host` must say; None: as the URL."""
    tls_name: str | None
    """The name its certificate must bear; None: as the URL."""


def split_server_name(name: str) -> tuple[str, int | None, bool]:
    """Split into host (IPv6 without brackets), port where one is written, and whether it is an IP address.

    :raises Unreachable: when it is no server name.
    """
    found = _NAME.fullmatch(name)
    if not found or int(found["port"] or 1) not in range(1, 65536):
        raise Unreachable("it is no server name")
    port = int(found["port"]) if found["port"] else None
    if found["v6"]:
        return found["v6"], port, True
    return found["host"], port, _IPV4.fullmatch(found["host"]) is not None


class Discovery:
    """Finds servers and remembers where they are."""

    def __init__(self, settings: Settings, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._client_urls = settings.client_urls
        self._federation: Remembered[Destination] = Remembered(self._find)
        self._client: Remembered[str | None] = Remembered(self._find_client)
        self._fixed = {
            name: Destination(url.rstrip("/"), None, None)
            for name, url in settings.federation_urls.items()
        }

    async def federation(self, server_name: str) -> Destination:
        """Find a server's federation side.

        :raises Unreachable: when the name is none; whether anybody is there shows when it is asked.
        """
        return self._fixed.get(server_name) or await self._federation.get(server_name)

    def known(self, server_name: str) -> Destination | None:
        """Give what is remembered, without waiting."""
        fixed = self._fixed.get(server_name)
        if fixed is not None:
            return fixed
        found = self._federation.known(server_name)
        return found[0] if found else None

    def failed(self, server_name: str) -> None:
        """Look anew next time, since nobody answered there."""
        self._federation.forget(server_name)

    async def client_url(self, server_name: str) -> str | None:
        """Find a server's client-server API; None where its well-known names none."""
        fixed = self._client_urls.get(server_name)
        return fixed.rstrip("/") if fixed else await self._client.get(server_name)

    async def _find(self, server_name: str) -> tuple[Destination, float]:
        host, port, literal = split_server_name(server_name)
        if literal or port is not None:
            return _direct(server_name, host, port), _FOUND_MOST_S
        delegated, holds_s = await self._delegated(host)
        name = delegated or server_name
        host, port, literal = split_server_name(name)
        if literal or port is not None:
            return _direct(name, host, port), holds_s
        for service in ("_matrix-fed._tcp.", "_matrix._tcp."):
            if target := await _srv(service + host):
                return Destination(f"https://{target[0]}:{target[1]}", host, host), holds_s
        return _direct(name, host, _FEDERATION_PORT), holds_s

    async def _delegated(self, host: str) -> tuple[str | None, float]:
        """Read `/.well-known/matrix/server`; anything wrong with it counts as none."""
        trusted = self._outgoing.trusts(host)
        try:
            answer = await self._outgoing.request(
                "GET",
                f"https://{host}/.well-known/matrix/server",
                trusted=trusted,
                most_bytes=_MOST_SERVER_BYTES,
                follow=True,
            )
            delegated = object_of(answer.body).get("m.server")
            if answer.status != 200 or not isinstance(delegated, str):
                return None, _ABSENT_S
            split_server_name(delegated)
        except (Unreachable, ValueError):
            return None, _ABSENT_S
        age = _MAX_AGE.search(answer.headers.get("Cache-Control", ""))
        return delegated, min(float(age[1]) if age else _FOUND_S, _FOUND_MOST_S)

    async def _find_client(self, server_name: str) -> tuple[str | None, float]:
        try:
            split_server_name(server_name)
            answer = await self._outgoing.request(
                "GET",
                f"https://{server_name}/.well-known/matrix/client",
                trusted=self._outgoing.trusts(server_name),
                most_bytes=_MOST_CLIENT_BYTES,
                follow=True,
            )
            homeserver = object_of(answer.body).get("m.homeserver")
        except (Unreachable, ValueError):
            return None, 0.0
        url = homeserver.get("base_url") if isinstance(homeserver, dict) else None
        if answer.status != 200 or not isinstance(url, str) or not url.startswith("http"):
            return None, 0.0
        return url.rstrip("/"), _CLIENT_S


def _direct(name: str, host: str, port: int | None) -> Destination:
    bracketed = f"[{host}]" if ":" in host else host
    return Destination(f"https://{bracketed}:{port or _FEDERATION_PORT}", name, None)


async def _srv(name: str) -> tuple[str, int] | None:
    """Look up the first target of a service; None where there is none."""
    from dns.asyncresolver import Resolver
    from dns.exception import DNSException

    try:
        answer = await Resolver().resolve(name, "SRV", lifetime=5.0)
        records = sorted((r.priority, -r.weight, str(r.target).rstrip("."), r.port) for r in answer)
    except (DNSException, OSError, ValueError):
        return None
    return (records[0][2], records[0][3]) if records and records[0][2] else None
