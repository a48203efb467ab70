"""What matrix-js-sdk shows of a member that has a mesh only, beside one of its own."""

import asyncio
import contextlib

import pytest

from tests.interop.tools import JS_SDK, Driver, by_user, npm_folder
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SFU = {"type": "livekit", "livekit_service_url": "https://sfu.example.org/jwt"}


@pytest.fixture
def modules():
    return npm_folder(JS_SDK)


@contextlib.asynccontextmanager
async def sdk_client(modules, synapse, person, room_id, folder):
    log = folder / f"sdk-{person.device_id}.txt"
    async with Driver.started(log, "session.mjs", modules) as driver:
        await driver.ask(
            "start",
            baseUrl=synapse.base_url,
            userId=person.user_id,
            deviceId=person.device_id,
            accessToken=person.access_token,
            roomId=room_id,
            crypto=True,
        )
        yield driver


@pytest.mark.parametrize(
    ("encrypted", "options", "kind"),
    [(False, (), "rtc"), (False, ("--dialect", "D3"), "session"), (True, (), "session")],
    ids=["clear-sticky", "clear-state", "encrypted"],
)
async def test_the_sdk_lists_both_members(
    synapse, new_user, modules, tmp_path, encrypted, options, kind
):
    caller, watcher, ours = [await new_user(name) for name in ("caller", "watcher", "ours")]
    room_id = await synapse.create_room(caller.access_token, encrypted=encrypted)
    for person in (watcher, ours):
        await synapse.join_room(person.access_token, room_id)
    transport = {**SFU, "livekit_alias": room_id}

    async with (
        sdk_client(modules, synapse, caller, room_id, tmp_path) as calling,
        sdk_client(modules, synapse, watcher, room_id, tmp_path) as watching,
        cast() as started,
    ):
        clients = (calling, watching)
        await calling.ask("join", transport=transport)
        alone = [
            by_user(await client.until(lambda s: len(s["members"]) == 1, "the caller is in"))
            for client in clients
        ]
        for members in alone:
            assert members[caller.user_id]["used"] == transport

        mesh = await Participant.start(
            synapse, ours, room_id, tmp_path / "ours", "--source", "tone", *options
        )
        started.append(mesh)
        for client, before in zip(clients, alone, strict=True):
            seen = await client.until(lambda s: len(s["members"]) == 2, "ours is in too")
            members = by_user(seen)
            assert seen["troubles"] == []
            assert members[caller.user_id] == before[caller.user_id]
            mine = members[ours.user_id]
            assert mine["kind"] == kind
            assert [t["type"] for t in mine["transports"]] == ["rtcfoci.mesh"]
            assert mine["used"]["type"] == "rtcfoci.mesh"
            assert not mine["expired"]
        # Our view of them: the caller is a member that we have no focus in common with.
        await mesh.until(lambda: mesh.sees(caller.user_id), "sees the caller")

        await asyncio.sleep(2)  # restarts of the delayed leave and echoes pass
        for client in clients:
            assert len((await client.ask("look"))["members"]) == 2

        assert await mesh.stop() == 0
        for client, before in zip(clients, alone, strict=True):
            seen = await client.until(lambda s: len(s["members"]) == 1, "ours has left")
            assert by_user(seen) == before
            assert seen["troubles"] == []
        assert (await calling.ask("look"))["joined"]
        assert (await calling.ask("leave"))["left"]
        await watching.until(lambda s: s["members"] == [], "the caller has left")


@pytest.mark.parametrize(
    ("encrypted", "options"),
    [(False, ()), (False, ("--dialect", "D3")), (True, ())],
    ids=["clear-sticky", "clear-state", "encrypted"],
)
async def test_the_sdk_joins_a_session_that_ours_began(
    synapse, new_user, modules, tmp_path, encrypted, options
):
    """Ours is the oldest member then, after whose transport some clients choose theirs."""
    caller, ours = await new_user("caller"), await new_user("ours")
    room_id = await synapse.create_room(caller.access_token, encrypted=encrypted)
    await synapse.join_room(ours.access_token, room_id)
    transport = {**SFU, "livekit_alias": room_id}
    async with (
        cast() as started,
        sdk_client(modules, synapse, caller, room_id, tmp_path) as calling,
    ):
        mesh = await Participant.start(
            synapse, ours, room_id, tmp_path / "ours", "--source", "tone", *options
        )
        started.append(mesh)
        await calling.until(lambda s: len(s["members"]) == 1, "ours is in")
        await calling.ask("join", transport=transport)
        seen = await calling.until(lambda s: len(s["members"]) == 2, "the caller is in too")
        assert [m["userId"] for m in seen["members"]] == [ours.user_id, caller.user_id]
        assert by_user(seen)[caller.user_id]["used"] == transport
        assert await mesh.stop() == 0
        seen = await calling.until(lambda s: len(s["members"]) == 1, "ours has left")
        assert by_user(seen)[caller.user_id]["used"] == transport
        assert seen["joined"]
        assert seen["troubles"] == []
        assert (await calling.ask("leave"))["left"]
