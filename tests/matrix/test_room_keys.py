"""What we send encrypted, against the homeserver in memory: who gets the keys, and when they change."""

from __future__ import annotations

import asyncio

import pytest
from nio.crypto import OutboundGroupSession

from rtcfoci.errors import ClientError
from rtcfoci.testing.clock import run
from tests.matrix.sealing import HOUR_MS, STICKY, a_house, ann_and_bob, comes


def test_who_comes_later_reads_what_is_still_sticky():
    async def main():
        async with ann_and_bob() as (ann, bob):
            await ann.write(1)
            await comes(lambda: bob.read)
            cid = await (await ann.house.device("cid")).watch()
            await comes(lambda: cid.read)
            other = await (await ann.house.device("bob")).watch()  # and another device
            await comes(lambda: other.read)
            assert cid.read == other.read == [(1, ann.client.device_id)]
            (one,) = ann.client.encrypter.room_keys._rooms[ann.house.room_id].sessions
            assert len(one.has_key) == 3

    run(main())


def test_who_is_gone_reads_no_more():
    async def main():
        async with ann_and_bob() as (ann, bob):
            cid = await (await ann.house.device("cid")).watch()
            await ann.write(1)
            await comes(lambda: cid.read)
            await cid.client.request(
                "POST", f"/_matrix/client/v3/rooms/{ann.house.room_id}/leave", body={}
            )
            room = ann.client.encrypter.room_keys._rooms[ann.house.room_id]
            await comes(lambda: room.sessions[0].known_outside)  # seen behind us, before we write
            await ann.write(2)
            await comes(lambda: len(bob.read) == 2)
            await ann.write(3)
            first, second = room.sessions
            users = {user for user, _ in second.has_key}
            assert cid.client.user_id not in users
            assert {user for user, _ in first.has_key} - users == {cid.client.user_id}

    run(main())


def test_a_session_is_not_used_for_ever(monkeypatch):
    monkeypatch.setattr(OutboundGroupSession, "should_rotate", lambda self: self.message_count >= 2)

    async def main():
        async with ann_and_bob() as (ann, bob):
            for n in range(12):
                await ann.write(n)
            await comes(lambda: len(bob.read) == 12)
            assert [n for n, _ in bob.read] == list(range(12))
            sessions = ann.client.encrypter.room_keys._rooms[ann.house.room_id].sessions
            assert len(sessions) == 4

    run(main())


def test_a_key_that_cannot_be_shared_at_once_follows():
    async def main():
        async with ann_and_bob() as (ann, bob):
            ann.house.server.refuse("/joined_members", count=1, status=504, errcode="M_UNKNOWN")
            await ann.write(1)
            await comes(lambda: bob.unread)
            await asyncio.sleep(10)
            await ann.client.send_state(ann.house.room_id, "x.test", "", {})
            await comes(lambda: bob.read)
            assert bob.read == [(1, ann.client.device_id)]

    run(main())


def test_held_events_are_encrypted_and_known_again():
    async def main():
        async with ann_and_bob() as (ann, bob):
            content = {"msc4354_sticky_key": "k", "n": 1}
            hold = {"delay_ms": 60_000, "sticky_duration_ms": HOUR_MS}
            await ann.client.schedule_delayed(
                ann.house.room_id, STICKY, content, txn_id="a", encrypt=True, **hold
            )
            await ann.client.schedule_delayed(
                ann.house.room_id, "m.room.encrypted", {"ciphertext": "?"}, txn_id="b", **hold
            )
            held, strange = await ann.client.list_delayed()
            assert (held.type, held.content) == (STICKY, content)
            assert strange.type == "m.room.encrypted"
            await comes(lambda: bob.read, 90)
            assert bob.read == [(1, ann.client.device_id)]

    run(main())


def test_keys_outlive_the_process(tmp_path):
    async def main():
        async with a_house() as house:
            ann = await (await house.device("ann", tmp_path / "ann")).watch()
            bob = await (await house.device("bob", tmp_path / "bob")).watch()
            await ann.write(1)
            await comes(lambda: bob.read)
            await ann.client.schedule_delayed(
                house.room_id, STICKY, {"n": 2}, txn_id="a", delay_ms=60_000, encrypt=True
            )
            await bob.restart()
            await ann.restart()
            await comes_of(bob, [(1, ann.client.device_id)])
            (held,) = await ann.client.list_delayed()
            assert (held.type, held.content) == (
                STICKY,
                {"n": 2},
            )  # known for ours by the next start
            await ann.write(3)
            await comes(lambda: len(bob.read) == 2)

    async def comes_of(device, expected):
        await device.watch()
        await comes(lambda: device.read == expected)

    run(main())


def test_nothing_is_sent_in_clear_instead():
    async def main():
        async with ann_and_bob() as (ann, _):
            clear = await ann.house.device("cid", encrypted=False)
            with pytest.raises(ClientError, match="was not sent") as error:
                await clear.write(1)
            assert "encrypted=True" in error.value.do

    run(main())
