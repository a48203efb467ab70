"""The clear client against a real Synapse."""

from __future__ import annotations

import asyncio
import stat

import pytest

from rtcfoci.core import power
from rtcfoci.errors import ClientError, UnreachableError, UsageError
from rtcfoci.matrix import rooms
from rtcfoci.matrix.connect import connect, resolve_homeserver
from rtcfoci.testing import Synapse, SynapseOptions

pytestmark = pytest.mark.system

MEMBER = "org.matrix.msc3401.call.member"
STICKY = "org.matrix.msc4143.rtc.member"


async def test_support_is_probed(synapse, alice, open_client):
    support = await (await open_client(synapse, alice)).support()
    assert support.delayed_events
    assert support.max_delay_ms == 24 * 3600 * 1000
    assert support.max_scheduled == 100
    assert support.sticky_events
    assert support.rtc_transports


async def test_a_bare_server_supports_nothing(tmp_path):
    options = SynapseOptions(delayed_events=False, sticky_events=False, rtc_transports=None)
    async with Synapse(tmp_path, options) as server:
        who = await server.register("alice", "secret")
        client = await connect(server.base_url, token=who.access_token)
        support = await client.support()
        assert not support.delayed_events
        assert not support.sticky_events
        assert not support.rtc_transports
        room_id = await server.create_room(who.access_token)
        with pytest.raises(ClientError) as refused:
            await client.schedule_delayed(
                room_id, MEMBER, {}, delay_ms=1000, txn_id="a", state_key="k"
            )
        assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
        stream = client.updates(room_id)
        assert (await anext(stream)).events
        await client.aclose()


async def test_a_delayed_leave_fires(synapse, alice, bob, room_id, open_client, watch):
    ours, theirs = await open_client(synapse, alice), await open_client(synapse, bob)
    key = f"_{alice.user_id}_{alice.device_id}_m.call"
    seen = watch(theirs, room_id)
    delay_id = await ours.schedule_delayed(
        room_id, MEMBER, {}, delay_ms=1500, txn_id="leave", state_key=key
    )
    joined = await ours.send_state(room_id, MEMBER, key, {"in": True})
    held = await ours.list_delayed()
    assert [(e.delay_id, e.room_id, e.type, e.state_key, e.delay_ms) for e in held] == [
        (delay_id, room_id, MEMBER, key, 1500)
    ]
    assert delay_id not in repr(held)
    await ours.manage_delayed(delay_id, "restart")
    await seen.until(lambda w: [e.content for e in w.events if e.state_key == key][-1:] == [{}])
    contents = [e.content for e in seen.events if e.state_key == key]
    assert contents == [{"in": True}, {}]
    assert joined in [e.event_id for e in seen.events]
    with pytest.raises(ClientError) as fired:
        await ours.manage_delayed(delay_id, "restart")
    assert fired.value.errcode == "M_NOT_FOUND"
    assert delay_id not in str(fired.value) + repr(fired.value.body)
    assert await ours.list_delayed() == []


async def test_delayed_events_can_be_sent_and_cancelled(
    synapse, alice, room_id, open_client, watch
):
    client = await open_client(synapse, alice)
    seen = watch(client, room_id)
    send, cancel = [
        await client.schedule_delayed(
            room_id, MEMBER, {"n": n}, delay_ms=60_000, txn_id=str(n), state_key=f"k{n}"
        )
        for n in (1, 2)
    ]
    await client.manage_delayed(cancel, "cancel")
    await client.manage_delayed(send, "send")
    await seen.until(lambda w: any(e.state_key == "k1" for e in w.events))
    assert not any(e.state_key == "k2" for e in seen.events)
    with pytest.raises(ClientError) as too_long:
        await client.schedule_delayed(
            room_id, MEMBER, {}, delay_ms=10**10, txn_id="x", state_key="k"
        )
    assert too_long.value.status == 400


async def test_a_delayed_sticky_event_is_sticky(synapse, alice, bob, room_id, open_client, watch):
    ours, theirs = await open_client(synapse, alice), await open_client(synapse, bob)
    seen = watch(theirs, room_id)
    await seen.until(lambda w: w.rooms)
    await ours.schedule_delayed(
        room_id,
        STICKY,
        {"msc4354_sticky_key": "a"},
        delay_ms=300,
        txn_id="leave",
        sticky_duration_ms=3_600_000,
    )
    await seen.until(lambda w: any(e.type == STICKY for e in w.events))
    event = next(e for e in seen.events if e.type == STICKY)
    assert event.sticky_duration_ms == 3_600_000
    assert 0 < event.sticky_ttl_ms <= 3_600_000


