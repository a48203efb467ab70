"""Who somebody is: an OpenID token of a homeserver becomes the user id it stands for.

In: the look-up (server-server specification v1.17, `openid/userinfo`), and the rule that a server speaks for
its own users alone. Out: where servers are (`discovery`), what the user may do.
"""

from __future__ import annotations

import asyncio
import logging
import re
from urllib.parse import quote

import aiohttp
from yarl import URL

from rtcfoci_livekit_auth.bodies import object_of
from rtcfoci_livekit_auth.discovery import Destination, Discovery
from rtcfoci_livekit_auth.guard import Outgoing, Unreachable

__all__ = ["OpenId", "Unauthorised"]

_LOG = logging.getLogger(__name__)
_PATH = "/_matrix/federation/v1/openid/userinfo?access_token="
_MOST_BYTES = 64 << 10
_PAUSE_S = 0.25
_USER_ID = re.compile(r"@[^:]*:(.+)", re.DOTALL)


class Unauthorised(Exception):
    """Nobody knows who the user is; says why, for the log alone."""


class _Unavailable(Exception):
    """The server could not say; the same question may have an answer soon."""


class OpenId:
    """Looks up tokens.

    :param tries: how often a server that cannot say is asked; one that says no is asked once.
    """

    def __init__(self, outgoing: Outgoing, discovery: Discovery, *, tries: int = 1) -> None:
        self._outgoing = outgoing
        self._discovery = discovery
        self._tries = tries
        self.lookups: dict[str, int] = {"accepted": 0, "refused": 0, "unavailable": 0}
        """How many tokens were looked up, by what came of it."""

    async def user_id(self, access_token: str, server_name: str) -> str:
        """Give the user whom a token stands for.

        :raises Unauthorised: when that cannot be said, for whatever reason.
        """
        for left in reversed(range(self._tries)):
            try:
                user_id = await self._ask(access_token, server_name)
            except Unauthorised:
                self.lookups["refused"] += 1
                raise
            except _Unavailable as error:
                if not left:
                    self.lookups["unavailable"] += 1
                    raise Unauthorised(f"{server_name}: {error}") from None
                await asyncio.sleep(_PAUSE_S)
            else:
                self.lookups["accepted"] += 1
                return user_id
        raise AssertionError("unreachable")

    async def _ask(self, access_token: str, server_name: str) -> str:
        try:
            destination = self._discovery.known(server_name)
            if destination is None:
                destination = await self._discovery.federation(server_name)
            status, body = await self._get(destination, access_token, server_name)
        except Unreachable as error:
            raise Unauthorised(f"{server_name}: {error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._discovery.failed(server_name)
            raise _Unavailable(_said(error)) from None
        if status >= 500:
            raise _Unavailable(f"HTTP {status}")
        if status != 200:
            raise Unauthorised(f"{server_name}: HTTP {status}")
        try:
            subject = object_of(body).get("sub")
        except ValueError:
            raise Unauthorised(f"{server_name}: the answer is not JSON") from None
        found = _USER_ID.fullmatch(subject) if isinstance(subject, str) else None
        if found is None or found[1] != server_name or not isinstance(subject, str):
            raise Unauthorised(f"{server_name} vouches for a user who is not its own")
        return subject

    async def _get(
        self, destination: Destination, access_token: str, server_name: str
    ) -> tuple[int, bytes]:
        url = URL(destination.url + _PATH + quote(access_token, safe=""), encoded=True)
        trusted = self._outgoing.trusts(server_name)
        if not trusted:
            self._outgoing.check_host(url.raw_host or "", trusted=False)
        host = destination.host_header
        async with self._outgoing.session(trusted=trusted).get(
            url,
            headers=None if host is None else {"Host": host},
            server_hostname=destination.tls_name,
            allow_redirects=False,
        ) as response:
            body = await response.content.read(_MOST_BYTES)
            while not response.content.at_eof() and len(body) < _MOST_BYTES:
                body += await response.content.read(_MOST_BYTES - len(body))
            return response.status, body


def _said(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or type(error.os_error).__name__}"
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
