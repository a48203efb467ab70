"""Whoever is named by a member cannot lead us into private networks."""

import socket

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from rtcfoci_livekit_auth.discovery import Discovery, split_server_name
from rtcfoci_livekit_auth.guard import Outgoing, Unreachable
from rtcfoci_livekit_auth.openid import OpenId, Unauthorised
from settings_of import settings_of

NAMES = [
    "127.0.0.1",
    "127.0.0.1:8448",
    "10.1.2.3",
    "192.168.0.1:443",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "2130706433",  # decimal
    "0177.0.0.1",  # octal
    "0x7f.0.0.1",  # hexadecimal
    "0x7f000001:8448",
    "127.1",
    "127.0.0.1.",
    "[::1]",
    "[::]",
    "[fd00::1]:8448",
    "[fe80::1]",
    "[fec0::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]:8448",
    "[::127.0.0.1]",
    "[64:ff9b::10.0.0.1]",
    "[2002:7f00:1::]",
    "localhost",
    "localhost:8448",
]
NO_NAMES = [
    "",
    "a b",
    "user@example.org",
    "example.org/path",
    "example.org?x",
    "example.org#x",
    "example.org:port",
    "example.org:0",
    "example.org:99999",
    "\uff11\uff12\uff17.0.0.1",
    "b\u00fccher.example",
    "[::1",
    "::1",
    "[fe80::1%eth0]",
    "a\r\nHost: b",
]


class Names(AbstractResolver):
    """Answers each name with the next of its addresses."""

    def __init__(self, **addresses):
        self.addresses = addresses
        self.asked = []

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked.append(host)
        found = self.addresses[host.partition(".")[0]]
        address = found.pop(0) if len(found) > 1 else found[0]
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self):
        pass


@pytest.fixture
async def way():
    """Give a function that makes the way out, guarded and with names of its own."""
    made = []

    def make(resolver=None, **more):
        outgoing = Outgoing(
            settings_of(RTCFOCI_AUTH_REFUSE_PRIVATE_ADDRESSES="true", **more), resolver=resolver
        )
        made.append(outgoing)
        return outgoing

    yield make
    for outgoing in made:
        await outgoing.aclose()


@pytest.fixture
async def inside():
    """A server inside, which counts who reaches it and redirects where it is told."""
    seen = []

    async def handle(request):
        seen.append(request.path)
        where = "/loop" if request.path == "/loop" else request.query.get("to")
        return web.Response(status=302, headers={"Location": where}) if where else web.Response()

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)
    await site.start()
    yield runner.addresses[0][1], seen
    await runner.cleanup()


@pytest.mark.parametrize("name", NAMES)
async def test_private_servers_are_never_reached(way, name, monkeypatch):
    made = []
    monkeypatch.setattr(socket.socket, "connect", lambda *given: made.append(given))
    monkeypatch.setattr("rtcfoci_livekit_auth.discovery._srv", _no_srv)
    outgoing = way()
    with pytest.raises(Unauthorised) as caught:
        await OpenId(outgoing, Discovery(settings_of(), outgoing)).user_id("token-secret", name)
    assert "token-secret" not in str(caught.value)
    assert made == []


async def _no_srv(_):
    return None


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_server_name_is_refused(name):
    with pytest.raises(Unreachable):
        split_server_name(name)


def test_server_names():
    assert split_server_name("example.org") == ("example.org", None, False)
    assert split_server_name("example.org:1") == ("example.org", 1, False)
    assert split_server_name("1.2.3.4:80") == ("1.2.3.4", 80, True)
    assert split_server_name("[2001:db8::1]:80") == ("2001:db8::1", 80, True)


async def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing(way, inside):
    port, seen = inside
    names = Names(rebinding=["127.0.0.2", "127.0.0.1"])
    outgoing = way(names, RTCFOCI_AUTH_ALLOW_NETWORKS="127.0.0.2")
    url = "http://rebinding.example"
    assert (await outgoing.request("GET", f"{url}:{port}/", trusted=False)).status == 200
    with pytest.raises(Unreachable, match="private"):
        await outgoing.request("GET", f"{url}:{port + 1}/", trusted=False)
    assert names.asked == ["rebinding.example"] * 2
    assert seen == ["/"]


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.example", "2130706433"])
async def test_a_redirect_passes_the_same_rule(way, inside, host):
    port, seen = inside
    outgoing = way(Names(inside=["127.0.0.1"]), RTCFOCI_AUTH_ALLOW_NETWORKS="127.0.0.2")
    url = f"http://127.0.0.2:{port}/?to=http://{host}:{port}/secret"
    assert (await outgoing.request("GET", url, trusted=False)).status == 302
    with pytest.raises(Unreachable, match="nobody listed it"):
        await outgoing.request("GET", url, trusted=False, follow=True)
    assert seen == ["/", "/"]


async def test_redirects_end(way, inside):
    port, seen = inside
    with pytest.raises(Unreachable, match="again and again"):
        await way().request("GET", f"http://127.0.0.1:{port}/loop", trusted=True, follow=True)
    assert len(seen) == 6


async def test_servers_that_the_operator_named_may_be_anywhere(way, inside):
    port, _ = inside
    named = f"127.0.0.1:{port}"
    outgoing = way(LIVEKIT_FULL_ACCESS_HOMESERVERS=f"{named} example.org")
    assert outgoing.trusts(named)
    assert not outgoing.trusts("127.0.0.1:1")
    for more in (
        {"LIVEKIT_CS_API_URL_OVERRIDES": f"{named}=http://x"},
        {"RTCFOCI_AUTH_FEDERATION_URL_OVERRIDES": f"{named}=http://x"},
    ):
        assert way(**more).trusts(named)
    assert not way(LIVEKIT_FULL_ACCESS_HOMESERVERS="*").trusts(named)
    assert Outgoing(settings_of(LIVEKIT_FULL_ACCESS_HOMESERVERS="*")).trusts(named)
    answer = await outgoing.request("GET", f"http://{named}/", trusted=True)
    assert answer.status == 200


async def test_networks_can_be_allowed(way, inside):
    port, _ = inside
    outgoing = way(RTCFOCI_AUTH_ALLOW_NETWORKS="127.0.0.0/8")
    assert (await outgoing.request("GET", f"http://127.0.0.1:{port}/", trusted=False)).status == 200


async def test_an_answer_has_its_bounds(way):
    async def large(_):
        return web.Response(body=b"x" * 70_000)

    app = web.Application()
    app.router.add_get("/", large)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/?token=secret"
    try:
        outgoing = way()
        with pytest.raises(Unreachable, match="larger than 65536") as caught:
            await outgoing.request("GET", url, trusted=True)
        assert "secret" not in str(caught.value)
        whole = await outgoing.request("GET", url, trusted=True, most_bytes=70_000)
        assert len(whole.body) == 70_000
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("url", ["ftp://x/", "http://", "file:///etc/passwd", "http://a:b@x/", "x"])
async def test_only_plain_urls_are_asked(way, url):
    with pytest.raises(Unreachable):
        await way().request("GET", url, trusted=False)