async def test_sticky_events_are_seen_live_and_by_late_readers(
    synapse, alice, bob, room_id, open_client, watch
):
    ours, theirs = await open_client(synapse, alice), await open_client(synapse, bob)
    live = watch(theirs, room_id)
    await live.until(lambda w: w.rooms)
    ids = [
        await ours.send_event(
            room_id,
            STICKY,
            {"msc4354_sticky_key": f"k{n}"},
            txn_id=f"t{n}",
            sticky_duration_ms=600_000,
        )
        for n in range(130)
    ]
    again = await ours.send_event(
        room_id, STICKY, {"msc4354_sticky_key": "k0"}, txn_id="t0", sticky_duration_ms=600_000
    )
    assert again == ids[0]
    await live.until(lambda w: len([e for e in w.events if e.type == STICKY]) >= 130)
    assert [e.event_id for e in live.events if e.type == STICKY] == ids
    # More sticky events than one answer holds, all in front of the late reader's place in the sync.
    late = watch(theirs, room_id)
    await late.until(lambda w: w.rooms)
    first = {e.event_id: e for e in late.rooms[0].events if e.type == STICKY}
    assert set(first) == set(ids)
    assert all(0 < e.sticky_ttl_ms <= 600_000 for e in first.values())


async def test_readers_start_with_the_whole_room_and_see_each_event_once(
    synapse, alice, bob, room_id, open_client, watch
):
    ours, theirs = await open_client(synapse, alice), await open_client(synapse, bob)
    done = asyncio.Event()
    sent = []

    async def send() -> None:
        while not done.is_set():
            sent.append(await ours.send_state(room_id, "x.test", "k", {"n": len(sent)}))

    sender = asyncio.create_task(send())
    readers = []
    while len(sent) < 25:
        readers.append(watch(theirs, room_id))
        await readers[-1].until(lambda w: w.rooms)
        await asyncio.sleep(0.1)
    done.set()
    await sender
    for reader in readers:
        await reader.until(lambda w: sent[-1] in [e.event_id for e in w.events])
        types = {e.type for e in reader.rooms[0].events}
        assert {"m.room.create", "m.room.member", "m.room.power_levels"} <= types
        got = [e.event_id for e in reader.events if e.type == "x.test"]
        # No gap, no repetition, no going back: a run of what was sent, to its end.
        assert got == sent[len(sent) - len(got) :]


async def test_a_gap_is_bridged(synapse, alice, bob, room_id, tmp_path, open_client, watch):
    ours = await open_client(synapse, alice)
    theirs = await open_client(synapse, bob, device_store=tmp_path)
    first = watch(theirs, room_id)
    await first.until(lambda w: w.rooms)
    # A reader whose client is not polling: its task is held while more happens than one sync tells.
    theirs._sync.cancel()
    theirs._sync = None
    await ours.send_state(room_id, "x.test", "early", {"n": 1})
    await asyncio.gather(
        *(ours.send_event(room_id, "x.noise", {}, txn_id=f"noise{n}") for n in range(80))
    )
    theirs.start()
    await first.until(lambda w: any(e.state_key == "early" for e in w.events))
    noise = [e for e in first.events if e.type == "x.noise"]
    assert len(noise) < 80


async def test_kicked_banned_and_left_rooms_are_shown(
    synapse, alice, bob, room_id, open_client, watch
):
    ours, theirs = await open_client(synapse, alice), await open_client(synapse, bob)
    seen = watch(theirs, room_id)
    await seen.until(lambda w: w.rooms)
    assert seen.rooms[0].membership == "join"
    path = f"/_matrix/client/v3/rooms/{room_id}"
    await ours.request("POST", f"{path}/kick", body={"user_id": bob.user_id, "reason": "out"})
    await seen.until(lambda w: w.rooms[-1].membership == "leave")
    assert seen.events[-1].content["membership"] == "leave"
    assert seen.events[-1].content["reason"] == "out"
    late = watch(theirs, room_id)
    await late.until(lambda w: w.rooms)
    assert late.rooms[0].membership == "leave"
    await rooms.join_room(theirs, room_id)
    await seen.until(lambda w: w.rooms[-1].membership == "join")
    await ours.request("POST", f"{path}/ban", body={"user_id": bob.user_id})
    await seen.until(lambda w: w.rooms[-1].membership == "leave")
    assert seen.events[-1].content["membership"] == "ban"


