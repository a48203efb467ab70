"""Media keys in whole calls: olm over the homeserver in memory, frames that open with the right key."""

import asyncio
import logging

import pytest

import rtcfoci
from rtcfoci.core.key_messages import KEY_TYPES
from rtcfoci.core.model import Member
from rtcfoci.errors import PreflightError
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby
from rtcfoci.testing.memory import MemoryConnection

pytest.importorskip("nio")


@pytest.fixture(autouse=True)
def journal(monkeypatch):
    """What every connection was told, in order: (our user id, method, what)."""
    told = []

    def spy(name, describe):
        real = getattr(MemoryConnection, name)

        async def method(self, *args):
            told.append((self.context.member.user_id[1:4], self, name, describe(*args)))
            return await real(self, *args)

        monkeypatch.setattr(MemoryConnection, name, method)

    spy("set_key", lambda member, index, key: (member.user_id[1:4], index, key))
    spy("use_key", lambda index: index)
    spy("publish", lambda track: track.track_id.source)
    return told


def own(connection):
    return connection.keys[connection.context.member, connection.index]


async def hears(peer, other):
    """Wait until frames of another come, from now on."""
    await peer.until(lambda: any(t.track_id.member == other.call.member for t in peer.call.tracks))
    (track,) = [t for t in peer.call.tracks if t.track_id.member == other.call.member]
    frames = []
    track.consume(lambda frame: frames.append(frame) if frame else None)
    await peer.until(lambda: len(frames) > 10)
    return frames


@pytest.mark.parametrize("topology", ["pairwise", "per_member", "elected", "linked"])
@pytest.mark.parametrize("dialect", ["D3", "D6/D7"])
def test_media_flows_only_after_keys(journal, topology, dialect, caplog):
    caplog.set_level(logging.DEBUG)

    async def main():
        foci = [(f"memory.{topology}", {"focus": "a"})]
        async with Lobby(encrypted=True, foci=foci) as lobby:
            ann, bob = [await lobby.peer(name, dialect=dialect) for name in ("ann", "bob")]
            await ann.publish(Kind.AUDIO)
            await bob.publish(Kind.AUDIO)
            await hears(bob, ann)
            await hears(ann, bob)
            for connection in {c for _, c, *_ in journal}:
                order = [name for _, c, name, _ in journal if c is connection]
                if "publish" in order:
                    assert order.index("set_key") < order.index("use_key") < order.index("publish")
            assert ann.call.metrics["keys_sent"] == bob.call.metrics["keys_received"] == 1
            assert ann.call.conditions == bob.call.conditions == ()
            secrets = {what[2] for *_, name, what in journal if name == "set_key"}
            assert len(secrets) == 2
            assert all(len(secret) == 32 for secret in secrets)
            for secret in secrets:
                assert repr(secret)[2:-1] not in caplog.text
                assert secret.hex() not in caplog.text

    run(main())


def test_nothing_is_carried_in_clear():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            seen = []
            lobby.homeserver.devices.hook = lambda message: seen.append(message) or [message]
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await hears(bob, ann)
            assert {message.type for message in seen} == {"m.room.encrypted"}

    run(main())


def test_who_left_cannot_open_what_is_said_later(journal):
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann, bob, cem = [await lobby.peer(name) for name in ("ann", "bob", "cem")]
            await ann.publish(Kind.AUDIO)
            frames = await hears(bob, ann)
            await hears(cem, ann)
            (link,) = ann.call.foci.links
            before = own(link.connection)
            await cem.leave()
            known = {
                what[2] for who, *_, name, what in journal if (who, name) == ("cem", "set_key")
            }
            assert before in known
            await asyncio.sleep(6)
            count = len(frames)
            await asyncio.sleep(2)
            assert len(frames) > count + 90, "who stays hears on"
            assert link.connection.index == 1
            assert own(link.connection) not in known
            assert ann.call.metrics["keys_rotated"] == 1

    run(main())


def test_who_joins_soon_gets_the_current_key_and_later_another():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            heard = await hears(bob, ann)
            (link,) = ann.call.foci.links
            cem = await lobby.peer("cem")
            await hears(cem, ann)
            assert link.connection.index == 0
            await asyncio.sleep(11)
            dan = await lobby.peer("dan")
            await hears(dan, ann)
            assert link.connection.index == 1
            (theirs,) = dan.call.foci.links
            assert {i for m, i in theirs.connection.keys if m == ann.call.member} == {1}
            count = len(heard)
            await asyncio.sleep(1)
            assert len(heard) > count + 40
            for peer in (ann, bob, cem, dan):
                assert peer.call.conditions == ()
                assert not [e for e in peer.events if isinstance(e, rtcfoci.ConditionRaised)]

    run(main())


def test_a_new_connection_has_every_key_before_media(journal):
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            frames = await hears(bob, ann)
            (link,) = ann.call.foci.links
            first = link.connection
            await first.aclose()
            await ann.until(lambda: link.connection not in (None, first))
            count = len(frames)
            await bob.until(lambda: len(frames) > count + 20)
            order = [name for _, c, name, _ in journal if c is link.connection]
            assert order == ["set_key", "set_key", "use_key", "publish"]

    run(main())


def test_an_outage_of_the_homeserver_delays_a_key_and_loses_none():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            frames = await hears(bob, ann)
            with lobby.homeserver.outage():
                await asyncio.sleep(30)
            await asyncio.sleep(20)
            count = len(frames)
            await asyncio.sleep(1)
            assert len(frames) > count + 40
            assert ann.call.conditions == bob.call.conditions == ()

    run(main())


def test_a_key_that_does_not_come_is_told_and_mended():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann = await lobby.peer("ann")
            held = []
            lobby.homeserver.devices.hook = lambda message: held.append(message) or []
            bob = await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await bob.until(
                lambda: (
                    [(c.code, c.subject) for c in bob.call.conditions]
                    == [("media_key_missing", str(ann.call.member))]
                ),
                timeout_s=12,
            )
            lobby.homeserver.devices.hook = None
            for message in held:
                lobby.homeserver.devices.deliver(message)
            await hears(bob, ann)
            assert bob.call.conditions == ()

    run(main())


def test_a_key_in_clear_is_refused_and_counted():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            ann = await lobby.peer("ann")
            eve, _ = await lobby.client("eve")
            claimed = Member(user_id=eve.user_id, device_id=eve.device_id, member_id="m")
            content = rtcfoci.core.key_messages.write_key(
                ann.call.slot, claimed, 0, rtcfoci.core.key_messages.Key(b"x" * 32), sent_ts_ms=1
            )
            for kind in KEY_TYPES[:1]:
                await eve.send_to_device(
                    kind,
                    ann.call.member.user_id,
                    ann.call.member.device_id,
                    content,
                    encrypt=False,
                )
            await ann.until(lambda: ann.call.metrics.get("keys_refused.not_encrypted") == 1)
            assert [c.code for c in ann.call.conditions] == ["media_key_refused"]

    run(main())


def test_a_client_that_cannot_encrypt_is_refused():
    async def main():
        async with Lobby(encrypted=True, olm=False) as lobby:
            with pytest.raises(PreflightError, match="cannot encrypt"):
                await lobby.peer("ann")

    run(main())


def test_in_a_clear_room_there_are_no_keys(journal):
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await hears(bob, ann)
            assert ann.call.keys is None
            assert {name for *_, name, _ in journal} == {"publish"}

    run(main())
