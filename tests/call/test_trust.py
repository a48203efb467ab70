"""What members name must not lead into private networks, nor cost more than its share."""

import ipaddress

import pytest
from aiohttp import web

from rtcfoci.call.trust import TrustedHttp, TrustPolicy, origins_in
from rtcfoci.errors import BackendError

PRIVATE = [
    "http://127.0.0.1/",
    "http://10.1.2.3/",
    "https://192.168.0.1:8443/x",
    "ws://169.254.169.254/latest",
    "http://[::1]/",
    "http://[fd00::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://0.0.0.0/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[2002:a00:1::]/",
    "http://[fec0::1]/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_refused_unless_known(url):
    http = TrustedHttp(TrustPolicy())
    with pytest.raises(BackendError, match="trust policy") as caught:
        http.check_url(url)
    assert "trust.allow" in caught.value.do
    assert http.check_url(url, trusted=True)
    assert TrustedHttp(TrustPolicy(), origins_in([{"url": url}])).check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http://user:secret@example.org/",
        "http://[::1",
        "http://example.org:99999/",
        "javascript:alert(1)",
        "",
    ],
)
def test_what_is_no_plain_http_url_is_refused(url):
    http = TrustedHttp(TrustPolicy())
    for trusted in (False, True):
        with pytest.raises(BackendError) as caught:
            http.check_url(url, trusted=trusted)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "127.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
    ],
)
def test_what_a_client_may_take_for_an_address_is_refused(host):
    with pytest.raises(BackendError, match="trust policy"):
        TrustedHttp(TrustPolicy()).check_url(f"http://{host}/")


def test_networks_can_be_allowed():
    policy = TrustPolicy(allow=(ipaddress.ip_network("10.0.0.0/8"),))
    assert policy.permits("10.1.2.3")
    assert policy.permits("::ffff:10.1.2.3")
    assert not policy.permits("192.168.0.1")
    assert policy.permits("8.8.8.8")
    assert TrustedHttp(policy).check_url("http://10.1.2.3/") is False


@pytest.fixture
async def server():
    async def big(_):
        return web.Response(body=b"x" * ((1 << 20) + 1))

    reached = []

    async def away(_):
        raise web.HTTPFound("/inner")

    async def inner(_):
        reached.append("inner")
        return web.Response()

    async def fine(request):
        return web.json_response({"got": await request.json() if request.can_read_body else None})

    async def echo(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.data == "close":
                break
            if message.data == "big":
                await socket.send_bytes(b"x" * ((1 << 20) + 1))
            elif isinstance(message.data, str):
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/big", big)
    app.router.add_get("/away", away)
    app.router.add_get("/inner", inner)
    app.router.add_post("/fine", fine)
    app.router.add_get("/ws", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
    assert not reached, "a redirect was followed"


async def test_names_that_lead_to_private_addresses_are_refused(server):
    http = TrustedHttp(TrustPolicy())
    port = server.rpartition(":")[2]
    for host in ("localhost", "0x7f000001", f"{'a' * 70}.test"):
        with pytest.raises(BackendError, match="could not be reached"):
            await http.http("GET", f"http://{host}:{port}/inner")
    await http.aclose()


async def test_trusted_requests_are_bounded(server):
    http = TrustedHttp(TrustPolicy(), origins_in([server]))
    answer = await http.http("POST", f"{server}/fine", body={"a": 1})
    assert (answer.status, answer.body) == (200, b'{"got": {"a": 1}}')
    assert (await http.http("GET", f"{server}/away")).status == 302
    with pytest.raises(BackendError, match="trust policy"):
        await http.http("GET", f"{server}/big")
    with pytest.raises(BackendError, match="could not be reached") as caught:
        await http.http("GET", "http://127.0.0.1:1/?token=secret", trusted=True)
    assert caught.value.retryable
    assert "secret" not in str(caught.value)
    await http.aclose()
    await http.aclose()


async def test_websockets_carry_text_and_bytes_and_say_when_they_close(server):
    http = TrustedHttp(TrustPolicy(), origins_in([server]))
    url = f"{server.replace('http', 'ws')}/ws"
    socket = await http.websocket(url)
    await socket.send("hello")
    assert await socket.receive() == "hello"
    await socket.send(b"\x00\x01")
    assert await socket.receive() == b"\x00\x01"
    await socket.send("big")
    with pytest.raises(BackendError, match="closed"):
        await socket.receive()
    again = await http.websocket(url)
    await again.send("close")
    with pytest.raises(BackendError, match="closed") as caught:
        await again.receive()
    assert caught.value.retryable
    await again.aclose()
    with pytest.raises(BackendError):
        await http.websocket(url.replace("/ws", "/none"))
    with pytest.raises(BackendError, match="trust policy") as caught:
        await http.websocket(url.replace("/ws", "/away"))
    assert "redirects" in caught.value.why
    await http.aclose()
