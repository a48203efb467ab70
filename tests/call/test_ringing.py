"""Calling and being called, over the in-memory homeserver."""

import asyncio
import contextlib

import pytest

import rtcfoci
from rtcfoci.core.dialects.notification import RING_TYPES
from rtcfoci.core.notifications import NotificationEnd
from rtcfoci.errors import PreflightError, UsageError
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby
from rtcfoci.testing.synapse_config import SynapseOptions
from tests.matrix.sealing import Held


class Ear:
    """Somebody who listens and takes no part."""

    def __init__(self, lobby, client):
        self.client, self.told = client, []
        self._task = asyncio.create_task(self._read(lobby))

    async def _read(self, lobby):
        async with contextlib.aclosing(
            rtcfoci.listen(self.client, lobby.room_id, plugins=lobby.plugins, now=lobby.now)
        ) as news:
            async for item in news:
                self.told.append(item)

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, lobby, name="ear"):
        client, _ = await lobby.client(name)
        ear = cls(lobby, client)
        try:
            yield ear
        finally:
            ear._task.cancel()
            await asyncio.gather(ear._task, return_exceptions=True)

    def kinds(self):
        return [type(item).__name__.removeprefix("Notification") for item in self.told]


@pytest.mark.parametrize("sticky", [True, False])
def test_one_is_rung_declines_and_the_caller_is_told(sticky):
    async def main():
        options = SynapseOptions(sticky_events=sticky)
        async with Lobby(options=options) as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            await asyncio.sleep(1)
            event_id = await ann.call.ring([ear.client.user_id], lifetime_s=30)
            await ann.until(lambda: ear.told)
            (started,) = ear.told
            assert started.notification.event_id == event_id
            assert started.notification.sender == ann.call.member.user_id
            assert started.notification.kind == "ring"
            await rtcfoci.decline(ear.client, started.notification)
            await ann.until(lambda: len(ear.told) == 3)
            assert ear.kinds() == ["Started", "Declined", "Ended"]
            assert ear.told[-1].reason is NotificationEnd.DECLINED
            await ann.until(lambda: any(isinstance(e, rtcfoci.CallDeclined) for e in ann.events))
            (declined,) = [e for e in ann.events if isinstance(e, rtcfoci.CallDeclined)]
            assert (declined.user_id, declined.event_id) == (ear.client.user_id, event_id)

    run(main())


@pytest.mark.parametrize("sticky", [True, False])
def test_in_an_encrypted_room_both_are_encrypted(sticky):
    pytest.importorskip("nio")

    async def main():
        options = SynapseOptions(sticky_events=sticky)
        async with Lobby(options=options, encrypted=True) as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            await asyncio.sleep(1)
            event_id = await ann.call.ring([ear.client.user_id])
            joined = ann.call.presence.session.members[0].event_id
            await ann.until(lambda: ear.told)
            assert ear.told[0].notification.device_id == ann.call.member.device_id
            await rtcfoci.decline(ear.client, ear.told[0].notification)
            await ann.until(lambda: any(isinstance(e, rtcfoci.CallDeclined) for e in ann.events))
            assert ear.kinds() == ["Started", "Declined", "Ended"]
            events = lobby.homeserver.rooms[lobby.room_id].events
            assert not [e for e in events if e.type in RING_TYPES]
            ring, decline = [e for e in events if e.type == "m.room.encrypted"]
            assert (bool(ring.sticky_ms), bool(decline.sticky_ms)) == (sticky, sticky)
            # The relation is in clear beside the ciphertext, and nothing else of what they say.
            for event, of in ((ring, joined), (decline, event_id)):
                relation = {"rel_type": "m.reference", "event_id": of}
                assert event.content["m.relates_to"] == relation
                assert event.content.keys() - {"m.relates_to"} == {
                    "algorithm", "ciphertext", "device_id", "sender_key", "session_id"
                }  # fmt: skip

    run(main())


def test_a_key_that_comes_late_makes_it_ring_no_longer():
    pytest.importorskip("nio")

    async def main():
        options = SynapseOptions(sticky_events=False)
        async with Lobby(options=options, encrypted=True) as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            for lifetime_s, told in ((30, ["Started"]), (15, ["Started", "Ended", "Ignored"])):
                keys = Held(ann.call)
                await ann.call.ring([ear.client.user_id], lifetime_s=lifetime_s)
                await asyncio.sleep(20)
                await keys.release()
                await ann.until(lambda told=told: ear.kinds() == told)
                await asyncio.sleep(11)
                ann.call.client.encrypter.room_keys._rooms.clear()
            assert ear.told[1].reason is NotificationEnd.EXPIRED
            assert [p.code for p in ear.told[2].problems] == ["expired"]

    run(main())


