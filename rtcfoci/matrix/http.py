"""The bottom of the Matrix side: one HTTP request in, one decoded answer out.

In: the `Requester` protocol, its answer, and its implementation over aiohttp.
Out: what a request means (`cs`), which server to ask (`connect`), and the homeserver that exists only in
memory, which answers the same call (`rtcfoci.testing.homeserver`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rtcfoci.errors import UnreachableError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AiohttpRequester", "Requester", "Response"]

MAX_BODY_BYTES = 256 * 1024 * 1024
"""An initial state of the largest public rooms is below 100 MB; more than this is not Matrix."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: object = field(repr=False)
    """The decoded JSON, an object or (a room's state) a list; an empty object when there was none."""


class Requester(Protocol):
    """Sends one request to one homeserver."""

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object | None,
        token: str | None,
        *,
        timeout_s: float,
    ) -> Response:
        """Send and give back the answer, errors of the server included.

        :param path: percent-encoded, starting with `/`.
        :raises UnreachableError: no answer.
        """

    async def aclose(self) -> None:
        """Close connections. Idempotent."""


class AiohttpRequester:
    """Speaks to a real homeserver; the session opens with the first request.

    :param base_url: the homeserver's base URL, without a trailing slash.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url: str = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> AiohttpRequester:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object | None,
        token: str | None,
        *,
        timeout_s: float,
    ) -> Response:
        import aiohttp
        from yarl import URL

        try:
            url = URL(self.base_url + path, encoded=True).update_query(query)
        except ValueError as error:
            raise self._unreachable(f"this is no usable address ({error})") from None
        if self._session is None:
            # The token travels in a header only, so that no URL in a log can hold it.
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.request(
                method,
                url,
                json=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=10),
            ) as answer:
                raw = await answer.content.read(MAX_BODY_BYTES + 1)
                while not answer.content.at_eof() and len(raw) <= MAX_BODY_BYTES:
                    raw += await answer.content.read(MAX_BODY_BYTES + 1 - len(raw))
                status, names = answer.status, answer.headers
        except TimeoutError:
            raise self._unreachable(f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None
        if len(raw) > MAX_BODY_BYTES:
            raise self._unreachable(f"the answer is larger than {MAX_BODY_BYTES} bytes")
        decoded = await _decode(raw)
        if decoded is None and 200 <= status < 300:
            raise self._unreachable("the answer is not JSON")
        return Response(
            status, {k.lower(): v for k, v in names.items()}, {} if decoded is None else decoded
        )

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"The homeserver {self.base_url} cannot be reached.",
            why=why,
            do="Check the address and that the homeserver runs.",
        )


async def _decode(raw: bytes) -> dict[str, object] | list[object] | None:
    """Decode; large ones on a thread, so that they do not hold up the loop (and media)."""
    try:
        if len(raw) > 200_000:
            value = await asyncio.to_thread(json.loads, raw)
        else:
            value = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None
