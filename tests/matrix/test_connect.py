"""Finding the homeserver, and the bottom layer over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from rtcfoci.errors import ClientError, UnreachableError, UsageError
from rtcfoci.matrix.connect import connect, resolve_homeserver
from rtcfoci.matrix.http import AiohttpRequester, Response

VERSIONS = "/_matrix/client/versions"
WELL_KNOWN = "/.well-known/matrix/client"
MATRIX = Response(200, {}, {"versions": ["v1.11"]})


def hosts(answers):
    """A world of hosts: (origin, path) to an answer; what is missing is 404, hosts not named are silent."""
    closed = []

    class Bottom:
        def __init__(self, url):
            self.url = url

        async def request(self, method, path, query, body, token, *, timeout_s):
            if not any(url == self.url for url, _ in answers):
                raise UnreachableError(f"The homeserver {self.url} cannot be reached.")
            return answers.get((self.url, path), Response(404, {}, {"errcode": "M_UNRECOGNIZED"}))

        async def aclose(self):
            closed.append(self.url)

    return Bottom


def points_to(url):
    return Response(200, {}, {"m.homeserver": {"base_url": url}})


@pytest.mark.parametrize(
    ("given", "answers", "found"),
    [
        ("https://hs.org/", {("https://hs.org", VERSIONS): MATRIX}, "https://hs.org"),
        (
            "org.org",
            {
                ("https://org.org", WELL_KNOWN): points_to("https://hs.org/"),
                ("https://hs.org", VERSIONS): MATRIX,
            },
            "https://hs.org",
        ),
        # A server name given as a URL, which is a website.
        (
            "https://org.org",
            {
                ("https://org.org", WELL_KNOWN): points_to("https://hs.org"),
                ("https://hs.org", VERSIONS): MATRIX,
            },
            "https://hs.org",
        ),
        ("hs.org:8448", {("https://hs.org:8448", VERSIONS): MATRIX}, "https://hs.org:8448"),
        (
            "http://127.0.0.1:1/path",
            {("http://127.0.0.1:1/path", VERSIONS): MATRIX},
            "http://127.0.0.1:1/path",
        ),
    ],
)
async def test_it_is_found(given, answers, found):
    assert await resolve_homeserver(given, requester=hosts(answers)) == found


@pytest.mark.parametrize(
    ("given", "answers", "kind", "words"),
    [
        ("https://hs.org", {}, UnreachableError, "https://hs.org"),
        ("hs.org", {}, UnreachableError, "https://hs.org"),
        ("org.org", {("https://org.org", "/"): MATRIX}, ClientError, "not as a homeserver"),
        (
            "org.org",
            {
                ("https://org.org", WELL_KNOWN): points_to("https://other.org"),
                ("https://other.org", "/"): MATRIX,
            },
            ClientError,
            "sends clients there",
        ),
        (
            "org.org",
            {("https://org.org", WELL_KNOWN): Response(200, {}, {"m.homeserver": {"base_url": 5}})},
            ClientError,
            "not as a homeserver",
        ),
        (
            "https://hs.org",
            {("https://hs.org", VERSIONS): Response(502, {}, {})},
            UnreachableError,
            "502",
        ),
        (
            "https://hs.org",
            {("https://hs.org", VERSIONS): Response(200, {}, [])},
            ClientError,
            "not as",
        ),
        ("ftp://hs.org", {}, ClientError, "neither a server name"),
        ("http://[", {}, ClientError, "neither a server name"),
        ("hs.org:port", {}, ClientError, "neither a server name"),
        (
            "org.org",
            {("https://org.org", WELL_KNOWN): points_to("https://[")},
            ClientError,
            "not as",
        ),
        ("", {}, ClientError, "neither a server name"),
    ],
)
async def test_what_is_wrong_is_said(given, answers, kind, words):
    with pytest.raises(kind) as error:
        await resolve_homeserver(given, requester=hosts(answers))
    assert words in str(error.value)
    assert type(error.value) is kind


@pytest.mark.parametrize("answer", [{}, {"user_id": 5}, {"user_id": "@a:b"}])
async def test_a_token_without_a_device_is_refused(answer, tmp_path):
    world = hosts(
        {
            ("https://hs.org", VERSIONS): MATRIX,
            ("https://hs.org", "/_matrix/client/v3/account/whoami"): Response(200, {}, answer),
        }
    )
    with pytest.raises(ClientError):
        await connect("https://hs.org", token="secret", device_store=tmp_path, requester=world)
    # The store is free again.
    with pytest.raises(UsageError, match="no login"):
        await connect("https://hs.org", device_store=tmp_path, requester=world)


async def serve(answer):
    """Answer every connection with these bytes; None hangs up, an empty answer never comes."""
    requests = []

    async def handle(reader, writer):
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        try:
            if answer == b"":
                await reader.read()
            elif answer is not None:
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


def http(status, body, *headers):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, ""),
        (b"", "no answer within 0.3 s"),
        (b"SSH-2.0-OpenSSH_9\r\n", ""),
        (http(200, b"<html>"), "not JSON"),
        (http(200, b"5"), "not JSON"),
        (http(200, b"[" * 100_000), "not JSON"),
        (http(200, b"{}")[:-1], ""),
        (b"HTTP/1.1 two hundred\r\n\r\n", "the answer is not HTTP"),
    ],
)
async def test_whatever_answers_maps_to_unreachable(answer, why):
    server, url, _ = await serve(answer)
    async with server, AiohttpRequester(url) as bottom:
        with pytest.raises(UnreachableError) as error:
            await bottom.request("GET", "/syd_secret", {}, None, "syt_secret", timeout_s=0.3)
    assert why in error.value.why
    assert url in error.value.what
    told = str(error.value) + repr(error.value.__cause__)
    assert "syt_secret" not in told
    assert "syd_secret" not in told
    assert error.value.__context__ is None or error.value.__suppress_context__


async def test_an_answer_is_passed_on_and_redirects_are_not_followed():
    body = json.dumps({"errcode": "M_LIMIT_EXCEEDED"}).encode()
    for raw, expected in (
        (http(429, body, "Retry-After: 3"), (429, {"errcode": "M_LIMIT_EXCEEDED"})),
        (http(302, b"", "Location: http://127.0.0.1:1/"), (302, {})),
        (http(502, b"<html>"), (502, {})),
        (http(200, b""), (200, {})),
        (http(200, b"[1]"), (200, [1])),
    ):
        server, url, requests = await serve(raw)
        async with server, AiohttpRequester(url + "/") as bottom:
            path = "/_matrix/client/v3/rooms/%21r%2F1/state/x/%23?"
            answer = await bottom.request(
                "PUT", path[:-1], {"a b": "c&d"}, {"n": 1}, "tok", timeout_s=5
            )
            await bottom.aclose()
        assert (answer.status, answer.body) == expected
        head = requests[0]
        assert head.startswith(
            "PUT /_matrix/client/v3/rooms/%21r%2F1/state/x/%23?a+b=c%26d HTTP/1.1"
        )
        assert "authorization: bearer tok" in head.lower()
        if answer.status == 429:
            assert answer.headers["retry-after"] == "3"


@pytest.mark.parametrize("size", [1, 300_000])
async def test_what_somebody_nests_too_deep_does_not_take_the_rest_with_it(size):
    # 20,000 levels are more than any Python reads; a to-device message of 64 KiB can hold them.
    deep = b'{"a":' * 10_000 + b"[" * 10_000 + b"]" * 10_000 + b"}" * 10_000
    raw = b'{"s":"\\"]]}}[","deep":[1,%b,2],"n":[[3]],"rest":"%b"}' % (deep, b"x" * size)
    server, url, _ = await serve(http(200, raw))
    async with server, AiohttpRequester(url) as bottom:
        answer = await bottom.request("GET", "/x", {}, None, None, timeout_s=5)
    assert (answer.body["s"], answer.body["n"], len(answer.body["rest"])) == (
        '"]]}}[',
        [[3]],
        size,
    )
    assert answer.body["deep"][::2] == [1, 2]


async def test_a_string_without_an_end_behind_deep_nesting_costs_no_more_than_its_length():
    raw = b"[" * 5000 + b'"' + b'\\"' * 300_000  # tried from every quote on, it would take minutes
    server, url, _ = await serve(http(200, raw))
    async with server, AiohttpRequester(url) as bottom:
        with pytest.raises(UnreachableError, match="not JSON"):
            await bottom.request("GET", "/x", {}, None, None, timeout_s=5)


async def test_an_address_that_is_none_is_said():
    async with AiohttpRequester("http://[") as bottom:
        with pytest.raises(UnreachableError, match="cannot be reached"):
            await bottom.request("GET", "/", {}, None, None, timeout_s=1)
