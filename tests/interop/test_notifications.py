"""Notifications and declines between ours and matrix-js-sdk 43, on a real homeserver, both ways."""

import asyncio
import contextlib
import json
import sys

import pytest

import rtcfoci
from rtcfoci.core.model import Slot
from rtcfoci.core.slots import open_slot
from tests.interop.tools import JS_SDK, Driver, npm_folder
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SFU = {"type": "livekit", "livekit_service_url": "https://sfu.example.org/jwt"}


@contextlib.asynccontextmanager
async def sdk_client(synapse, person, room_id, folder):
    modules = npm_folder(JS_SDK)
    log = folder / f"sdk-{person.device_id}.txt"
    async with Driver.started(log, "session.mjs", modules) as driver:
        await driver.ask(
            "start",
            baseUrl=synapse.base_url,
            userId=person.user_id,
            deviceId=person.device_id,
            accessToken=person.access_token,
            roomId=room_id,
        )
        yield driver


@contextlib.asynccontextmanager
async def connected(synapse, person):
    client = await rtcfoci.connect(synapse.base_url, token=person.access_token)
    try:
        yield client
    finally:
        await client.aclose()


async def heard(driver, holds, what, timeout_s=20.0):
    """Ask the SDK for its notifications until it holds."""
    seen = {}
    for _ in range(int(timeout_s / 0.2)):
        seen = (await driver.ask("notifications"))["notifications"]
        if holds(seen):
            return seen
        await asyncio.sleep(0.2)
    raise AssertionError(f"{what}; last seen: {seen}")


async def until(holds, listening, timeout_s=20.0):
    """Wait until what is listened to holds; a listener that fails is told at once."""
    end_s = asyncio.get_running_loop().time() + timeout_s
    while not holds():
        if listening.done():
            await listening
        assert asyncio.get_running_loop().time() < end_s, f"not within {timeout_s} s"
        await asyncio.wait((listening,), timeout=0.1)


async def test_the_sdk_is_rung_by_ours_and_declines(synapse, new_user, tmp_path):
    ours, rung = await new_user("ours"), await new_user("rung")
    room_id = await synapse.create_room(ours.access_token)
    await synapse.join_room(rung.access_token, room_id)
    async with sdk_client(synapse, rung, room_id, tmp_path) as sdk, cast() as started:
        options = ("--source", "tone", "--ring", "room")
        caller = await Participant.start(synapse, ours, room_id, tmp_path / "ours", *options)
        started.append(caller)
        seen = await heard(sdk, len, "a notification comes")
        (event_id,) = seen
        # It asks for an open slot, which no client creates.
        assert "does not exist or is closed" in seen[event_id]["why"]
        async with connected(synapse, ours) as client:
            event = open_slot(Slot(room_id=room_id), room_encrypted=False)
            await client.send_state(room_id, event.type, event.state_key, event.content)
        seen = await heard(sdk, lambda s: s[event_id]["content"], "it rings")
        content = seen[event_id]["content"]
        assert content["notification_type"] == "ring"
        assert content["slot_id"] == "m.call#ROOM"
        assert content["m.mentions"]["room"] is True
        assert content["m.call.intent"] == "audio"
        await sdk.ask("decline", eventId=event_id)
        await caller.until(lambda: caller.events("CallDeclined"), "the decline is told")
        (declined,) = caller.events("CallDeclined")
        assert (declined["user_id"], declined["event_id"]) == (rung.user_id, event_id)
        await heard(sdk, lambda s: "declined" in s[event_id]["why"], "the SDK counts it, too")
        assert (await sdk.ask("look"))["troubles"] == []
        assert await caller.stop() == 0


async def test_ours_is_rung_by_the_sdk_and_declines(synapse, new_user, tmp_path):
    caller, ours = await new_user("caller"), await new_user("ours")
    other = await synapse.login(ours.user_id.removeprefix("@").partition(":")[0], "password")
    room_id = await synapse.create_room(caller.access_token)
    await synapse.join_room(ours.access_token, room_id)
    async with (
        sdk_client(synapse, caller, room_id, tmp_path) as calling,
        sdk_client(synapse, other, room_id, tmp_path) as elsewhere,
        connected(synapse, ours) as client,
        connected(synapse, caller) as owner,
    ):
        event = open_slot(Slot(room_id=room_id), room_encrypted=False)
        await owner.send_state(room_id, event.type, event.state_key, event.content)
        told = []

        async def listen():
            async for news in rtcfoci.listen(client, room_id):
                told.append(news)

        listening = asyncio.create_task(listen())
        await asyncio.wait((listening,), timeout=3)  # it has the room before it is called
        identity = {"userId": caller.user_id, "deviceId": caller.device_id, "memberId": "m"}
        transport = {**SFU, "livekit_alias": room_id}
        args = [identity, [], transport, {"notificationType": "ring"}]
        await calling.ask("call", method="joinRTCSession", args=args, wait=False)
        await until(lambda: told, listening)
        assert isinstance(told[0], rtcfoci.NotificationStarted)
        found = told[0].notification
        assert (found.sender, found.kind, found.slot_id) == (caller.user_id, "ring", "m.call#ROOM")
        await heard(elsewhere, lambda s: s[found.event_id]["content"], "our other device rings")
        await rtcfoci.decline(client, found)
        await heard(elsewhere, lambda s: "declined" in s[found.event_id]["why"], "it stops there")
        await until(lambda: isinstance(told[-1], rtcfoci.NotificationEnded), listening)
        assert told[-1].reason is rtcfoci.NotificationEnd.DECLINED
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert (await calling.ask("leave"))["left"]


async def test_watch_shows_rings_and_declines(synapse, new_user, tmp_path):
    ours, ear = await new_user("ours"), await new_user("ear")
    room_id = await synapse.create_room(ours.access_token)
    await synapse.join_room(ear.access_token, room_id)
    password = tmp_path / "password"
    password.write_text("password")
    command = [sys.executable, "-m", "rtcfoci.cli.main", "--json", "watch", room_id]
    command += ["--homeserver", synapse.base_url, "--user", ear.user_id]
    command += ["--password-file", str(password), "--duration", "60"]
    watching = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60), cast() as started:
            await watching.stdout.readline()  # it is there
            options = ("--ring", ear.user_id)
            caller = await Participant.start(synapse, ours, room_id, tmp_path / "ours", *options)
            started.append(caller)
            rung = await _notification(watching, "started")
            assert rung["sender"] == ours.user_id
            async with connected(synapse, ear) as client:
                relation = {"rel_type": "m.reference", "event_id": rung["event_id"]}
                await client.send_event(
                    room_id,
                    "org.matrix.msc4310.rtc.decline",
                    {"m.relates_to": relation},
                    txn_id="t",
                )
            assert (await _notification(watching, "declined"))["user_id"] == ear.user_id
            assert (await _notification(watching, "ended"))["reason"] == "declined"
            assert await caller.stop() == 0
    finally:
        watching.kill()
        await watching.wait()


async def _notification(watching, change):
    async for line in watching.stdout:
        found = json.loads(line).get("notification", {})
        if found.get("change") == change:
            return found
    raise AssertionError(f"nothing was {change}")
