"""The launcher: a real Synapse starts, is killed, comes back with its data, and never stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtcfoci.errors import RtcfociError, UnreachableError
from rtcfoci.testing import Credentials, Synapse, SynapseOptions, federated_pair
from rtcfoci.testing.synapse_env import SYNAPSE_VERSION

pytestmark = pytest.mark.system


async def test_serves_what_a_call_needs(synapse: Synapse, alice: Credentials) -> None:
    versions = (await synapse.request("GET", "/_matrix/client/versions")).body
    flags = versions["unstable_features"]
    assert isinstance(flags, dict)
    for flag in ("org.matrix.msc4140", "org.matrix.msc4354", "org.matrix.msc4143"):
        assert flags[flag] is True
    transports = await synapse.request(
        "GET",
        "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
        token=alice.access_token,
    )
    assert transports.body["rtc_transports"][0]["type"] == "livekit"  # type: ignore[index]
    turn = await synapse.request(
        "GET", "/_matrix/client/v3/voip/turnServer", token=alice.access_token
    )
    assert turn.body["uris"] == ["turn:127.0.0.1:3478"]


async def test_ordinary_members_may_send_rtc_member_events(
    synapse: Synapse, alice: Credentials, bob: Credentials, room_id: str
) -> None:
    path = (
        f"/_matrix/client/v3/rooms/{room_id}/state/org.matrix.msc3401.call.member/_{bob.user_id}_D"
    )
    reply = await synapse.request("PUT", path, token=bob.access_token, body={})
    assert reply.status == 200
    closed = await synapse.create_room(alice.access_token, calls=False)
    await synapse.join_room(bob.access_token, closed)
    reply = await synapse.request(
        "PUT", path.replace(room_id, closed), token=bob.access_token, body={}
    )
    assert reply.status == 403


async def test_survives_a_kill_with_data_and_address(tmp_path: Path) -> None:
    async with Synapse(tmp_path) as server:
        user = await server.register("alice", "password")
        address, pid = server.base_url, server.pid
        server.kill()
        assert server.pid is None
        with pytest.raises(UnreachableError):
            await server.request("GET", "/health", timeout_s=1)
        await server.restart()
        assert server.base_url == address
        assert server.pid != pid
        whoami = await server.request(
            "GET", "/_matrix/client/v3/account/whoami", token=user.access_token
        )
        assert whoami.body["user_id"] == user.user_id
    assert server.pid is None


async def test_says_why_it_does_not_come_up(tmp_path: Path) -> None:
    server = Synapse(tmp_path, SynapseOptions(extra={"max_event_delay_duration": "-3h"}))
    with pytest.raises(RtcfociError, match="max_event_delay_duration"):
        await server.start()
    assert server.pid is None


_ORPHAN = """
import asyncio, os, pathlib, signal, sys
from rtcfoci.testing import Synapse
server = Synapse(pathlib.Path(sys.argv[1]))
asyncio.run(server.start())
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _ORPHAN, str(tmp_path)], capture_output=True, text=True, timeout=50
    )
    pid = int(ran.stdout)
    deadline_s = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


async def test_two_servers_federate(tmp_path: Path) -> None:
    async with federated_pair(tmp_path) as (first, second):
        alice = await first.register("alice", "password")
        bob = await second.register("bob", "password")
        room_id = await first.create_room(alice.access_token)
        await second.join_room(bob.access_token, room_id, via=first.server_name)
        members = await first.request(
            "GET",
            f"/_matrix/client/v3/rooms/{room_id}/joined_members",
            token=alice.access_token,
        )
        assert set(members.body["joined"]) == {alice.user_id, bob.user_id}  # type: ignore[call-overload]
        assert first.server_name != second.server_name


def test_the_version_is_the_one_the_facts_were_measured_on() -> None:
    assert SYNAPSE_VERSION == "1.163.2"
