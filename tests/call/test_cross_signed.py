"""Calls that ask for cross-signed devices: who is, who is not, and who becomes one."""

import asyncio
from contextlib import asynccontextmanager

import pytest

import rtcfoci
from rtcfoci.errors import PreflightError
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby, Peer
from tests.matrix.identities import Identity

pytest.importorskip("nio")


@asynccontextmanager
async def joined(lobby, name, *, signs=False, **options):
    """A peer with a tone, whose device is cross-signed by an identity of its own, or by one that is given."""
    client, line = await lobby.client(name)
    if signs:
        identity = Identity(lobby.homeserver, client.user_id) if signs is True else signs
        identity.sign(client.device_id)
    options = {"foci": lobby.foci, **options}
    async with rtcfoci.join(
        client, lobby.room_id, plugins=lobby.plugins, now=lobby.now, **options
    ) as call:
        peer = Peer(call, line)
        try:
            await peer.publish(Kind.AUDIO)
            yield peer
        finally:
            await peer._stop()


def strict(lobby, **options):
    return joined(lobby, "ann", require_trusted=True, **options)


async def hears(peer, other):
    await peer.until(lambda: any(t.track_id.member == other.call.member for t in peer.call.tracks))
    (track,) = [t for t in peer.call.tracks if t.track_id.member == other.call.member]
    frames = []
    track.consume(frames.append)
    await peer.until(lambda: len(frames) > 10)


def untrusted(peer, other):
    """Whether a peer says that it does not trust another."""
    told = [(c.code, c.subject) for c in peer.call.conditions]
    return ("device_untrusted", str(other.call.member)) in told


def holds(peer, other):
    """Whether a peer's connection has a key of another."""
    (link,) = peer.call.foci.links
    return any(member == other.call.member for member, _ in link.connection.keys)


def test_keys_are_exchanged_with_cross_signed_devices_alone():
    async def main():
        async with (
            Lobby(encrypted=True) as lobby,
            strict(lobby) as ann,
            joined(lobby, "bob", signs=True) as good,
            joined(lobby, "cem") as bad,
        ):
            await hears(ann, good)
            await hears(good, ann)
            await ann.until(lambda: ann.call.metrics["keys_refused.untrusted"] == 1)
            await ann.until(lambda: untrusted(ann, bad))
            assert ann.call.metrics["keys_received"] == ann.call.metrics["keys_sent"] == 1
            assert not holds(ann, bad)
            assert not holds(bad, ann)
            trusted = {p.user_id: p.trusted for p in ann.call.participants}
            assert trusted == {good.call.member.user_id: True, bad.call.member.user_id: False}
            await hears(bad, good)  # the others do not ask for it
            await bad.leave()
            await ann.until(lambda: not ann.call.conditions)

    run(main())


def test_who_is_signed_later_gets_our_key_and_is_believed_at_its_next():
    async def main():
        async with (
            Lobby(encrypted=True) as lobby,
            strict(lobby) as ann,
            joined(lobby, "bob") as bob,
        ):
            await ann.until(lambda: untrusted(ann, bob))
            identity = Identity(lobby.homeserver, bob.call.member.user_id)
            identity.sign(bob.call.member.device_id)
            await bob.until(lambda: holds(bob, ann), timeout_s=60)
            await ann.until(lambda: not untrusted(ann, bob))
            assert not holds(ann, bob)
            await asyncio.sleep(11)
            async with joined(lobby, "cem"):  # so that bob makes another
                await ann.until(lambda: holds(ann, bob))
                await hears(ann, bob)

    run(main())


def test_another_identity_than_the_first_is_not_believed():
    async def main():
        async with (
            Lobby(encrypted=True) as lobby,
            joined(lobby, "bob", signs=True) as bob,
            strict(lobby) as ann,
        ):
            await hears(ann, bob)
            assert ann.call.participants[0].trusted is True
            other = Identity(lobby.homeserver, bob.call.member.user_id)
            other.sign(bob.call.member.device_id)
            await asyncio.sleep(11)
            async with joined(lobby, "cem"):  # so that both make another
                await ann.until(lambda: untrusted(ann, bob))
                assert ann.call.metrics["keys_received"] == 1
                (bobs,) = [p for p in ann.call.participants if p.member == bob.call.member]
                assert bobs.trusted is False

    run(main())


def test_signals_too_are_exchanged_with_cross_signed_devices_alone():
    hello = {"hello": True}

    async def main():
        async with (
            Lobby(encrypted=True, foci=["memory.pairwise"]) as lobby,
            strict(lobby) as ann,
            joined(lobby, "bob") as bob,
        ):
            one, other = ann.call.member, bob.call.member
            await bob.call.send_signal("memory.pairwise", one, hello)
            await ann.until(lambda: ann.call.metrics["signals_refused.untrusted"] > 0)
            assert untrusted(ann, bob)
            told = sum(isinstance(event, rtcfoci.ConditionRaised) for event in ann.events)
            with pytest.raises(rtcfoci.errors.UntrustedError, match="Nothing is sent"):
                await ann.call.send_signal("memory.pairwise", other, hello)
            await asyncio.sleep(0.1)
            again = sum(isinstance(event, rtcfoci.ConditionRaised) for event in ann.events)
            assert again == told, "it is the same both ways"
            Identity(lobby.homeserver, other.user_id).sign(other.device_id)
            await asyncio.sleep(1)
            refused = ann.call.metrics["signals_refused.untrusted"]
            await ann.call.send_signal("memory.pairwise", other, hello)
            await bob.call.send_signal("memory.pairwise", one, hello)
            await ann.until(lambda: not untrusted(ann, bob), timeout_s=60)
            assert ann.call.metrics["signals_refused.untrusted"] == refused

    run(main())


@pytest.mark.parametrize(
    ("encrypted", "options", "why"),
    [(False, {}, "not encrypted"), (True, {"allow_insecure": True}, "less protection")],
)
def test_what_cannot_be_trusted_is_refused_before_the_join(encrypted, options, why):
    async def main():
        async with Lobby(encrypted=encrypted) as lobby:
            with pytest.raises(PreflightError, match="no device can be trusted") as refused:
                async with strict(lobby, **options):
                    pass
            assert why in str(refused.value)

    run(main())
