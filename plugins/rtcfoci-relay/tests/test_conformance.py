"""The relay passes the suite, over a real socket and with a homeserver that only knows tokens."""

import asyncio
import json
import signal
import sys
from dataclasses import asdict
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from rtcfoci_relay import rtcfoci_focus_types
from rtcfoci_relay.server import start

from rtcfoci.errors import BackendError
from rtcfoci.plugin import DataReceived
from rtcfoci.testing.conformance import BackendConformance

NAMES = ("alice", "bob", "carol")
OPENID = "/_matrix/client/v3/user/%40{}%3Atest/openid/request_token"


async def userinfo(reader, writer):
    """Answer as a homeserver does: the token `token-alice` belongs to @alice:test."""
    request = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
    name = parse_qs(urlsplit(request).query)["access_token"][0].removeprefix("token-")
    known = urlsplit(request).path.endswith("/openid/userinfo") and name in NAMES
    body = json.dumps(
        {"sub": f"@{name}:test"} if known else {"errcode": "M_UNKNOWN_TOKEN"}
    ).encode()
    status = "200 OK" if known else "401 Unauthorized"
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*head, "Connection: close", "\r\n"]).encode() + body)
    await writer.drain()
    writer.close()


class TestRelay(BackendConformance):
    focus_type = next(iter(rtcfoci_focus_types()))
    answers: ClassVar = {
        ("POST", OPENID.format(name)): {"access_token": f"token-{name}"} for name in NAMES
    }

    @pytest.fixture(autouse=True)
    async def relay(self):
        homeserver = await asyncio.start_server(userinfo, "127.0.0.1", 0)
        port = homeserver.sockets[0].getsockname()[1]
        self.server = await start(f"http://127.0.0.1:{port}", 0)
        self.url = f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        yield
        self.server.close()
        homeserver.close()
        await self.server.wait_closed()
        await homeserver.wait_closed()

    def config(self, name):
        return {"url": self.url}

    def unreachable(self):
        return {"type": "rtcfoci.relay", "url": "ws://127.0.0.1:9"}

    async def freeze(self, stage, who):
        for socket in self.server.connections:
            socket.transport.pause_reading()

    async def thaw(self, stage, who):
        for socket in self.server.connections:
            socket.transport.resume_reading()

    async def kill(self, stage, who):
        self.server.close()

    async def test_an_unknown_token_is_not_admitted(self, stage):
        stage.network.answers["POST", OPENID.format("alice")] = {"access_token": "stolen"}
        with pytest.raises(BackendError) as error:
            await stage.connect("alice")
        assert "stolen" not in str(error.value)

    async def test_a_token_admits_its_owner_and_nobody_else(self, stage):
        alice, carol = await stage.join("alice", "carol")
        stage.network.answers["POST", OPENID.format("bob")] = {"access_token": "token-carol"}
        bob = await stage.connect("bob")
        await stage.meet(alice, bob)
        await bob.connection.send_data(b"it is bob", topic="x", reliable=True)
        await self.connected(stage, carol, alice)
        assert not [event for event in alice.told(DataReceived) if event.topic == "x"]

    async def test_a_homeserver_without_openid_is_a_backend_error(self, stage):
        stage.network.answers.clear()
        with pytest.raises(BackendError, match="no OpenID token"):
            await stage.connect("alice")

    async def test_what_is_not_for_us_or_malformed_is_dropped(self, stage):
        alice, bob = await stage.join("alice", "bob")
        await self.connected(stage, alice, bob)
        before = len(bob.events)
        to = json.dumps([asdict(bob.member)])
        for body in ("7", "{}", '1, 2, "00", 4', '"x", true, "abc"', '"x", true, null', "[" * 900):
            await alice.connection.socket.send(f"[{to}, {body}{']' * body.count('[')}]")
        await stage.until(lambda: bob.context.counters["malformed"] == 6, "it is counted")
        await stage.part(bob, alice)
        await alice.connection.send_data(b"unseen", topic="x", reliable=True)
        await asyncio.sleep(0.3)
        assert bob.events[before:] == []
        await stage.meet(alice, bob)
        await self.connected(stage, alice, bob)

    @pytest.mark.parametrize("junk", ["[]", "7", "x", "null", "[7, null]", "[[[[", "[" * 9999])
    async def test_the_relay_shows_the_door_to_who_speaks_otherwise(self, stage, junk):
        alice, bob, carol = await stage.join("alice", "bob", "carol")
        await alice.connection.socket.send(junk)
        await stage.until(lambda: not alice.connection.health().connected, "alice is out")
        await self.connected(stage, bob, carol)


async def test_the_command_says_where_it_listens():
    command = [sys.executable, "-m", "rtcfoci.cli.main", "relay", "--homeserver", "http://x"]
    process = await asyncio.create_subprocess_exec(
        *command, "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        assert line.startswith(b"listening on ws://127.0.0.1:")
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
