"""`rtcfoci join` behind NAT on both sides: a real Synapse hands out credentials for a real coturn."""

import asyncio
import contextlib
import json
import os
import sys

import pytest
from namespaces import HOST, networks, require_namespaces
from stage import turnserver

from rtcfoci.errors import RtcfociError
from rtcfoci.testing import Synapse, SynapseOptions, skip_or_fail

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SERVER, SECRET = "198.18.77.1", "what-both-know"


@contextlib.asynccontextmanager
async def passed_on(address, port):
    """Make a port of loopback reachable at another address of this machine."""

    async def pump(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def take(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(take, address, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_two_behind_symmetric_nats_meet_over_the_homeservers_turn_server(tmp_path):
    require_namespaces()
    options = SynapseOptions(
        turn_uris=(f"turn:{SERVER}:3478?transport=udp",), extra={"turn_shared_secret": SECRET}
    )
    async with networks() as nets, contextlib.AsyncExitStack() as stack:
        synapse = Synapse(tmp_path / "synapse", options)
        try:
            await stack.enter_async_context(synapse)
        except RtcfociError as error:
            skip_or_fail("synapse", str(error))
        nets.add_host()
        nets.add("ann", "bob", "ann-r", "bob-r", "net")
        nets.forward("net")
        nets.cable("net", "198.18.77.2/24", HOST, f"{SERVER}/24")
        nets.route("net", SERVER)
        for number, name in enumerate(("ann", "bob"), start=1):
            router = f"{name}-r"
            nets.forward(router)
            nets.cable(name, f"192.168.{number}.2/24", router, f"192.168.{number}.1/24")
            nets.route(name, f"192.168.{number}.1")
            nets.cable(router, f"198.18.{number}.2/24", "net", f"198.18.{number}.1/24")
            nets.route(router, f"198.18.{number}.1")
            nets.nat(router, "to-net", symmetric=True)
            nets.run(HOST, "ip", "route", "add", f"198.18.{number}.0/24", "via", "198.18.77.2")
        await turnserver(nets, HOST, SERVER, secret=SECRET)
        port = await stack.enter_async_context(
            passed_on(SERVER, int(synapse.base_url.rpartition(":")[2]))
        )
        people = [await synapse.register(name, "password") for name in ("ann", "bob")]
        room = await synapse.create_room(people[0].access_token)
        await synapse.join_room(people[1].access_token, room)
        heard = [asyncio.Event(), asyncio.Event()]
        readers = []
        for person, enough in zip(people, heard, strict=True):
            name = person.user_id[1:4]
            password = tmp_path / f"{name}.password"
            password.write_text("password")
            process = await nets.start(
                name, sys.executable, "-m", "rtcfoci.cli.main", "--json", "join", room,
                "--homeserver", f"http://{SERVER}:{port}", "--user", person.user_id,
                "--password-file", password, "--device-store", tmp_path / name, "--focus", "mesh",
                "--source", "tone",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            readers.append(asyncio.create_task(follow(process, enough)))
        async with asyncio.timeout(60):
            await asyncio.gather(*(enough.wait() for enough in heard))
        for reader in readers:
            reader.cancel()


async def follow(process, enough):
    """Read what a participant reports until it heard a second of somebody."""
    async for line in process.stdout:
        with contextlib.suppress(ValueError):
            if frames(json.loads(line)) >= 50:
                enough.set()


def frames(record):
    """Frames received of others, where the line is a status."""
    people = record.get("participants", []) if record.get("event") == "Status" else []
    return sum(track["frames"] for person in people for track in person["tracks"])
