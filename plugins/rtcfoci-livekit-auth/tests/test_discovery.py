"""Where servers are: well-known, SRV, the port of old, and what is remembered."""

import asyncio

import pytest
from rtcfoci_livekit_auth import discovery
from rtcfoci_livekit_auth.caching import Remembered
from rtcfoci_livekit_auth.discovery import Destination, Discovery
from rtcfoci_livekit_auth.guard import Answered, Unreachable
from settings_of import settings_of


class Web:
    """Stands for the way out: files by URL."""

    def __init__(self, **files):
        self.files = files
        self.asked = []

    def trusts(self, server_name):
        return True

    async def request(self, method, url, **_):
        self.asked.append(url)
        found = self.files.get(url.split("/")[2])
        if found is None:
            raise Unreachable("nobody there")
        return found


def answered(body, *, status=200, **headers):
    return Answered(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def made(monkeypatch, files=None, srv=None, **settings):
    async def no_dns(name):
        return (srv or {}).get(name)

    monkeypatch.setattr(discovery, "_srv", no_dns)
    web = Web()
    web.files = files or {}
    return Discovery(settings_of(**settings), web), web


DELEGATED = [
    (
        b'{"m.server":"hs.example.org"}',
        Destination("https://hs.example.org:8448", "hs.example.org", None),
    ),
    (
        b'{"m.server":"hs.example.org:1"}',
        Destination("https://hs.example.org:1", "hs.example.org:1", None),
    ),
    (b'{"m.server":"1.2.3.4"}', Destination("https://1.2.3.4:8448", "1.2.3.4", None)),
    (b'{"m.server":"[::1]:5"}', Destination("https://[::1]:5", "[::1]:5", None)),
    (b'{"m.server":"a/b"}', Destination("https://example.org:8448", "example.org", None)),
    (b'{"m.server":5}', Destination("https://example.org:8448", "example.org", None)),
    (b"[]", Destination("https://example.org:8448", "example.org", None)),
    (b"[" * 30_000, Destination("https://example.org:8448", "example.org", None)),
]


@pytest.mark.parametrize(("body", "destination"), DELEGATED)
async def test_a_well_known_delegates(monkeypatch, body, destination):
    found, _ = made(monkeypatch, {"example.org": answered(body)})
    assert await found.federation("example.org") == destination


async def test_a_well_known_that_is_not_found_counts_for_nothing(monkeypatch):
    body = b'{"m.server":"hs.example.org"}'
    found, _ = made(monkeypatch, {"example.org": answered(body, status=404)})
    assert (await found.federation("example.org")).url == "https://example.org:8448"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("example.org:5", "https://example.org:5"),
        ("1.2.3.4", "https://1.2.3.4:8448"),
        ("[::1]", "https://[::1]:8448"),
    ],
)
async def test_ports_and_addresses_need_no_discovery(monkeypatch, name, url):
    found, web = made(monkeypatch)
    assert await found.federation(name) == Destination(url, name, None)
    assert web.asked == []


async def test_a_service_record_keeps_the_name_of_the_certificate(monkeypatch):
    srv = {"_matrix._tcp.example.org": ("old.example.net", 5), "_matrix-fed._tcp.b.org": ("new", 6)}
    found, _ = made(monkeypatch, {"a.org": answered(b'{"m.server":"b.org"}')}, srv)
    old = Destination("https://old.example.net:5", "example.org", "example.org")
    assert await found.federation("example.org") == old
    assert await found.federation("a.org") == Destination("https://new:6", "b.org", "b.org")


async def test_an_override_takes_the_place_of_discovery(monkeypatch):
    found, web = made(
        monkeypatch,
        RTCFOCI_AUTH_FEDERATION_URL_OVERRIDES="example.org=http://10.0.0.1:8008/",
        LIVEKIT_CS_API_URL_OVERRIDES="example.org=http://10.0.0.1:8009/",
    )
    assert await found.federation("example.org") == Destination("http://10.0.0.1:8008", None, None)
    assert found.known("example.org").url == "http://10.0.0.1:8008"
    assert await found.client_url("example.org") == "http://10.0.0.1:8009"
    assert web.asked == []


async def test_a_place_is_remembered_until_nobody_is_there(monkeypatch):
    found, web = made(monkeypatch, {"example.org": answered(b'{"m.server":"hs.example.org"}')})
    for _ in range(3):
        await found.federation("example.org")
    assert len(web.asked) == 1
    assert found.known("example.org") is not None
    found.failed("example.org")
    assert found.known("example.org") is None
    await found.federation("example.org")
    assert len(web.asked) == 2


@pytest.mark.parametrize(("control", "again"), [("max-age=0", 2), ("max-age=60", 1), ("no", 1)])
async def test_how_long_is_the_servers_to_say(monkeypatch, control, again):
    body = answered(b'{"m.server":"hs.example.org"}', Cache_Control=control)
    found, web = made(monkeypatch, {"example.org": body})
    for _ in range(2):
        await found.federation("example.org")
    assert len(web.asked) == again


CLIENT = [
    (answered(b'{"m.homeserver":{"base_url":"https://x/"}}'), "https://x"),
    (answered(b'{"m.homeserver":{"base_url":"https://x/"}}', status=404), None),
    (answered(b'{"m.homeserver":{"base_url":"ftp://x/"}}'), None),
    (answered(b'{"m.homeserver":{"base_url":5}}'), None),
    (answered(b'{"m.homeserver":"x"}'), None),
    (answered(b"{"), None),
    (None, None),
]


@pytest.mark.parametrize(("answer", "url"), CLIENT)
async def test_the_client_side_is_what_its_well_known_says(monkeypatch, answer, url):
    found, web = made(monkeypatch, {"example.org": answer})
    for _ in range(2):
        assert await found.client_url("example.org") == url
    assert len(web.asked) == (1 if url else 2)  # only what was found is remembered
    assert await found.client_url("a/b") is None


async def test_many_who_ask_at_once_ask_once():
    asked = []

    async def ask(key):
        asked.append(key)
        await asyncio.sleep(0.01)
        return key * 2, 1.0

    remembered = Remembered(ask, most=2)
    assert await asyncio.gather(*[remembered.get("a") for _ in range(9)]) == ["aa"] * 9
    assert asked == ["a"]
    for key in "bcd":
        await remembered.get(key)
    assert len(remembered) == 2
    assert remembered.known("a") is None


async def test_who_stops_waiting_does_not_stop_the_others():
    async def ask(key):
        await asyncio.sleep(0.02)
        return key, 1.0

    remembered = Remembered(ask)
    first = asyncio.create_task(remembered.get("a"))
    second = asyncio.create_task(remembered.get("a"))
    await asyncio.sleep(0.005)
    first.cancel()
    assert await second == "a"


async def test_a_failure_is_everybodys_and_not_remembered():
    async def ask(key):
        await asyncio.sleep(0)
        raise Unreachable("no")

    remembered = Remembered(ask)
    for _ in range(2):
        outcomes = await asyncio.gather(
            remembered.get("a"), remembered.get("a"), return_exceptions=True
        )
        assert [type(o) for o in outcomes] == [Unreachable, Unreachable]


async def test_what_is_remembered_ends():
    now = [0.0]

    async def ask(key):
        return key, 5.0

    remembered = Remembered(ask, clock_s=lambda: now[0])
    await remembered.get("a")
    assert remembered.known("a") == ("a",)
    now[0] = 5.0
    assert remembered.known("a") is None