async def test_to_device_is_kept_until_acknowledged(synapse, alice, bob, room_id, tmp_path, watch):
    ours = await connect(synapse.base_url, token=alice.access_token)
    theirs = await connect(synapse.base_url, token=bob.access_token, device_store=tmp_path)
    for n in (1, 2, 3):
        await ours.send_to_device("x.test", bob.user_id, bob.device_id, {"n": n}, encrypt=False)
    seen = watch(theirs, room_id)
    await seen.until(lambda w: len(w.messages) == 3)
    assert [m.content["n"] for m in seen.messages] == [1, 2, 3]
    assert {(m.security, m.sender_device_id, m.sender) for m in seen.messages} == {
        ("clear", None, alice.user_id)
    }
    await theirs.ack(seen.messages[1])
    await theirs.aclose()
    assert seen.ended or await seen.until(lambda w: w.ended) is None
    again = await connect(synapse.base_url, device_store=tmp_path)
    assert (again.user_id, again.device_id) == (bob.user_id, bob.device_id)
    redelivered = watch(again, room_id)
    await ours.send_to_device("x.test", bob.user_id, bob.device_id, {"n": 4}, encrypt=False)
    await redelivered.until(lambda w: len(w.messages) == 3)
    assert [m.content["n"] for m in redelivered.messages] == [1, 3, 4]
    await again.aclose()
    await again.aclose()
    await ours.aclose()


async def test_the_homeserver_is_killed_and_comes_back(tmp_path, watch):
    async with Synapse(tmp_path / "hs", SynapseOptions()) as server:
        alice, bob = await server.register("alice", "a"), await server.register("bob", "b")
        room_id = await server.create_room(alice.access_token)
        await server.join_room(bob.access_token, room_id)
        ours = await connect(server.base_url, token=alice.access_token)
        theirs = await connect(
            server.base_url, token=bob.access_token, device_store=tmp_path / "store"
        )
        seen = watch(theirs, room_id)
        await seen.until(lambda w: w.rooms)
        await ours.send_to_device("x.test", bob.user_id, bob.device_id, {"n": 1}, encrypt=False)
        await seen.until(lambda w: w.messages)
        server.kill()
        await seen.until(lambda w: w.connectivity)
        assert not seen.connectivity[0].online
        assert seen.connectivity[0].cause
        with pytest.raises(UnreachableError):
            await ours.send_state(room_id, "x.test", "k", {})
        await server.restart()
        event_id = await ours.send_state(room_id, "x.test", "k", {"n": 2})
        await ours.send_to_device("x.test", bob.user_id, bob.device_id, {"n": 3}, encrypt=False)
        await seen.until(lambda w: len(w.messages) == 2 and w.connectivity[-1].online, 5.0)
        await seen.until(lambda w: event_id in [e.event_id for e in w.events], 5.0)
        assert [c.online for c in seen.connectivity] == [False, True]
        assert len([e for e in seen.events if e.event_id == event_id]) == 1
        assert [m.content["n"] for m in seen.messages] == [1, 3]
        await ours.aclose()
        await theirs.aclose()


async def test_default_rate_limits_are_survived(limited_synapse, watch):
    alice = await limited_synapse.register("limits", "a")
    room_id = await limited_synapse.create_room(alice.access_token)
    client = await connect(limited_synapse.base_url, token=alice.access_token)
    seen = watch(client, room_id)
    limit: ClientError | None = None
    for n in range(12):
        try:
            await client.send_event(room_id, "x.test", {"n": n}, txn_id=f"t{n}")
        except ClientError as error:
            limit = error
            break
    assert limit is not None
    assert limit.status == 429
    assert limit.retry_after_ms is not None
    assert limit.retry_after_ms > 0
    assert n >= 9
    # Methods that wait: more than a burst of listing, which may be done once a second.
    for _ in range(8):
        assert await client.list_delayed() == []
    await asyncio.sleep(limit.retry_after_ms / 1000)
    await client.send_event(room_id, "x.test", {"last": True}, txn_id="last")
    await seen.until(lambda w: any(e.content.get("last") for e in w.events))
    assert not seen.connectivity
    await client.aclose()


