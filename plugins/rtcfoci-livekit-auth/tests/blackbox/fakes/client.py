"""One HTTP request, sent as it stands.

In: any method, path, headers and bytes. Out: redirects, retries and everything else that helps.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from dataclasses import dataclass
from typing import Any

__all__ = ["Reply", "call"]


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> tuple[int, str, str]:
        """Give status, errcode and text of an error that is spelt as all of them are."""
        document = self.json()
        assert set(document) == {"errcode", "error"}, document
        return self.status, document["errcode"], document["error"]


def call(
    method: str,
    url: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 15.0,
) -> Reply:
    """Send one request on a connection of its own; a body that is not bytes or text goes as JSON.

    :raises OSError: no connection, or none any more.
    :raises http.client.HTTPException: no answer.
    """
    parts = urllib.parse.urlsplit(url)
    assert parts.scheme == "http"
    assert parts.hostname is not None
    if body is not None and not isinstance(body, bytes | str):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        target = url.split(parts.netloc, 1)[1] or "/"
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        got = response.read()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, got)
    finally:
        connection.close()
