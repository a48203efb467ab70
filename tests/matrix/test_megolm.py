"""Encrypted sticky events against the homeserver in memory: keys that come before, after and never."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from rtcfoci.matrix import megolm
from rtcfoci.matrix.client import SealedCounts
from rtcfoci.testing.clock import run
from tests.matrix.sealing import HOUR_MS, STICKY, Held, ann_and_bob, comes, now_ts_ms, unknown


def test_a_key_that_came_before():
    async def main():
        async with ann_and_bob() as (ann, bob):
            event_id = await ann.write(1)
            await comes(lambda: bob.read and ann.read)
            (event,) = [e for e in bob.seen if e.type == STICKY]
            assert event.event_id == event_id
            assert (event.sender, event.encrypted) == (ann.client.user_id, True)
            assert event.content == {"msc4354_sticky_key": "k", "n": 1}
            assert 0 < event.sticky_ttl_ms <= event.sticky_duration_ms == HOUR_MS
            expected = [(1, ann.client.device_id)]
            assert bob.read == ann.read == expected  # our own echo is read as well
            # It waited for Ann's devices; now they are known.
            assert bob.unread == [event_id]
            await ann.write(2)
            expected.append((2, ann.client.device_id))
            await comes(lambda: bob.read == expected)
            assert bob.unread == [event_id]
            # A reader who comes later finds it in its first update.
            late = bob.seen
            await bob.watch()
            assert bob.seen is not late
            assert (bob.read, bob.unread) == (expected, [])
            room = ann.house.server.rooms[ann.house.room_id]
            assert {e.type for e in room.events if e.sticky_ms} == {"m.room.encrypted"}

    run(main())


def test_a_key_that_comes_late_opens_what_waited_for_it():
    async def main():
        async with ann_and_bob() as (ann, bob):
            held = Held(ann)
            await ann.write(1)
            await ann.write(2)
            await comes(lambda: len(bob.unread) == 2)
            first = bob.seen
            await asyncio.sleep(60)
            await bob.watch()  # a second reader, who has them sealed in its first update
            assert (bob.read, len(bob.unread), len(bob.sealed)) == ([], 2, 2)
            await asyncio.sleep(60)
            await held.release()
            await comes(lambda: len(bob.read) == 2)
            device_id = ann.client.device_id
            assert bob.read == [(1, device_id), (2, device_id)]
            assert len(bob.sealed) == 0
            sealed = [e for e in first if e.type == "m.room.encrypted"]
            for seen in (first, bob.seen):
                opened = [e for e in seen if e.encrypted]
                for name in ("event_id", "received_ts_ms", "sticky_ttl_ms", "origin_server_ts_ms"):
                    assert [getattr(e, name) for e in opened] == [getattr(e, name) for e in sealed]
            assert now_ts_ms() - sealed[0].received_ts_ms >= 120_000

    run(main())


def test_a_key_that_never_comes_holds_nothing_up_and_is_forgotten():
    async def main():
        async with ann_and_bob() as (ann, bob):
            cid = await (await ann.house.device("cid")).watch()
            Held(ann)
            await ann.write(1)
            await cid.write(2)
            await comes(lambda: bob.read)
            assert bob.read == [(2, cid.client.device_id)]
            assert len(bob.sealed) == 1
            await asyncio.sleep(3601)
            await ann.client.send_state(ann.house.room_id, "x.test", "", {})
            await comes(lambda: len(bob.sealed) == 0)
            assert bob.counts.dropped == 0

    run(main())


def test_the_session_says_which_device_it_was():
    """What the event itself says of its sender is a claim, and need not be there (Matrix 1.3)."""

    async def main():
        async with ann_and_bob() as (ann, bob):
            other = await ann.house.device("ann")
            content = await other.sealed_for_room(1)
            keys = ann.client.encrypter._olm.account.identity_keys
            content["device_id"] = ann.client.device_id
            content["sender_key"] = keys["curve25519"]
            await other.put(content)
            await comes(lambda: bob.read)
            assert bob.read == [(1, other.client.device_id)]
            content = await other.sealed_for_room(2)
            del content["device_id"], content["sender_key"]
            await other.put(content)
            await comes(lambda: len(bob.read) == 2)
            assert bob.read[1] == (2, other.client.device_id)

    run(main())


def test_keys_of_no_device_of_the_sender_bind_nobody():
    async def main():
        async with ann_and_bob() as (ann, bob):
            machine = ann.client.encrypter
            encrypt, account = machine._olm._olm_encrypt, machine._olm.account

            keys = {**account.identity_keys, "ed25519": "A" * 43}

            def forged(*arguments):
                machine._olm.account = SimpleNamespace(identity_keys=keys)
                try:
                    return encrypt(*arguments)
                finally:
                    machine._olm.account = account

            machine._olm._olm_encrypt = forged
            await ann.write(1)
            await comes(lambda: bob.read)
            assert bob.read == [(1, None)]
            assert bob.counts.unbound == 1

    run(main())


def test_keys_that_somebody_passed_on_bind_nobody():
    async def main():
        async with ann_and_bob() as (ann, bob):
            await ann.write(1)
            await comes(lambda: bob.read)
            for session in bob.client.encrypter._olm.inbound_group_store:
                session.forwarding_chain = ["whoever it was"]
            await ann.write(2)
            await comes(lambda: len(bob.read) == 2)
            assert bob.read == [(1, ann.client.device_id), (2, None)]

    run(main())


def test_who_passes_a_session_on_is_not_its_owner():
    async def main():
        async with ann_and_bob() as (ann, bob):
            eve = await (await ann.house.device("eve")).watch()
            held = Held(ann)
            await ann.write(1)
            await comes(lambda: bob.unread)
            # Eve gives Ann's session to Bob as her own, before Ann's own word of it arrives.
            (session,) = ann.client.encrypter.room_keys._rooms[ann.house.room_id].sessions
            content = {
                "algorithm": megolm.MEGOLM,
                "room_id": ann.house.room_id,
                "session_id": session.outbound.id,
                "session_key": session.first_key,
            }
            await eve.client.send_to_device(
                "m.room_key", bob.client.user_id, bob.client.device_id, content, encrypt=True
            )
            await comes(lambda: bob.sealed._givers)
            # An event of Eve's own in that session is hers, whoever wrote the text.
            sealed = next(e for e in bob.seen if e.type == "m.room.encrypted")
            await eve.put(dict(sealed.content))
            await comes(lambda: bob.read)
            assert bob.read == [(1, eve.client.device_id)]
            assert bob.seen[-1].sender == eve.client.user_id
            await held.release()
            await comes(lambda: len(bob.read) == 2)
            assert bob.read[1] == (1, ann.client.device_id)
            assert (bob.counts.refused, bob.counts.unbound) == (0, 0)

    run(main())


def test_a_ciphertext_counts_once_and_in_its_room():
    async def main():
        async with ann_and_bob() as (ann, bob):
            content = await ann.sealed_for_room(1)
            await ann.put(content)
            await comes(lambda: bob.read)
            await ann.put(content)
            await comes(lambda: bob.counts.refused == 1)
            for plain in (
                {"type": STICKY, "content": {"n": 2}, "room_id": "!other:hs"},
                {"type": STICKY, "content": {"n": 2}},
                {"type": "m.room.encrypted", "content": {}, "room_id": ann.house.room_id},
                {"type": 1, "content": {}, "room_id": ann.house.room_id},
                {"type": STICKY, "content": [], "room_id": ann.house.room_id},
                [],
            ):
                await ann.put(sealed_as(ann, json.dumps(plain)))
            await ann.put(sealed_as(ann, "[" * 20_000))
            await ann.put(sealed_as(ann, "no JSON"))
            await comes(lambda: bob.counts.refused == 9)
            await ann.write(3)
            await comes(lambda: len(bob.read) == 2)
            assert [n for n, _ in bob.read] == [1, 3]
            assert len(bob.sealed) == 0

    run(main())


def sealed_as(device, text):
    """Encrypt a text in the session that the device already shares."""
    (session,) = device.client.encrypter.room_keys._rooms[device.house.room_id].sessions
    return {
        "algorithm": megolm.MEGOLM,
        "session_id": session.outbound.id,
        "ciphertext": session.outbound.encrypt(text),
    }


def test_relations_stay_in_clear():
    async def main():
        async with ann_and_bob() as (ann, bob):
            relation = {"rel_type": "m.reference", "event_id": "$x"}
            content = await ann.sealed_for_room(1)
            await ann.put({**content, "m.relates_to": relation})
            await comes(lambda: bob.read)
            assert bob.seen[-1].content == {"n": 1, "m.relates_to": relation}

    run(main())


def test_a_flood_is_bounded_and_counted(monkeypatch):
    monkeypatch.setattr(megolm, "MAX_WAITING", 6)
    monkeypatch.setattr(megolm, "MAX_WAITING_EACH", 4)

    async def main():
        async with ann_and_bob() as (ann, bob):
            cid = await (await ann.house.device("cid")).watch()
            held = Held(cid)
            await cid.write(1)
            await cid.write(2)
            for n in range(20):
                await ann.put(unknown(n))
            await comes(lambda: len(bob.unread) == 22)
            # The many of one make room for one another, and not the few of another.
            assert (len(bob.sealed), bob.counts.dropped) == (6, 16)
            eve = await (await ann.house.device("eve")).watch()
            for n in range(5):
                await eve.put(unknown(n))
            await comes(lambda: len(bob.unread) == 27)
            assert (len(bob.sealed), bob.counts.dropped) == (6, 21)
            await held.release()
            await comes(lambda: bob.read)
            assert {n for n, _ in bob.read} == {1, 2}

    run(main())


def test_of_what_is_not_sticky_only_what_is_about_a_call_is_opened():
    async def main():
        async with ann_and_bob() as (ann, bob):
            chat = await ann.say(1, "m.room.message")
            odd = await ann.put(sealed_as(ann, "no JSON"), sticky_ms=None)
            await comes(lambda: bob.unread == [chat, odd])
            assert (bob.counts, ann.counts) == (SealedCounts(), SealedCounts())
            devices = bob.client.encrypter.devices
            assert not devices.knows(ann.client.user_id)  # nobody was asked for
            await ann.say(2)
            await comes(lambda: bob.read)
            assert bob.read == [(2, ann.client.device_id)]
            # What was not opened is not remembered, so that nothing sticky is forgotten for it.
            assert len(bob.sealed._seen) == 1

    run(main())


def test_a_plain_event_waits_for_its_key_for_two_minutes():
    async def main():
        async with ann_and_bob() as (ann, bob):
            for wait_s in (110, 130):
                held = Held(ann)
                event_id = await ann.say(wait_s)
                await comes(lambda event_id=event_id: event_id in bob.unread)
                assert bob.counts == SealedCounts(waiting=1)
                await asyncio.sleep(wait_s)
                await held.release()
                await ann.client.send_state(ann.house.room_id, "x.test", "", {"n": wait_s})
                await comes(lambda: bob.counts == SealedCounts())
                ann.client.encrypter.room_keys._rooms.clear()
            assert bob.read == [(110, ann.client.device_id)]
            (opened,) = [e for e in bob.seen if e.encrypted]
            (sealed,) = [e for e in bob.seen if e.event_id == opened.event_id and not e.encrypted]
            assert opened.received_ts_ms == sealed.received_ts_ms

    run(main())


def test_what_people_write_costs_no_membership_its_place(monkeypatch):
    monkeypatch.setattr(megolm, "MAX_WAITING_EACH", 4)

    async def main():
        async with ann_and_bob() as (ann, bob):
            held = Held(ann)
            await ann.say(1)
            for n in (2, 3, 4):
                await ann.write(n)
            for n in range(6):
                await ann.put(unknown(n), sticky_ms=None)
            await comes(lambda: len(bob.unread) == 10)
            assert bob.counts == SealedCounts(waiting=4, dropped=6)
            await held.release()
            await comes(lambda: len(bob.read) == 3)
            assert [n for n, _ in bob.read] == [2, 3, 4]

    run(main())


def test_a_room_that_nobody_reads_waits_for_nothing():
    async def main():
        async with ann_and_bob() as (ann, bob):
            await ann.put(unknown(1))
            await comes(lambda: len(bob.sealed) == 1)
            await bob.client.request(
                "POST", f"/_matrix/client/v3/rooms/{ann.house.room_id}/leave", body={}
            )
            await comes(lambda: len(bob.sealed) == 0)

    run(main())


def test_devices_that_are_not_to_be_had_are_asked_for_again():
    async def main():
        async with ann_and_bob() as (ann, bob):
            held = Held(ann)
            await ann.write(1)
            bob.house.server.refuse("/keys/query", count=8, status=504, errcode="M_UNKNOWN")
            await held.release()
            await comes(lambda: bob.sealed.senders() == {ann.client.user_id})
            await asyncio.sleep(120)
            await ann.client.send_state(ann.house.room_id, "x.test", "", {})
            await comes(lambda: bob.read, 120)
            assert bob.read == [(1, ann.client.device_id)]

    run(main())


texts = st.text(max_size=20) | st.sampled_from(["", "AAAA", "\ud800", megolm.MEGOLM])
anything = texts | st.integers() | st.none() | st.lists(st.none(), max_size=2)
hostile = st.fixed_dictionaries(
    {},
    optional={
        "algorithm": st.just(megolm.MEGOLM) | anything,
        "session_id": st.just("OURS") | anything,
        "ciphertext": anything,
        "sender_key": anything,
        "device_id": anything,
        "m.relates_to": anything,
    },
)


def test_hostile_events_never_raise():
    async def main():
        async with ann_and_bob() as (ann, bob):
            await ann.write(1)
            await comes(lambda: bob.read)
            (event,) = [e for e in bob.seen if e.type == STICKY]
            (session,) = ann.client.encrypter.room_keys._rooms[ann.house.room_id].sessions

            @settings(max_examples=150, deadline=None, database=None)
            @given(st.lists(hostile, max_size=3))
            def check(contents):
                events = []
                for n, content in enumerate(contents):
                    if content.get("session_id") == "OURS":
                        content["session_id"] = session.outbound.id
                    events.append(
                        replace(
                            event,
                            type="m.room.encrypted",
                            content=content,
                            event_id=f"$h{n}",
                            sticky_duration_ms=HOUR_MS if n % 2 else None,
                            encrypted=False,
                            encrypted_by_device_id=None,
                        )
                    )
                read = bob.client.encrypter.read(ann.house.room_id, events)
                assert read == tuple(events)
                assert len(bob.sealed) <= 3

            check()
            await ann.write(2)
            await comes(lambda: len(bob.read) == 2)

    run(main())
