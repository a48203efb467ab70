"""Encrypted to-device messages against a real Synapse, on devices of our own and behind nio."""

from __future__ import annotations

import asyncio
import json
import stat
import sys

import pytest
from nio import AsyncClient, AsyncClientConfig, UnknownToDeviceEvent

from rtcfoci.errors import ClientError, UsageError
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.nio import NioClient
from rtcfoci.testing import Synapse, SynapseOptions, federated_pair

pytestmark = pytest.mark.system

SIGNAL = "rtcfoci.signal"


async def both_ways(first, second, seen_first, seen_second, mark):
    """Send each other one message, and give back what arrived."""
    await first.send_to_device(SIGNAL, second.user_id, second.device_id, {"to": mark}, encrypt=True)
    await second.send_to_device(SIGNAL, first.user_id, first.device_id, {"fro": mark}, encrypt=True)
    for seen in (seen_first, seen_second):
        await seen.until(lambda w: any(mark in m.content.values() for m in w.messages))
    return seen_first.messages[-1], seen_second.messages[-1]


async def test_encrypted_messages_both_ways(synapse, alice, bob, room_id, open_client, watch):
    ours = await open_client(synapse, alice, encrypted=True)
    theirs = await open_client(synapse, bob, encrypted=True)
    seen_ours, seen_theirs = watch(ours, room_id), watch(theirs, room_id)
    for n in range(5):
        to_us, to_them = await both_ways(ours, theirs, seen_ours, seen_theirs, f"m{n}")
        assert (to_us.type, to_us.security) == (SIGNAL, "bound")
        assert (to_us.sender, to_us.sender_device_id) == (bob.user_id, bob.device_id)
        assert (to_them.sender, to_them.sender_device_id) == (alice.user_id, alice.device_id)
        assert to_them.security == "bound"
    assert len(seen_ours.messages) == len(seen_theirs.messages) == 5
    assert ours.encrypter.refused == theirs.encrypter.refused == 0
    assert ours.encrypter.undecryptable == theirs.encrypter.undecryptable == 0


async def test_what_cannot_be_encrypted_is_not_sent(synapse, alice, bob, open_client):
    ours = await open_client(synapse, alice, encrypted=True)
    with pytest.raises(ClientError, match="No encrypted message can reach") as error:
        # Bob's device has never published a key.
        await ours.send_to_device(SIGNAL, bob.user_id, bob.device_id, {}, encrypt=True)
    assert error.value.do
    clear = await open_client(synapse, bob)
    with pytest.raises(ClientError, match="was not sent"):
        await clear.send_to_device(SIGNAL, alice.user_id, alice.device_id, {}, encrypt=True)


