"""Asks over HTTP and tells the ways to get no answer apart.

In: requests with limits, and the causes of silence in an operator's words. Out: what an answer means.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from rtcfoci_livekit_auth.doctor.verdicts import Verdict, failed

__all__ = ["ORIGIN", "Answer", "NoAnswer", "Web"]

ORIGIN = "https://call.example.org"
"""The page that a browser would ask for; services must let any page ask."""
_MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    text: str = field(repr=False)

    @property
    def json(self) -> object:
        """The body where it is JSON, else None."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @property
    def fields(self) -> dict[str, Any]:
        """The body where it is a JSON object, else nothing."""
        body = self.json
        return body if isinstance(body, dict) else {}

    @property
    def told(self) -> str:
        """The status, and what a Matrix error says."""
        errcode, error = self.fields.get("errcode"), self.fields.get("error")
        words = ": ".join(str(word)[:200] for word in (errcode, error) if word)
        return f"{self.status} {words}".strip()

    @property
    def lets_pages_in(self) -> bool:
        """Whether a browser hands this answer to a page of another origin."""
        return self.headers.get("Access-Control-Allow-Origin") in {"*", ORIGIN}


class NoAnswer(Exception):
    """Nobody answered; carries why, and what to look at."""

    def __init__(self, url: str, cause: str, remedy: str) -> None:
        super().__init__(cause)
        parts = urlsplit(url)
        self.where: str = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.cause = cause
        self.remedy = remedy

    def verdict(self, code: str, who: str) -> Verdict:
        """Say that `who` does not answer."""
        what = f"{who} does not answer at {self.where}"
        return failed(code, what, cause=self.cause, remedy=self.remedy)


class Web:
    """One HTTP session, with limits; an async context manager.

    :param ca_file: certificates to trust beside the system's.
    """

    def __init__(self, *, timeout_s: float = 10.0, ca_file: Path | None = None) -> None:
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context()
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            headers={"Origin": ORIGIN},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session, for a WebSocket."""
        assert self._session is not None, "use it as an async context manager"
        return self._session

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: object = None,
        token: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask, following redirects as a browser does.

        :raises NoAnswer: when there is none.
        """
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        try:
            async with self.session.request(method, url, json=body, headers=sent) as answer:
                read = await answer.content.read(_MAX_BODY_BYTES)
                return Answer(answer.status, answer.headers.copy(), read.decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self.silence(url, error) from None

    def silence(self, url: str, error: Exception) -> NoAnswer:
        """Say why there was no answer."""
        return NoAnswer(url, *_cause(url, error, self._timeout_s))


def _cause(url: str, error: Exception, timeout_s: float) -> tuple[str, str]:
    host = urlsplit(url).hostname or url
    if isinstance(error, TimeoutError):
        return (
            f"nothing came within {timeout_s:g} s",
            "see whether the machine is up and a firewall drops the port",
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return (
            f"its certificate is not accepted: {_certificate_fault(error)}",
            f"give {host} a certificate of a known authority, or name the private one with --ca-file",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return (
            f"the name {host} has no address",
            f"add a DNS record for {host}, or correct the name",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return (
            f"the connection is refused: {error.os_error.strerror or error.os_error}",
            "start the program that should listen there, or correct the port in the proxy",
        )
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return "the URL is not one", "correct the URL"
    return (
        f"the connection broke off ({type(error).__name__})",
        "look into the log of what listens there; a proxy in front may not reach it",
    )


def _certificate_fault(error: Exception) -> str:
    cause: object = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    return str(getattr(cause, "verify_message", "") or cause)[:200]
