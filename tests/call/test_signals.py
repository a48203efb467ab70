"""Signals are believed only from who they claim to be."""

import asyncio

from rtcfoci.core.signals import build_signal
from rtcfoci.matrix.client import ToDevice
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby


def message(to, sender, claimed, *, security="clear", device=None):
    content = build_signal(
        to.slot,
        claimed,
        to.member,
        focus_type="memory.pairwise",
        payload={"hello": True},
        attempt="a",
        seq=1,
        message_id=f"{sender}{claimed}{security}",
        now_ts_ms=to.now().ts_ms,
    )
    return ToDevice(
        id=1,
        type="rtcfoci.signal",
        sender=sender,
        content=content,
        security=security,
        sender_device_id=device,
    )


def test_signals_of_others_in_a_members_name_are_refused_and_counted():
    async def main():
        async with Lobby(foci=["memory.pairwise"]) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            call, claimed = bob.call, ann.call.member
            call.on_to_device(message(call, "@mallory:memory.test", claimed))
            call.on_to_device(
                message(call, claimed.user_id, claimed, security="bound", device="OTHER")
            )
            call.on_to_device(message(call, claimed.user_id, claimed))
            call.on_to_device(message(call, claimed.user_id, claimed))
            await asyncio.sleep(1)
            assert call.metrics["signals_refused.other_user"] == 1
            assert call.metrics["signals_refused.other_device"] == 1
            assert call.metrics["signals_refused.duplicate"] == 1
            refused = {c.subject for c in call.conditions if c.code == "signal_refused"}
            assert refused == {"@mallory:memory.test", claimed.user_id}

    run(main())


def test_a_crowd_of_strangers_is_counted_and_not_told_one_by_one():
    async def main():
        async with Lobby(foci=["memory.pairwise"]) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            for number in range(100):
                stranger = f"@stranger{number}:memory.test"
                bob.call.on_to_device(message(bob.call, stranger, ann.call.member))
            assert bob.call.metrics["signals_refused.other_user"] == 100
            told = [c for c in bob.call.conditions if c.code == "signal_refused"]
            assert len(told) == 16

    run(main())


def test_signals_in_clear_are_refused_in_an_encrypted_room():
    async def main():
        async with Lobby(foci=["memory.pairwise"]) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            bob.call.encrypted = True
            bob.call.on_to_device(message(bob.call, ann.call.member.user_id, ann.call.member))
            assert bob.call.metrics["signals_refused.not_encrypted"] == 1

    run(main())
