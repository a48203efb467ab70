"""The bottom of the Matrix side: one HTTP request in, one decoded answer out.

In: the `Requester` protocol, its answer, and its implementation over aiohttp.
Out: what a request means (`cs`), which server to ask (`connect`), and the homeserver that exists only in
memory, which answers the same call (`rtcfoci.testing.homeserver`).
"""

from __future__ import annotations

import asyncio
import json
import re
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

MAX_DEPTH = 200
"""What is nested deeper becomes null, where Python's own reader gives up."""

_RUN = re.compile(
    r"""(?: [^][{}"]++ | "(?:[^"\\]++|\\.?)*+(?:"|\Z) | \[\] | \{\} )*+ (?: ([\[{]++) | ([\]}]++) | \Z )""",
    re.DOTALL | re.VERBOSE,
)
"""What changes no depth, and then brackets of one direction. It fits everywhere, a string without end
included: where it did not, it would be tried from every character on.
"""


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
                raw = bytearray()
                while not answer.content.at_eof() and len(raw) <= MAX_BODY_BYTES:
                    raw += await answer.content.readany()
                status, names = answer.status, answer.headers
        except TimeoutError:
            raise self._unreachable(f"no answer within {timeout_s:g} s") from None
        except aiohttp.ClientResponseError as error:
            # Its own words hold the path, and a path can hold a delay id.
            words = " ".join(error.message.split())
            raise self._unreachable(f"the answer is not HTTP ({words[:100]})") from None
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


async def _decode(raw: bytearray) -> dict[str, object] | list[object] | None:
    """Decode; large ones on a thread, so that they do not hold up the loop (and media)."""
    try:
        if len(raw) > 200_000:
            value = await asyncio.to_thread(_loads, raw)
        else:
            value = _loads(raw or b"{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _loads(raw: bytes | bytearray) -> object:
    # A homeserver passes on what others nest and count: one message must not take the whole sync with it.
    try:
        return json.loads(raw)
    except RecursionError:
        return json.loads(_flattened(raw.decode(errors="replace")), parse_int=_integer)
    except ValueError:
        return json.loads(raw, parse_int=_integer)


def _integer(digits: str) -> int | float:
    # Python refuses to read an integer of thousands of digits; no number of Matrix is beyond 2^53.
    return int(digits) if len(digits) < 1000 else float(digits)


def _flattened(text: str) -> str:
    """Put null in the place of what is nested too deep."""
    kept: list[str] = []
    depth = begin = 0
    for run in _RUN.finditer(text):
        opens = run.lastindex == 1
        start, end = run.span(1 if opens else 2)
        before, depth = depth, depth + (end - start if opens else start - end)
        if before <= MAX_DEPTH < depth:
            kept += (text[begin : start + MAX_DEPTH - before], "null")
        elif depth <= MAX_DEPTH < before:
            begin = start + before - MAX_DEPTH
    return "".join([*kept, text[begin:] if depth <= MAX_DEPTH else ""])
