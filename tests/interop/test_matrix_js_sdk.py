"""What matrix-js-sdk shows of a member that has a mesh only, beside one of its own."""

import asyncio
import contextlib
import time

import pytest
from nio import AsyncClient, AsyncClientConfig

import rtcfoci
from rtcfoci.call.sessions import follow_session
from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.notification import NOTIFICATION_TYPES, write_notification
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Slot, Transport
from rtcfoci.matrix.client import SealedCounts
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.nio import NioClient
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


class Reader:
    """A client of ours that follows the room's session and takes no part."""

    def __init__(self, client, room_id):
        self.members, self.events, self.changed = (), {}, asyncio.Condition()
        self.told = []
        self.task = asyncio.create_task(self.follow(client, room_id))

    async def follow(self, client, room_id):
        def keep(events):
            self.events.update({e.event_id: e for e in events if e.sticky_duration_ms})

        async for seen in follow_session(client, Slot(room_id=room_id), None, keep):
            async with self.changed:
                self.members = seen.session.members
                self.told += seen.notifications
                self.changed.notify_all()

    async def until(self, count):
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: len(self.members) == count)
        return self.members

    async def hears(self, kind, event_id):
        """Wait for the news of a notification."""

        def found():
            return [
                news
                for news in self.told
                if isinstance(news, kind) and news.notification.event_id == event_id
            ]

        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(found)
        return found()[-1]


@contextlib.asynccontextmanager
async def reading(synapse, person, folder, *, nio):
    """Our own client, or a bot's of matrix-nio."""
    if not nio:
        client = await connect(synapse.base_url, token=person.access_token, encrypted=True)
        try:
            yield client
        finally:
            await client.aclose()
        return
    folder.mkdir()
    bot = AsyncClient(
        synapse.base_url,
        person.user_id,
        store_path=str(folder),
        config=AsyncClientConfig(store_sync_tokens=True, encryption_enabled=True),
    )
    bot.restore_login(person.user_id, person.device_id, person.access_token)
    client = NioClient.from_nio(bot)
    syncing = asyncio.create_task(bot.sync_forever(timeout=5000))
    try:
        # A bot publishes its keys after its first sync: only then can anybody encrypt for it.
        async with asyncio.timeout(30):
            while not bot.olm.account.shared:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield client
    finally:
        syncing.cancel()
        await asyncio.gather(syncing, return_exceptions=True)
        await client.aclose()
        await bot.close()


async def announce(client, room_id, which):
    """Join or leave with the sticky superset, encrypted, held by the server for a moment."""
    member = Member(user_id=client.user_id, device_id=client.device_id, member_id="ours")
    mesh = Transport("rtcfoci.mesh", {"type": "rtcfoci.mesh"})
    own = OwnMembership(slot=Slot(room_id=room_id), member=member, transports=(mesh,))
    event = getattr(Superset(), which)(own)
    await client.schedule_delayed(
        room_id,
        event.type,
        event.content,
        delay_ms=50,
        txn_id=which,
        sticky_duration_ms=event.sticky_duration_ms,
        encrypt=True,
    )


async def ours_are_rung(calling, readers, clients, membership_id):
    """As Element Call rings: with a plain event that refers to the membership, and encrypted."""
    users = [client.user_id for client in clients]
    content = {
        "m.mentions": {"user_ids": users, "room": False},
        "m.relates_to": {"rel_type": "m.reference", "event_id": membership_id},
        "notification_type": "ring",
        "sender_ts": time.time_ns() // 1_000_000,
        "lifetime": 30_000,
    }
    kind = NOTIFICATION_TYPES[0]
    event_id = (await calling.ask("send", type=kind, content=content))["eventId"]
    for reader in readers:
        news = await reader.hears(rtcfoci.NotificationStarted, event_id)
        assert news.notification.device_id == reader.members[0].member.device_id
    for client in clients:
        await rtcfoci.decline(client, news.notification)
    await calling.until(
        lambda s: s["users"] == sorted(users), "both decline", do="declines", eventId=event_id
    )
    for reader in readers:
        news = await reader.hears(rtcfoci.NotificationEnded, event_id)
        assert news.reason is rtcfoci.NotificationEnd.DECLINED


