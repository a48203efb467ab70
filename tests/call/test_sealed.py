"""Sticky memberships of an encrypted room: encrypted, like everything else there (MSC4143)."""

import asyncio
from types import SimpleNamespace

import pytest

from rtcfoci.errors import PreflightError
from rtcfoci.testing import Lobby, run
from tests.matrix.sealing import Device, Held, unknown

pytest.importorskip("nio")


def names(peer):
    return sorted(p.member.user_id.partition(":")[0] for p in peer.call.participants)


def test_an_insisted_on_sticky_membership_is_encrypted_and_read_by_all():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann, bob = [await lobby.peer(name, dialect="D6/D7") for name in ("ann", "bob")]
            cem = await lobby.peer("cem")  # comes when both are there, and writes state
            await ann.until(lambda: names(ann) == ["@bob", "@cem"])
            await bob.until(lambda: names(bob) == ["@ann", "@cem"])
            await cem.until(lambda: names(cem) == ["@ann", "@bob"])
            for seen in cem.call.participants:
                assert (seen.membership.dialect, seen.membership.encrypted) == ("D6/D7", True)
            room = lobby.homeserver.rooms[lobby.room_id]
            sticky = [event.type for event in room.events if event.sticky_ms]
            held = [lobby.homeserver.held(peer.call.member.user_id) for peer in (ann, bob)]
            assert set(sticky) == {"m.room.encrypted"}
            assert [event.type for (event,) in held] == ["m.room.encrypted"] * 2
            # One goes, one crashes: both leaves can be read as well.
            await ann.leave()
            await cem.until(lambda: names(cem) == ["@bob"])
            await bob.vanish()
            await cem.until(lambda: names(cem) == [], timeout_s=60)

    run(main())


def test_without_encryption_it_is_not_written():
    async def main():
        async with Lobby(encrypted=True, olm=False, allow_insecure=True) as lobby:
            await lobby.peer("ann")
            with pytest.raises(PreflightError, match="cannot encrypt"):
                await lobby.peer("bob", dialect="D6/D7")

    run(main())


def condition(call):
    return next((c for c in call.conditions if c.code == "memberships_unread"), None)


def figures(call):
    counted = call.metrics
    return [counted[f"sealed_{what}"] for what in ("waiting", "dropped", "refused", "unbound")]


def test_memberships_whose_keys_have_not_come_are_told_until_they_have():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann = await lobby.peer("ann")
            client, _ = await lobby.client("bob")
            keys = Held(SimpleNamespace(client=client))
            async with lobby.join_as(client, dialect="D6/D7") as bob:
                await asyncio.sleep(4)
                assert (condition(ann.call), figures(ann.call)) == (None, [1, 0, 0, 0])
                await ann.until(lambda: condition(ann.call))
                told = condition(ann.call)
                assert told.cause == f"events without a key: 1, of {client.user_id}"
                assert told.since_ts_ms == pytest.approx(lobby.now().ts_ms, abs=2_000)
                assert not ann.call.participants
                await keys.release()
                await ann.until(lambda: ann.call.participants)
                assert (condition(ann.call), figures(ann.call)) == (None, [0, 0, 0, 0])
                assert not condition(bob)

    run(main())


def test_what_becomes_of_encrypted_events_is_counted_from_the_join_on(monkeypatch):
    monkeypatch.setattr("rtcfoci.matrix.megolm.MAX_WAITING_EACH", 2)

    async def main():
        async with Lobby(encrypted=True) as lobby:
            (mine, _), (theirs, _) = await lobby.client("ann"), await lobby.client("bob")
            house = SimpleNamespace(room_id=lobby.room_id, sent=0)
            bob = SimpleNamespace(client=theirs, house=house)

            async def come(expected):
                async with asyncio.timeout(30):
                    while figures(ann) != expected:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)

            async with lobby.join_as(mine) as ann:
                content = await Device.sealed_for_room(bob, 1)
                await Device.put(bob, content)
                await Device.put(bob, content)
                await come([0, 0, 1, 0])
                for session in mine.encrypter._olm.inbound_group_store:
                    session.forwarding_chain = ["whoever it was"]
                await Device.put(bob, await Device.sealed_for_room(bob, 2))
                await come([0, 0, 1, 1])
                for n in range(3):
                    await Device.put(bob, unknown(n))
                await come([2, 1, 1, 1])
            async with lobby.join_as(mine) as ann:
                assert figures(ann)[2:] == [0, 0]

    run(main())
