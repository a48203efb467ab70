"""Faults on demand of the in-memory homeserver, in virtual time. What it answers is held against Synapse
in tests/parity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rtcfoci.errors import UnreachableError
from rtcfoci.testing import run
from rtcfoci.testing.accounts import Credentials
from rtcfoci.testing.homeserver import MemoryHomeserver
from rtcfoci.testing.homeserver_devices import DeviceMessage
from rtcfoci.testing.synapse_config import SynapseOptions

V3 = "/_matrix/client/v3"
DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

Story = Callable[[MemoryHomeserver, Credentials, str], Awaitable[None]]


def told(story: Story, *, limits: bool = False, latency_s: float = 0.0) -> None:
    """Run a story with alice and her room, in virtual time."""

    async def main() -> None:
        server = MemoryHomeserver(SynapseOptions(default_rate_limits=limits), latency_s=latency_s)
        alice = await server.register("alice", "password")
        room = await server.create_room(alice.access_token)
        await story(server, alice, room)

    run(main())


async def hold(server: MemoryHomeserver, who: Credentials, room: str, delay_ms: int) -> str:
    path = f"{V3}/rooms/{room}/state/org.example.held/"
    query = {"org.matrix.msc4140.delay": str(delay_ms)}
    answer = await server.request("PUT", path, query, {"left": True}, who.access_token)
    return str(answer.body["delay_id"])  # type: ignore[index]


async def fired(server: MemoryHomeserver, who: Credentials, room: str) -> bool:
    path = f"{V3}/rooms/{room}/state/org.example.held/"
    return (await server.request("GET", path, {}, None, who.access_token)).status == 200


@pytest.mark.parametrize(("down_s", "at_return"), [(5, False), (20, True)])
def test_what_is_overdue_fires_when_the_server_returns(down_s: float, at_return: bool) -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        await hold(server, alice, room, 10_000)
        with server.outage():
            await asyncio.sleep(down_s)
            with pytest.raises(UnreachableError):
                await server.request("GET", "/_matrix/client/versions")
        await asyncio.sleep(0.01)
        assert await fired(server, alice, room) is at_return
        await asyncio.sleep(10)
        assert await fired(server, alice, room)

    told(story)


def test_an_outage_ends_a_waiting_sync() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        loop = asyncio.get_running_loop()
        first = await server.request("GET", f"{V3}/sync", {}, None, alice.access_token)
        query = {"since": str(first.body["next_batch"]), "timeout": "30000"}  # type: ignore[index]
        loop.call_later(3, server.go_down)
        began_s = loop.time()
        with pytest.raises(UnreachableError):
            await server.request("GET", f"{V3}/sync", query, None, alice.access_token)
        assert loop.time() - began_s == pytest.approx(3)

    told(story)


def test_a_request_has_a_timeout_of_its_own() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        first = await server.request("GET", f"{V3}/sync", {}, None, alice.access_token)
        query = {"since": str(first.body["next_batch"]), "timeout": "30000"}  # type: ignore[index]
        with pytest.raises(UnreachableError, match="within 2 s"):
            await server.request("GET", f"{V3}/sync", query, None, alice.access_token, timeout_s=2)

    told(story)


def test_refusals_on_demand() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        server.refuse("GET /_matrix/client/versions", count=2, retry_after_ms=1500)
        answers = [await server.request("GET", "/_matrix/client/versions") for _ in range(3)]
        assert [a.status for a in answers] == [429, 429, 200]
        assert answers[0].headers["retry-after"] == "2"
        assert server.seen("versions") == 3

    told(story)


def test_a_lost_answer_means_it_was_done_all_the_same() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        server.lose_answer("/send/")
        path = f"{V3}/rooms/{room}/send/m.x/t1"
        with pytest.raises(UnreachableError, match="lost"):
            await server.request("PUT", path, {}, {}, alice.access_token)
        again = await server.request("PUT", path, {}, {}, alice.access_token)
        sync = await server.request("GET", f"{V3}/sync", {}, None, alice.access_token)
        timeline = sync.body["rooms"]["join"][room]["timeline"]["events"]  # type: ignore[index]
        sent = [event["event_id"] for event in timeline if event["type"] == "m.x"]
        assert sent == [again.body["event_id"]]  # type: ignore[index]

    told(story)


def test_to_device_messages_dropped_doubled_and_reordered() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        kept: list[DeviceMessage] = []

        def hook(message: DeviceMessage) -> list[DeviceMessage]:
            match message.content["n"]:
                case 0:
                    return []
                case 1:
                    return [message, message]
                case 2:
                    kept.append(message)
                    return []
            return [message]

        server.devices.hook = hook
        for number in range(4):
            body = {"messages": {alice.user_id: {"*": {"n": number}}}}
            path = f"{V3}/sendToDevice/m.x/{number}"
            await server.request("PUT", path, {}, body, alice.access_token)
        server.devices.deliver(kept[0])
        sync = await server.request("GET", f"{V3}/sync", {}, None, alice.access_token)
        got = [event["content"]["n"] for event in sync.body["to_device"]["events"]]  # type: ignore[index]
        assert got == [1, 1, 3, 2]

    told(story)


def test_a_line_is_cut_for_one_client_alone() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        line, other = server.line(), server.line()
        path = f"{V3}/account/whoami"
        line.cut = True
        with pytest.raises(UnreachableError, match="cut"):
            await line.request("GET", path, {}, None, alice.access_token, timeout_s=5)
        assert server.seen("whoami") == 0
        answer = await other.request("GET", path, {}, None, alice.access_token, timeout_s=5)
        assert answer.status == 200
        line.cut = False
        first = await line.request("GET", f"{V3}/sync", {}, None, alice.access_token, timeout_s=5)
        query = {"since": str(first.body["next_batch"]), "timeout": "30000"}  # type: ignore[index]
        waiting = asyncio.create_task(
            line.request("GET", f"{V3}/sync", query, None, alice.access_token, timeout_s=40)
        )
        await asyncio.sleep(1)
        line.cut = True
        with pytest.raises(UnreachableError, match="cut"):
            await waiting

    told(story)


def test_latency_and_a_full_day() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await server.request("GET", "/_matrix/client/versions")
        assert loop.time() - began_s == pytest.approx(0.2)
        delay_id = await hold(server, alice, room, 10_000)
        for _ in range(24 * 60 * 10):
            await asyncio.sleep(6)
            path = f"{DELAYED}/{delay_id}/restart"
            assert (await server.request("POST", path, {}, {}, alice.access_token)).status == 200
        assert not await fired(server, alice, room)
        await asyncio.sleep(11)
        assert await fired(server, alice, room)

    told(story, latency_s=0.2, limits=True)


def test_nothing_is_shared_with_the_caller() -> None:
    async def story(server: MemoryHomeserver, alice: Credentials, room: str) -> None:
        content: dict[str, object] = {"list": [1]}
        path = f"{V3}/rooms/{room}/state/org.example.thing/"
        await server.request("PUT", path, {}, content, alice.access_token)
        content["list"] = [2]
        read = await server.request("GET", path, {}, None, alice.access_token)
        read.body["list"].append(3)  # type: ignore[index]
        again = await server.request("GET", path, {}, None, alice.access_token)
        assert again.body == {"list": [1]}

    told(story)