async def ours_ring(calling, caller, readers, client, room_id, membership_id):
    """The SDK hears a plain one that is encrypted, if the slot is open, and declines."""
    slot = {"encryption": {"type": "org.matrix.msc4143.per_member"}}
    await calling.ask("call", method="ensureRtcSlotOpen", args=[slot])
    ring = write_notification(
        Slot(room_id=room_id), membership_id=membership_id, user_ids=[caller.user_id], room=False,
        kind="ring", sender_ts_ms=time.time_ns() // 1_000_000, lifetime_ms=30_000,
    )  # fmt: skip
    event_id = await client.send_event(
        room_id, ring.type, ring.content, txn_id="ring", encrypt=True
    )
    await calling.until(
        lambda s: s["notifications"].get(event_id, {}).get("content"),
        "it rings",
        do="notifications",
    )
    await calling.ask("decline", eventId=event_id)
    for reader in readers:
        news = await reader.hears(rtcfoci.NotificationDeclined, event_id)
        assert news.user_id == caller.user_id


async def test_encrypted_sticky_memberships_both_ways(synapse, new_user, modules, tmp_path):
    """Our own client and the adapter, there before and come after; the SDK encrypts with its Rust crypto."""
    caller, alice, bob = [await new_user(name) for name in ("caller", "alice", "bob")]
    room_id = await synapse.create_room(caller.access_token, encrypted=True)
    for person in (alice, bob):
        await synapse.join_room(person.access_token, room_id)
    async with (
        reading(synapse, alice, tmp_path / "alice", nio=False) as ours,
        reading(synapse, bob, tmp_path / "bob", nio=True) as bots,
        sdk_client(modules, synapse, caller, room_id, tmp_path) as calling,
    ):
        readers = [Reader(client, room_id) for client in (ours, bots)]
        identity = {
            "userId": caller.user_id,
            "deviceId": caller.device_id,
            "memberId": "of-this-join",
        }
        config = {"unstableSendStickyEvents": True}
        transport = {**SFU, "livekit_alias": room_id}
        arguments = [identity, [], transport, config]
        await calling.ask("call", method="joinRTCSession", args=arguments, wait=False)
        await calling.until(lambda s: len(s["members"]) == 1, "the caller is in")
        for reader in readers:
            await reader.until(1)
        readers += [Reader(client, room_id) for client in (ours, bots)]
        for reader in readers:
            (membership,) = await reader.until(1)
            member = membership.member
            assert (member.user_id, member.device_id) == (caller.user_id, caller.device_id)
            assert (member.member_id, membership.dialect) == ("of-this-join", "D6")
            assert membership.encrypted
            event = reader.events[membership.event_id]
            assert event.encrypted_by_device_id == caller.device_id
            assert 0 < event.sticky_ttl_ms <= 3_600_000
        for client in (ours, bots):
            await announce(client, room_id, "join")
            seen = await calling.until(lambda s: len(s["members"]) == 2, "ours is in")
            mine = by_user(seen)[client.user_id]
            assert (mine["kind"], mine["deviceId"]) == ("rtc", client.device_id)
            assert mine["used"] == {"type": "rtcfoci.mesh"}
            for reader in readers:
                assert (await reader.until(2))[1].dialect == "D6/D7"
            await announce(client, room_id, "leave")
            await calling.until(lambda s: len(s["members"]) == 1, "ours has left")
        await ours_are_rung(calling, readers, (ours, bots), membership.event_id)
        assert (await calling.ask("leave"))["left"]
        for reader in readers:
            assert await reader.until(0) == ()
        for client in (ours, bots):
            await ours_ring(calling, caller, readers, client, room_id, membership.event_id)
        for reader in readers:
            reader.task.cancel()
        assert (await calling.ask("look"))["troubles"] == []
        for client in (ours, bots):
            assert client.sealed(room_id) == SealedCounts()