async def test_a_revoked_token_ends_the_stream(synapse, new_user, room_id, tmp_path, watch):
    carol = await new_user("carol")
    client = await connect(synapse.base_url, token=carol.access_token, device_store=tmp_path)
    seen = watch(client, room_id)
    await seen.until(lambda w: w.rooms)
    assert seen.rooms[0].membership == "leave"
    reply = await synapse.request(
        "POST", "/_matrix/client/v3/logout", token=carol.access_token, body={}
    )
    assert reply.status == 200
    await seen.until(lambda w: w.ended)
    assert seen.connectivity[-1].token_revoked
    assert [update async for update in client.updates(room_id)] == [seen.connectivity[-1]]
    with pytest.raises(ClientError) as error:
        await client.openid_token()
    assert error.value.errcode == "M_UNKNOWN_TOKEN"
    assert carol.access_token not in str(error.value) + repr(client)
    await client.aclose()
    with pytest.raises(ClientError) as error:
        await connect(synapse.base_url, device_store=tmp_path)
    assert error.value.do
    back = await connect(synapse.base_url, password="password", device_store=tmp_path)
    assert (back.user_id, back.device_id) == (carol.user_id, carol.device_id)
    await back.aclose()


async def test_login_once_then_the_same_device(synapse, alice, bob, tmp_path):
    with pytest.raises(UsageError, match="no login"):
        await connect(synapse.base_url, device_store=tmp_path)
    with pytest.raises(ClientError) as wrong:
        await connect(synapse.base_url, user=alice.user_id, password="no", device_store=tmp_path)
    assert wrong.value.errcode == "M_FORBIDDEN"
    first = await connect(
        synapse.base_url, user=alice.user_id, password="password", device_store=tmp_path
    )
    saved = tmp_path / "session.json"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "rtcfoci.sqlite").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="in use") as busy:
        await connect(synapse.base_url, device_store=tmp_path)
    assert "device store of its own" in busy.value.do
    await first.aclose()
    second = await connect(synapse.base_url, device_store=tmp_path)
    assert second.device_id == first.device_id != alice.device_id
    await second.aclose()
    with pytest.raises(UsageError, match="another device"):
        await connect(synapse.base_url, token=bob.access_token, device_store=tmp_path)
    with pytest.raises(UsageError, match="another device"):
        await connect(synapse.base_url, user="somebody", password="x", device_store=tmp_path)


async def test_rooms_and_small_requests(synapse, alice, bob, open_client):
    ours, theirs = await open_client(synapse, alice), await open_client(synapse, bob)
    alias = "r" + alice.device_id.lower()
    levels = {"events": {MEMBER: 0}}
    room_id = await rooms.create_room(
        ours, name="A room", invite=[bob.user_id], alias=alias, power_levels=levels
    )
    full_alias = f"#{alias}:localhost"
    assert await rooms.resolve_alias(ours, full_alias) == room_id
    assert await rooms.join_room(theirs, full_alias) == room_id
    assert room_id in await rooms.joined_rooms(theirs)
    content = await rooms.power_levels(theirs, room_id)
    assert power.required_power(content, MEMBER, state=True) == 0
    assert power.required_power(content, "x.other", state=True) == 50
    assert power.required_power(content, "x.other", state=False) == 0
    assert power.user_power(content, bob.user_id) == 0
    await rooms.leave_room(theirs, room_id)
    assert room_id not in await rooms.joined_rooms(theirs)
    with pytest.raises(ClientError) as missing:
        await rooms.resolve_alias(ours, "#nobody:localhost")
    assert missing.value.errcode == "M_NOT_FOUND"
    with pytest.raises(ClientError, match="names no room"):
        await rooms.resolve_alias(ours, "lobby")
    openid = await ours.openid_token()
    assert openid["matrix_server_name"] == "localhost"
    turn = await ours.request("GET", "/_matrix/client/v3/voip/turnServer")
    assert turn["uris"] == ["turn:127.0.0.1:3478"]


async def test_resolving_a_homeserver(synapse):
    assert await resolve_homeserver(synapse.base_url + "/") == synapse.base_url
    with pytest.raises(UnreachableError) as silent:
        await resolve_homeserver("http://127.0.0.1:1")
    assert "127.0.0.1:1" in silent.value.what
    with pytest.raises(ClientError, match="is no homeserver"):
        await resolve_homeserver("ftp://example.org")
