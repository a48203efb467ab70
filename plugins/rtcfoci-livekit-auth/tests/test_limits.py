"""What one client may take."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from rtcfoci_livekit_auth.bodies import Refusal
from rtcfoci_livekit_auth.environment import Environment
from rtcfoci_livekit_auth.limits import Gate, Heads, Rate, client_address, read_body
from settings_of import settings_of


def test_a_minutes_worth_at_once_and_then_one_by_one():
    now = [0.0]
    rate = Rate(60, clock_s=lambda: now[0])
    assert [rate.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert rate.wait_s("a") == pytest.approx(1.0)
    assert rate.wait_s("a") == pytest.approx(1.0)  # who is refused owes nothing more
    assert rate.wait_s("b") == 0.0
    now[0] = 1.0
    assert rate.wait_s("a") == 0.0
    assert rate.wait_s("a") == pytest.approx(1.0)
    now[0] = 3600.0
    assert [rate.wait_s("a") for _ in range(61)].count(0.0) == 60


def test_the_number_of_keys_has_a_bound():
    rate = Rate(1, most=100)
    for key in range(1000):
        rate.wait_s(str(key))
    assert len(rate) == 100


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("1.1.1.1", [], "1.1.1.1"),
        ("1.1.1.1", ["2.2.2.2"], "1.1.1.1"),
        ("10.0.0.1", ["2.2.2.2"], "2.2.2.2"),
        ("10.0.0.1", ["3.3.3.3, 2.2.2.2"], "2.2.2.2"),
        ("10.0.0.1", ["3.3.3.3, 2.2.2.2, 10.0.0.9"], "2.2.2.2"),
        ("10.0.0.1", ["3.3.3.3", "2.2.2.2"], "2.2.2.2"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.7"], "10.0.0.1"),
        ("", [], ""),
        ("2001:db8:0:1::5", [], "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::6", [], "2001:db8:0:1::/64"),
    ],
)
def test_whose_request_it_is(peer, forwarded, address):
    proxies = Environment({"X": "10.0.0.0/8"}).networks("X")
    assert client_address(peer, forwarded, proxies) == address


def test_rates_are_on_where_the_policy_says():
    gate = Gate(settings_of(RTCFOCI_AUTH_RATE_PER_USER="1"))
    for _ in range(5):
        gate.serve("@u:x")
    gate = Gate(
        settings_of(
            RTCFOCI_AUTH_RATE_LIMITS="true",
            RTCFOCI_AUTH_RATE_PER_USER="1",
            RTCFOCI_AUTH_RATE_PER_SERVER="2",
        )
    )
    gate.serve("@u:x")
    with pytest.raises(Refusal) as caught:
        gate.serve("@u:x")
    assert (caught.value.status, caught.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert 0 < caught.value.retry_after_ms <= 60_000
    gate.ask("x")
    gate.ask("x")
    with pytest.raises(Refusal):
        gate.ask("x")


@pytest.fixture
async def reader():
    """A server that reads bodies of at most 1,000 bytes within 0.2 s."""

    async def handle(request):
        try:
            return web.Response(body=await read_body(request, most_bytes=1000, within_s=0.2))
        except Refusal as refusal:
            return web.Response(status=refusal.status)

    app = web.Application(client_max_size=10)
    app.router.add_post("/", handle)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_body_is_read_whole_or_refused(reader):
    for size, status in ((0, 200), (1000, 200), (1001, 413), (900_000, 413)):
        answer = await reader.post("/", data=b"x" * size)
        assert answer.status == status
        if status == 200:
            assert await answer.read() == b"x" * size


async def test_a_body_that_does_not_come_is_not_waited_for(reader):
    async def slowly():
        yield b"x"
        await asyncio.sleep(5)

    answer = await asyncio.wait_for(reader.post("/", data=slowly()), 2)
    assert answer.status == 408


async def test_a_connection_that_never_asks_is_ended(reader):
    server = reader.server.runner.server
    heads = Heads(lambda: server.connections, within_s=1)
    asked, silent = [
        await asyncio.open_connection("127.0.0.1", reader.server.port) for _ in range(2)
    ]
    silent[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    asked[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert b"200" in await asked[0].readline()
    by_port = {one.transport.get_extra_info("peername")[1]: one for one in server.connections}
    request = type("Request", (), {})()
    request.protocol = by_port[asked[1].get_extra_info("sockname")[1]]
    heads.arrived(request)
    heads.sweep()
    assert len(server.connections) == 2
    heads.sweep()
    assert await asyncio.wait_for(silent[0].read(), 2) == b""
    asked[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert b"200" in await asyncio.wait_for(asked[0].readuntil(b"200"), 2)
    for _, writer in (asked, silent):
        writer.close()
