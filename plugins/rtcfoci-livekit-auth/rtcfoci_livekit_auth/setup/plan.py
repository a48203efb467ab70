"""What an operator decides about a deployment; everything else follows from it.

In: the decisions with their defaults, and the URLs and secrets that follow. Out: how they are written down
(`fragments`).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rtcfoci.errors import UsageError

__all__ = ["PROXIES", "Plan"]

PROXIES = ("nginx", "caddy")
_NAME = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One deployment: a homeserver, LiveKit, this service, and a reverse proxy before them."""

    server_name: str
    """Of the homeserver, as in user ids."""
    homeserver_url: str = ""
    """Public URL of its client-server API; https://SERVER by default."""
    rtc_host: str = ""
    """Public host, with a port if it is not 443, under which service and SFU are reached."""
    proxy: str = "nginx"
    certificate: str = ""
    """Of the reverse proxy, where it needs to be told; Caddy gets its own."""
    certificate_key: str = ""
    node_ip: str = ""
    """Address at which LiveKit is reached for media; by default LiveKit finds its public one."""
    synapse: str = "http://127.0.0.1:8008"
    """Where the proxy and the service reach Synapse."""
    service_bind: str = "127.0.0.1:8080"
    livekit_port: int = 7880
    rtc_tcp_port: int = 7881
    rtc_udp_port: int = 7882
    ca_file: str = ""
    """Certificates of a private authority."""
    redis_url: str = field(default="", repr=False)
    registration_file: str = ""
    """Where Synapse reads the service's registration; empty where the service is no application service."""
    key: str = field(default_factory=lambda: "API" + secrets.token_hex(6))
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(36), repr=False)
    as_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    hs_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def __post_init__(self) -> None:
        _check("server name", self.server_name, _NAME.fullmatch(self.server_name), "example.org")
        _check("host", self.host, _NAME.fullmatch(self.host), "matrix-rtc.example.org")
        _check("proxy", self.proxy, self.proxy in PROXIES, " or ".join(PROXIES))
        for url in (self.public_homeserver, self.synapse):
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and parts.hostname
            _check("URL", url, good, "https://matrix.example.org")

    @property
    def public_homeserver(self) -> str:
        """The public URL of the client-server API."""
        return (self.homeserver_url or f"https://{self.server_name}").rstrip("/")

    @property
    def host(self) -> str:
        """The public host of service and SFU."""
        return self.rtc_host or f"matrix-rtc.{self.server_name}"

    @property
    def service_url(self) -> str:
        """Where clients reach the service."""
        return f"https://{self.host}/livekit/jwt"

    @property
    def sfu_url(self) -> str:
        """Where clients reach LiveKit."""
        return f"wss://{self.host}/livekit/sfu"

    @property
    def one_site(self) -> bool:
        """Whether homeserver and calls share a public host, so that one site serves both."""
        return urlsplit(self.public_homeserver).netloc == self.host


def _check(what: str, value: str, good: object, example: str) -> None:
    if not good:
        raise UsageError(
            f"{value!r} is no {what}", why="it is of another form", do=f"write {example}"
        )