def test_joining_answers_and_a_client_listens_meanwhile():
    async def main():
        async with Lobby() as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            await ann.call.ring([ear.client.user_id])
            await ann.until(lambda: ear.told)
            async with lobby.join_as(ear.client):
                await ann.until(lambda: len(ear.told) == 2)
                assert ear.told[-1].reason is NotificationEnd.ANSWERED
                await ann.until(lambda: ann.call.participants)
            await asyncio.sleep(1)
            assert ear.kinds() == ["Started", "Ended"]

    run(main())


def test_one_that_nobody_answers_expires_and_one_whose_call_is_over_ends():
    async def main():
        async with Lobby() as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            await ann.call.ring([ear.client.user_id], lifetime_s=5)
            await ann.until(lambda: ear.told)
            await asyncio.sleep(6)
            assert ear.told[-1].reason is NotificationEnd.EXPIRED
            await ann.call.ring([ear.client.user_id])
            await ann.until(lambda: len(ear.told) == 3)
            await ann.leave()
            await asyncio.sleep(1)
            assert ear.told[-1].reason is NotificationEnd.CALL_OVER

    run(main())


def test_it_rings_for_ninety_seconds_unless_told_otherwise():
    async def main():
        async with Lobby() as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            await ann.call.ring([ear.client.user_id])
            await ann.until(lambda: ear.told)
            await asyncio.sleep(88)
            assert ear.kinds() == ["Started"]
            await asyncio.sleep(3)
            assert ear.told[-1].reason is NotificationEnd.EXPIRED

    run(main())


def test_who_listens_later_hears_what_is_sticky():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            await lobby.client("ear")
            await ann.call.ring(kind="notification")
            await asyncio.sleep(2)
            async with Ear.of(lobby) as ear:
                await ann.until(lambda: ear.told)
                assert ear.told[0].notification.kind == "notification"
                assert ear.told[0].notification.mentions_room

    run(main())


def test_why_one_does_not_count_is_said():
    async def main():
        async with Lobby() as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            await asyncio.sleep(1)
            await ann.call.ring(["@somebody:else"])
            await ann.until(lambda: ear.told)
            assert [p.code for p in ear.told[0].problems] == ["not_mentioned"]

    run(main())


def test_what_nobody_would_hear_is_refused_with_the_remedy():
    async def main():
        async with Lobby() as lobby:
            await lobby.client("owner")  # whoever makes the room has the power
            ann = await lobby.peer("ann")
            for given, words in (
                ({}, "everybody"),
                ({"users": []}, "nobody"),
                ({"users": ["ann"]}, "cannot be called"),
                ({"users": [f"@u{n}:hs" for n in range(501)]}, "cannot be called"),
                ({"users": ["@a:hs"], "lifetime_s": 121}, "121"),
                ({"users": ["@a:hs"], "lifetime_s": 0.5}, "0.5"),
            ):
                with pytest.raises(UsageError, match=words) as error:
                    await ann.call.ring(**given)
                assert error.value.do
            await ann.leave()
            with pytest.raises(UsageError, match="over"):
                await ann.call.ring(["@a:hs"])

    run(main())


def test_what_is_sent_says_what_we_mean_to_use():
    async def main():
        async with Lobby() as lobby, Ear.of(lobby) as ear:
            ann = await lobby.peer("ann")
            for announced, intent in ((frozenset(), ""), ({Kind.AUDIO}, "audio"),
                                      ({Kind.AUDIO, Kind.VIDEO}, "video")):  # fmt: skip
                ann.call.announced = announced
                ear.told.clear()
                await ann.call.ring([ear.client.user_id])
                await ann.until(lambda: ear.kinds()[-1:] == ["Started"])
                assert ear.told[-1].notification.intent == intent

    run(main())


def test_who_is_not_in_the_room_cannot_listen():
    async def main():
        async with Lobby() as lobby:
            await lobby.client("ann")
            stranger = await lobby.homeserver.register("stranger", "secret")
            client, _ = await lobby.client("ear")
            room_id = await lobby.homeserver.create_room(stranger.access_token)
            with pytest.raises(PreflightError):
                async for _ in rtcfoci.listen(client, room_id, plugins=lobby.plugins):
                    pass

    run(main())