_OTHER_SIDE = """
import asyncio, json, sys
from pathlib import Path
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.client import ToDevice

async def main(url, store, room_id, user_id, device_id, mark, ack):
    client = await connect(url, device_store=Path(store), encrypted=True)
    await client.send_to_device("rtcfoci.signal", user_id, device_id, {"from": mark}, encrypt=True)
    got = []
    async for update in client.updates(room_id):
        if isinstance(update, ToDevice):
            got.append([update.content, update.security, update.sender_device_id])
            if ack == "ack":
                await client.ack(update)
            if update.content.get("to") == mark:
                break
    print(json.dumps([client.device_id, got]))
    if ack == "ack":
        await client.aclose()
    else:
        import os, signal
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def other_side(*arguments: str) -> list:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OTHER_SIDE, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return json.loads(output)


@pytest.mark.timeout(180)
async def test_device_and_sessions_outlive_the_process(
    synapse, alice, bob, room_id, tmp_path, open_client, watch
):
    store = tmp_path / "bob"
    first = await connect(
        synapse.base_url, token=bob.access_token, device_store=store, encrypted=True
    )
    await first.aclose()
    assert stat.S_IMODE((store / "olm.sqlite").stat().st_mode) == 0o600
    ours = await open_client(synapse, alice, encrypted=True)
    seen = watch(ours, room_id)
    received = []
    # The first process is killed with its message unacknowledged; the second gets it again.
    for mark, ack in (("one", "no"), ("two", "ack"), ("three", "ack")):
        running = asyncio.create_task(
            other_side(
                synapse.base_url,
                str(store),
                room_id,
                alice.user_id,
                alice.device_id,
                mark,
                ack,
            )
        )
        # A busy machine takes its time to start an interpreter; one that fails is not waited for.
        said = asyncio.create_task(
            seen.until(lambda w, mark=mark: {"from": mark} in [m.content for m in w.messages], 45.0)
        )
        await asyncio.wait({said, running}, return_when=asyncio.FIRST_COMPLETED)
        await (said if said.done() else running)
        await ours.send_to_device(SIGNAL, bob.user_id, bob.device_id, {"to": mark}, encrypt=True)
        device_id, got = await asyncio.wait_for(running, 30)
        assert device_id == bob.device_id
        received.append(got)
    one, two, three = ([{"to": m}, "bound", alice.device_id] for m in ("one", "two", "three"))
    assert received == [[one], [one, two], [three]]
    assert [m.content["from"] for m in seen.messages] == ["one", "two", "three"]
    assert {m.sender_device_id for m in seen.messages} == {bob.device_id}
    assert ours.encrypter.undecryptable == 0


async def test_an_impostor_is_refused(synapse, alice, bob, room_id, open_client, watch, eventually):
    ours = await open_client(synapse, alice, encrypted=True)
    theirs = await open_client(synapse, bob, encrypted=True)
    other = await open_client(synapse, await synapse.login(bob.user_id, "password"), encrypted=True)
    assert other.device_id != bob.device_id
    seen = watch(ours, room_id)
    # Another device of the same user says it is the device that is in the call ...
    other.encrypter._olm.device_id = bob.device_id
    await other.send_to_device(
        SIGNAL, alice.user_id, alice.device_id, {"n": "device"}, encrypt=True
    )
    await eventually(lambda: ours.encrypter.refused == 1)
    # ... or signs with a fingerprint that is not its own.
    other.encrypter._olm.device_id = other.device_id
    real = other.encrypter._olm.account
    keys = {**real.identity_keys, "ed25519": theirs.encrypter._olm.account.identity_keys["ed25519"]}
    encrypt = other.encrypter._olm._olm_encrypt

    class Forged:
        identity_keys = keys

    def forged(*arguments):
        other.encrypter._olm.account = Forged
        try:
            return encrypt(*arguments)
        finally:
            other.encrypter._olm.account = real

    other.encrypter._olm._olm_encrypt = forged
    await other.send_to_device(SIGNAL, alice.user_id, alice.device_id, {"n": "key"}, encrypt=True)
    del other.encrypter._olm._olm_encrypt
    await theirs.send_to_device(SIGNAL, alice.user_id, alice.device_id, {"n": "real"}, encrypt=True)
    await other.send_to_device(SIGNAL, alice.user_id, alice.device_id, {"n": "other"}, encrypt=True)
    await seen.until(lambda w: len(w.messages) == 2)
    told = {(m.content["n"], m.sender_device_id, m.security) for m in seen.messages}
    assert told == {("real", bob.device_id, "bound"), ("other", other.device_id, "bound")}
    assert ours.encrypter.refused == 2
    assert ours.store.unsettled() == []


async def test_many_messages_use_up_and_refill_one_time_keys(
    synapse, alice, new_user, room_id, open_client, watch, eventually
):
    ours = await open_client(synapse, alice, encrypted=True)
    seen = watch(ours, room_id)
    await seen.until(lambda w: w.rooms)
    half = ours.encrypter._olm.account.max_one_time_keys // 2
    carol = await new_user("carol")
    for n in range(half + 2):
        async with asyncio.timeout(20):
            who = await synapse.login(carol.user_id, "password")
            client = await connect(synapse.base_url, token=who.access_token, encrypted=True)
            await client.send_to_device(
                SIGNAL, alice.user_id, alice.device_id, {"n": n}, encrypt=True
            )
            await client.aclose()
    await seen.until(lambda w: len(w.messages) == half + 2)
    await eventually(lambda: ours.encrypter._olm.uploaded_key_count >= half)
    assert [m.content["n"] for m in sorted(seen.messages, key=lambda m: m.id)] == list(
        range(half + 2)
    )


async def test_keys_of_another_client_are_not_overwritten(synapse, alice, tmp_path, open_client):
    await open_client(synapse, alice, encrypted=True)
    with pytest.raises(ClientError, match="cannot be used with encryption") as error:
        await connect(
            synapse.base_url, token=alice.access_token, device_store=tmp_path, encrypted=True
        )
    assert "makes a new device" in error.value.do


async def start_bot(synapse, who, store_path):
    config = AsyncClientConfig(store_sync_tokens=True, encryption_enabled=True)
    bot = AsyncClient(synapse.base_url, who.user_id, store_path=str(store_path), config=config)
    bot.restore_login(who.user_id, who.device_id, who.access_token)
    return bot


async def test_a_nio_bot_both_ways(
    synapse, alice, bob, room_id, tmp_path, open_client, watch, eventually
):
    bot = await start_bot(synapse, alice, tmp_path)
    heard: list = []
    unacknowledged = 0

    async def callback(event):
        heard.append((event.type, event.source["content"]))

    bot.add_to_device_callback(callback, UnknownToDeviceEvent)
    ours = NioClient.from_nio(bot)
    with pytest.raises(UsageError, match="followed already"):
        NioClient.from_nio(bot)
    syncing = asyncio.create_task(bot.sync_forever(timeout=5000))
    theirs = await open_client(synapse, bob, encrypted=True)
    seen_ours, seen_theirs = watch(ours, room_id), watch(theirs, room_id)
    await seen_ours.until(lambda w: w.rooms)
    await eventually(lambda: bot.olm.uploaded_key_count is not None)
    for n in range(3):
        to_us, to_them = await both_ways(ours, theirs, seen_ours, seen_theirs, f"m{n}")
        assert (to_us.security, to_us.sender_device_id) == ("bound", bob.device_id)
        assert (to_them.security, to_them.sender_device_id) == ("bound", alice.device_id)
    await theirs.send_to_device("x.clear", alice.user_id, alice.device_id, {"c": 1}, encrypt=False)
    await seen_ours.until(lambda w: w.messages[-1].type == "x.clear")
    assert seen_ours.messages[-1].security == "clear"
    # State and sticky events, which nio's own callbacks never show.
    await theirs.send_event(
        room_id,
        "org.matrix.msc4143.rtc.member",
        {"msc4354_sticky_key": "k"},
        txn_id="s",
        sticky_duration_ms=600_000,
    )
    event_id = await ours.send_state(room_id, "x.state", "k", {"n": 1})
    await seen_ours.until(
        lambda w: {event_id} < {e.event_id for e in w.events if e.type.startswith(("x.", "org."))}
    )
    assert (SIGNAL, {"fro": "m0"}) in heard
    for message in seen_ours.messages[:-1]:
        await ours.ack(message)
        unacknowledged = seen_ours.messages[-1].content
    syncing.cancel()
    await asyncio.gather(syncing, return_exceptions=True)
    await ours.aclose()
    assert not {"_handle_sync", "send"} & vars(bot).keys()
    assert "_handle_olm_event" not in vars(bot.olm)
    await bot.close()
    bot.store.database.close()
    # The bot's next life: same olm sessions, and what nobody had handled.
    await theirs.send_to_device(SIGNAL, alice.user_id, alice.device_id, {"late": 1}, encrypt=True)
    bot = await start_bot(synapse, alice, tmp_path)
    again = NioClient.from_nio(bot)
    seen = watch(again, room_id)
    syncing = asyncio.create_task(bot.sync_forever(timeout=5000))
    await seen.until(lambda w: len(w.messages) == 2)
    assert [m.content for m in seen.messages] == [unacknowledged, {"late": 1}]
    syncing.cancel()
    await asyncio.gather(syncing, return_exceptions=True)
    await again.aclose()
    await bot.close()
    bot.store.database.close()


async def test_a_nio_bot_whose_callback_fails_loses_nothing(
    synapse, alice, bob, room_id, tmp_path, open_client, watch
):
    bot = await start_bot(synapse, alice, tmp_path)
    await bot.keys_upload()

    async def fails(event):
        raise RuntimeError("a bug of the bot")

    bot.add_to_device_callback(fails, UnknownToDeviceEvent)
    ours = NioClient.from_nio(bot)
    theirs = await open_client(synapse, bob, encrypted=True)
    for n in range(3):
        await theirs.send_to_device(SIGNAL, alice.user_id, alice.device_id, {"n": n}, encrypt=True)
    with pytest.raises(RuntimeError, match="bug of the bot"):
        await bot.sync(timeout=0)
    seen = watch(ours, room_id)
    await seen.until(lambda w: len(w.messages) == 3)
    assert [m.content["n"] for m in seen.messages] == [0, 1, 2]
    await ours.aclose()
    await bot.close()
    bot.store.database.close()


async def test_a_nio_bot_whose_token_is_revoked(synapse, new_user, room_id, tmp_path, watch):
    carol = await new_user("carol")
    bot = await start_bot(synapse, carol, tmp_path)
    ours = NioClient.from_nio(bot)
    seen = watch(ours, room_id)
    await seen.until(lambda w: w.rooms)
    await synapse.request("POST", "/_matrix/client/v3/logout", token=carol.access_token, body={})
    await bot.sync(timeout=0)
    await seen.until(lambda w: w.ended)
    assert seen.connectivity[-1].token_revoked
    await ours.aclose()
    await bot.close()
    bot.store.database.close()


@pytest.mark.timeout(120)
async def test_encrypted_messages_over_a_restart_of_the_homeserver(
    tmp_path, open_client, watch, eventually
):
    async with Synapse(tmp_path / "hs", SynapseOptions()) as server:
        alice, bob = await server.register("alice", "a"), await server.register("bob", "b")
        room_id = await server.create_room(alice.access_token)
        await server.join_room(bob.access_token, room_id)
        bot = await start_bot(server, alice, tmp_path)
        ours = NioClient.from_nio(bot)
        syncing = asyncio.create_task(bot.sync_forever(timeout=5000))
        theirs = await open_client(server, bob, encrypted=True, device_store=tmp_path / "bob")
        seen_ours, seen_theirs = watch(ours, room_id), watch(theirs, room_id)
        await seen_ours.until(lambda w: w.rooms)
        await eventually(lambda: bot.olm.uploaded_key_count is not None)
        await both_ways(ours, theirs, seen_ours, seen_theirs, "before")
        server.kill()
        for seen in (seen_ours, seen_theirs):
            await seen.until(lambda w: [c.online for c in w.connectivity] == [False])
        await server.restart()
        await both_ways(ours, theirs, seen_ours, seen_theirs, "after")
        event_id = await ours.send_state(room_id, "x.test", "k", {})
        for seen in (seen_ours, seen_theirs):
            await seen.until(lambda w: event_id in [e.event_id for e in w.events])
            assert [c.online for c in seen.connectivity] == [False, True]
            assert [m.security for m in seen.messages] == ["bound", "bound"]
        syncing.cancel()
        await asyncio.gather(syncing, return_exceptions=True)
        await ours.aclose()
        await theirs.aclose()
        await bot.close()
        bot.store.database.close()


@pytest.mark.timeout(150)
async def test_encrypted_messages_across_two_homeservers(tmp_path, open_client, watch):
    async with federated_pair(tmp_path / "hs") as (here, there):
        alice, bob = await here.register("alice", "a"), await there.register("bob", "b")
        room_id = await here.create_room(alice.access_token)
        await there.join_room(bob.access_token, room_id, via=here.server_name)
        ours = await open_client(here, alice, encrypted=True)
        theirs = await open_client(there, bob, encrypted=True, device_store=tmp_path / "bob")
        seen_ours, seen_theirs = watch(ours, room_id), watch(theirs, room_id)
        for n in range(3):
            to_us, to_them = await both_ways(ours, theirs, seen_ours, seen_theirs, f"m{n}")
            assert (to_us.security, to_us.sender_device_id) == ("bound", bob.device_id)
            assert (to_them.security, to_them.sender_device_id) == ("bound", alice.device_id)
        # The other homeserver dies: ours goes on, and what is sent meanwhile arrives when it is back.
        there.kill()
        await ours.send_to_device(SIGNAL, bob.user_id, bob.device_id, {"late": 1}, encrypt=True)
        event_id = await ours.send_state(room_id, "x.test", "k", {})
        await seen_ours.until(lambda w: event_id in [e.event_id for e in w.events])
        await there.restart()
        # A server that is heard from is tried again at once; else only once a minute.
        await theirs.send_to_device(
            SIGNAL, alice.user_id, alice.device_id, {"back": 1}, encrypt=True
        )
        await seen_theirs.until(lambda w: w.messages[-1].content == {"late": 1}, 40.0)
        assert not seen_ours.connectivity
        assert theirs.encrypter.refused == theirs.encrypter.undecryptable == 0
        await ours.aclose()
        await theirs.aclose()
