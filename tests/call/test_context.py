"""What a call gives its backends works from the loops and threads they have."""

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace

import pytest
from aiohttp import web

from rtcfoci.call.context import CallContext
from rtcfoci.call.trust import TrustedHttp, TrustPolicy, origins_in
from rtcfoci.core.model import Member, Slot
from rtcfoci.errors import BackendError


@pytest.fixture
async def echo():
    async def handle(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


@pytest.fixture
async def context(echo):
    host = SimpleNamespace(
        slot=Slot(room_id="!r:hs"),
        member=Member(user_id="@ann:hs", device_id="A", member_id="m"),
        encrypted=False,
        announced=frozenset(),
        counters=Counter(),
        loop=asyncio.get_running_loop(),
    )
    http = TrustedHttp(TrustPolicy(), origins_in([echo]))
    made = CallContext(host, "x", http)
    assert made.log.logger is logging.getLogger("rtcfoci.focus.x")
    yield SimpleNamespace(given=made, counters=host.counters)
    await http.aclose()


async def test_a_websocket_can_be_used_on_the_loop_that_opened_it(echo, context):
    async def talk():
        socket = await context.given.websocket(echo)
        await socket.send("hello")
        heard = await asyncio.wait_for(socket.receive(), 5)
        await socket.aclose()
        with pytest.raises(BackendError):
            await socket.receive()
        return heard

    assert await talk() == "hello"
    assert await asyncio.to_thread(asyncio.run, talk()) == "hello"


async def test_counting_from_many_threads_loses_nothing(context):
    def count():
        for _ in range(2000):
            context.given.count("frames")

    await asyncio.gather(*(asyncio.to_thread(count) for _ in range(8)))
    assert context.counters["x.frames"] == 16_000


async def test_timers_of_other_threads_run_on_the_calls_loop_and_can_be_cancelled(context):
    ran = []

    def note():
        ran.append(asyncio.get_running_loop())

    def arm():
        context.given.call_later(0.05, note)
        context.given.call_later(0.05, note)()

    await asyncio.to_thread(arm)
    await asyncio.sleep(0.3)
    assert ran == [asyncio.get_running_loop()]
