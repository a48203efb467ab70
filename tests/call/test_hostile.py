"""What members write, and what backends make of it, ends no call and costs no more than its share."""

import asyncio

import pytest

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.model import Member, Slot, Transport
from rtcfoci.core.signals import build_signal
from rtcfoci.errors import SelectionError
from rtcfoci.matrix.client import ToDevice
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby
from rtcfoci.testing.memory import Elected


async def announce(lobby, client, *raws):
    """Write a membership by hand."""
    own = OwnMembership(
        slot=Slot(room_id=lobby.room_id),
        member=Member(user_id=client.user_id, device_id=client.device_id, member_id="m"),
        transports=tuple(Transport(raw["type"], raw) for raw in raws),
    )
    event = D3().join(own)
    await client.send_state(lobby.room_id, event.type, event.state_key, event.content)


async def hears(peer):
    """Wait until frames of somebody's track come."""
    await peer.until(lambda: peer.call.tracks)
    frames = []
    peer.call.tracks[0].consume(frames.append)
    await peer.until(lambda: len(frames) > 20)


@pytest.mark.parametrize("focus", [7, None, "", {"a": []}])
def test_the_oldest_member_cannot_name_a_focus_that_is_none(focus):
    """Everybody would follow it: those who join, and those in the call."""

    async def main():
        async with Lobby() as lobby:
            mallory, _ = await lobby.client("mallory")
            await announce(lobby, mallory, {"type": "memory.elected", "focus": focus})
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await hears(bob)
            (condition,) = bob.call.conditions
            assert condition.code == "no_focus_type"
            assert condition.subject.startswith(mallory.user_id)
            assert "memory.elected cannot be read" in condition.cause

    run(main())


def test_a_backend_that_chokes_on_a_transport_ends_no_call(monkeypatch):
    key = Elected.connection_key

    def choking(self, transport, member, local):
        if transport.raw.get("focus") == "poison":
            raise KeyError("no such key")
        return key(self, transport, member, local)

    async def main():
        monkeypatch.setattr(Elected, "connection_key", choking)
        async with Lobby() as lobby:
            mallory, _ = await lobby.client("mallory")
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await announce(lobby, mallory, {"type": "memory.elected", "focus": "poison"})
            await ann.until(lambda: ann.call.conditions)
            await ann.publish(Kind.AUDIO)
            await hears(bob)

    run(main())


def test_a_policy_that_fails_leaves_us_on_our_own_focus(monkeypatch):
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            monkeypatch.delattr(ann.call.foci._policy.__class__, "choose")
            await ann.publish(Kind.AUDIO)
            await hears(bob)

    run(main())


def signal(ann, bob, focus_type, number):
    content = build_signal(
        bob.call.slot,
        ann.call.member,
        bob.call.member,
        focus_type=focus_type,
        payload={"hello": True},
        attempt="a",
        seq=number,
        message_id=f"hostile {number}",
        now_ts_ms=bob.call.now().ts_ms,
    )
    return ToDevice(
        id=1,
        type="rtcfoci.signal",
        sender=ann.call.member.user_id,
        content=content,
        security="clear",
        sender_device_id=None,
    )


@pytest.mark.parametrize("topology", ["pairwise", "elected"])
def test_a_signal_costs_no_connection(topology, monkeypatch):
    """Neither where the backend fails on it, nor where the type has no signalling at all."""

    async def main():
        async with Lobby(foci=[f"memory.{topology}"]) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.foci.links[0].up)
            (link,) = bob.call.foci.links
            await asyncio.sleep(1)
            connection = link.connection

            async def choking(*_):
                raise ZeroDivisionError("a bug that a payload finds")

            monkeypatch.setattr(connection, "on_signal", choking)
            for number in range(1000, 1003):
                bob.call.on_to_device(signal(ann, bob, f"memory.{topology}", number))
            await asyncio.sleep(1)
            assert link.connection is connection
            counted = "signals_refused.no_such_focus"
            if topology == "pairwise":
                counted = "memory.pairwise.signals_failed"
            assert bob.call.metrics[counted] == 3

    run(main())


def test_the_foci_that_members_name_are_limited():
    """At most two a sender and sixteen in all, those included that are only kept for a while."""

    async def main():
        foci = [("memory.per_member", {"focus": "own"})]
        async with Lobby(foci=foci) as lobby:
            ann = await lobby.peer("ann")
            most = 0

            async def count():
                nonlocal most
                while True:
                    most = max(most, len(ann.call.foci.links))
                    await asyncio.sleep(0.01)

            watch = asyncio.create_task(count())
            devices = [(await lobby.client("mallory"))[0] for _ in range(3)]
            for number, client in enumerate(devices):
                await announce(lobby, client, {"type": "memory.per_member", "focus": f"m{number}"})
                await asyncio.sleep(0.1)  # the order in which they came is the session's
            await ann.until(lambda: ann.call.conditions)
            (condition,) = ann.call.conditions
            assert condition.code == "too_many_foci"
            assert condition.subject == devices[0].user_id
            assert len(ann.call.foci.links) == 3
            await announce(lobby, devices[2], {"type": "memory.per_member", "focus": "m0"})
            await ann.until(lambda: not ann.call.conditions)
            for number in range(60):  # a new focus with every event
                raw = {"type": "memory.per_member", "focus": f"again{number}"}
                await announce(lobby, devices[number % 2], raw)
                await asyncio.sleep(0.05)
            watch.cancel()
            assert most <= 1 + 16
            timers = [task for task in asyncio.all_tasks() if task.get_name() == "retire"]
            assert len(timers) < 130
            await asyncio.sleep(20)
            assert len(ann.call.foci.links) == 3

    run(main())


def test_a_backend_that_offers_what_it_cannot_read_is_told(monkeypatch):
    async def main():
        monkeypatch.setattr(Elected, "connection_key", lambda *_: None)
        async with Lobby() as lobby:
            with pytest.raises(SelectionError, match="does not know its own transport"):
                await lobby.peer("ann")

    run(main())
