"""Encrypted memberships, rings and declines on a real Synapse, read by our own client and beside nio's."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from nio import AsyncClient, AsyncClientConfig

import rtcfoci
from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.notification import DECLINE_TYPES, write_notification
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Now, Slot, Transport
from rtcfoci.core.policies import STRICT, TOLERANT
from rtcfoci.core.session import Session
from rtcfoci.matrix.client import SealedCounts
from rtcfoci.matrix.nio import NioClient

pytestmark = pytest.mark.system

MESH = Transport("rtcfoci.mesh", {"type": "rtcfoci.mesh"})


class Room:
    """An encrypted room, with an open slot that asks for encryption."""

    def __init__(self, room_id, people):
        self.slot, self.people = Slot(room_id=room_id), people

    async def announce(self, client, member_id, *, claimed=None, encrypt=True):
        """Join with an encrypted sticky event; give its id."""
        device_id = claimed or client.device_id
        member = Member(user_id=client.user_id, device_id=device_id, member_id=member_id)
        event = Superset().join(OwnMembership(slot=self.slot, member=member, transports=(MESH,)))
        return await client.send_event(
            self.slot.room_id,
            event.type,
            event.content,
            txn_id=member_id,
            sticky_duration_ms=event.sticky_duration_ms,
            encrypt=encrypt,
        )

    def reasons(self, events, event_id, policy):
        """Say why an event counts for nobody, by the core; empty when it counts."""
        ts_ms = time.time_ns() // 1_000_000
        now = Now(ts_ms / 1000, ts_ms)
        session = Session(self.slot, [Superset()], policy=policy)
        for event in events:
            session.receive(event, now)
        event = next(e for e in reversed(events) if e.event_id == event_id)
        return [problem.code for problem in session.explain(event, now)]


def read(seen, event_id):
    """Give an event as it was read: None while it is sealed."""
    return next((e for e in seen.events if e.event_id == event_id and e.encrypted), None)


def sealed(seen, event_id):
    return [e for e in seen.events if e.event_id == event_id and e.type == "m.room.encrypted"]


class Held:
    """Keeps the keys of a new session back, that a client would share."""

    def __init__(self, client):
        self.client, self.send, self.kept = client, client.send_to_devices, []
        client.encrypter.room_keys._rooms.clear()
        client.send_to_devices = self.keep

    async def keep(self, *arguments):
        self.kept.append(arguments)

    async def release(self):
        del self.client.send_to_devices
        for arguments in self.kept:
            await self.send(*arguments)

    def lose(self):
        del self.client.send_to_devices
        self.client.encrypter.room_keys._rooms.clear()


@pytest.fixture(params=["own", "nio"])
async def reader(request, synapse, bob, tmp_path, open_client, eventually):
    """Bob's client: ours, or the adapter beside a bot's."""
    if request.param == "own":
        yield await open_client(synapse, bob, encrypted=True)
        return
    config = AsyncClientConfig(store_sync_tokens=True, encryption_enabled=True)
    bot = AsyncClient(synapse.base_url, bob.user_id, store_path=str(tmp_path), config=config)
    bot.restore_login(bob.user_id, bob.device_id, bob.access_token)
    client = NioClient.from_nio(bot)
    syncing = asyncio.create_task(bot.sync_forever(timeout=5000))
    await eventually(lambda: bot.olm.account.shared)
    yield client
    syncing.cancel()
    await asyncio.gather(syncing, return_exceptions=True)
    await client.aclose()
    await bot.close()
    bot.store.database.close()


async def test_encrypted_sticky_memberships(
    synapse, alice, bob, reader, open_client, watch, eventually
):
    room_id = await synapse.create_room(alice.access_token, encrypted=True)
    await synapse.join_room(bob.access_token, room_id)
    writer = await open_client(synapse, alice, encrypted=True)
    room = Room(room_id, (alice, bob))
    slot = {
        "status": "open",
        "application": {"type": "m.call"},
        "encryption": {"type": "org.matrix.msc4143.per_member"},
    }
    await writer.send_state(room_id, "org.matrix.msc4143.rtc.slot", room.slot.slot_id, slot)
    seen, own = watch(reader, room_id), watch(writer, room_id)
    for each in (seen, own):
        await each.until(lambda w: w.rooms)

    # The key comes before the event.
    before = await room.announce(writer, "before")
    await seen.until(lambda w: read(w, before))
    assert read(seen, before).encrypted_by_device_id == alice.device_id
    assert 0 < read(seen, before).sticky_ttl_ms <= 3_600_000
    assert room.reasons(seen.events, before, STRICT) == []

    # Whoever comes when it was sent long ago gets the key then.
    newcomer = await synapse.login(bob.user_id, "password")
    seen_later = watch(await open_client(synapse, newcomer, encrypted=True), room_id)
    await seen_later.until(lambda w: read(w, before))

    # It comes after: the event counts from when it came itself.
    held = Held(writer)
    late = await room.announce(writer, "late")
    await seen.until(lambda w: sealed(w, late))
    await asyncio.sleep(0.5)
    assert read(seen, late) is None
    await held.release()
    await seen.until(lambda w: read(w, late))
    opened, (came,) = read(seen, late), sealed(seen, late)
    assert opened.encrypted_by_device_id == alice.device_id
    assert opened.received_ts_ms == came.received_ts_ms <= time.time_ns() // 1_000_000 - 500
    assert opened.sticky_ttl_ms == came.sticky_ttl_ms
    assert room.reasons(seen.events, late, STRICT) == []

    # It never comes: nobody else waits for it.
    held = Held(writer)
    never = await room.announce(writer, "never")
    held.lose()

    # Another device of hers says it is this one.
    second = await synapse.login(alice.user_id, "password")
    other = await open_client(synapse, second, encrypted=True)
    claimed = await room.announce(other, "claimed", claimed=alice.device_id)
    await seen.until(lambda w: read(w, claimed))
    assert read(seen, claimed).encrypted_by_device_id == second.device_id
    for policy in (STRICT, TOLERANT):
        assert room.reasons(seen.events, claimed, policy) == ["device_mismatch"]

    # Or its session has keys that are no device's.
    machine = other.encrypter
    encrypt, account = machine._olm._olm_encrypt, machine._olm.account
    keys = {**account.identity_keys, "ed25519": "A" * 43}

    def forged(*arguments):
        machine._olm.account = SimpleNamespace(identity_keys=keys)
        try:
            return encrypt(*arguments)
        finally:
            machine._olm.account = account

    machine._olm._olm_encrypt = forged
    machine.room_keys._rooms.clear()
    forgery = await room.announce(other, "forgery", claimed=alice.device_id)
    await seen.until(lambda w: read(w, forgery))
    assert read(seen, forgery).encrypted_by_device_id is None
    assert room.reasons(seen.events, forgery, STRICT) == ["not_encrypted"]
    clear = await room.announce(writer, "clear", encrypt=False)
    await seen.until(lambda w: any(e.event_id == clear for e in w.events))
    assert room.reasons(seen.events, clear, STRICT) == ["not_encrypted"]

    # Whoever comes to read later finds the same.
    ids = (before, late, claimed, forgery)
    again = watch(reader, room_id)
    await again.until(lambda w: all(read(w, event_id) for event_id in ids))
    assert {e: read(again, e).encrypted_by_device_id for e in ids} == {
        before: alice.device_id,
        late: alice.device_id,
        claimed: second.device_id,
        forgery: None,
    }
    assert sealed(again, never)
    assert read(seen, never) is None

    # A notification that is not sticky, as Element Call sends it, and the answer.
    told = []

    async def listen():
        async for news in rtcfoci.listen(reader, room_id):
            told.append(news)

    listening = asyncio.create_task(listen())
    await eventually(lambda: len(reader.feed._readers) == 3 and not reader.feed.unprimed())
    ring = write_notification(
        room.slot, membership_id=before, user_ids=[bob.user_id], room=False, kind="ring",
        sender_ts_ms=time.time_ns() // 1_000_000, lifetime_ms=30_000,
    )  # fmt: skip
    await writer.send_event(room_id, ring.type, ring.content, txn_id="ring", encrypt=True)
    await eventually(lambda: told)
    assert told[0].notification.device_id == alice.device_id
    await rtcfoci.decline(reader, told[0].notification)
    await own.until(lambda w: any(e.type in DECLINE_TYPES for e in w.events))
    (declined,) = [e for e in own.events if e.type in DECLINE_TYPES]
    assert declined.encrypted_by_device_id == bob.device_id
    await eventually(lambda: isinstance(told[-1], rtcfoci.NotificationEnded))
    assert told[-1].reason is rtcfoci.NotificationEnd.DECLINED
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert reader.sealed(room_id) == SealedCounts(waiting=1, unbound=1)
