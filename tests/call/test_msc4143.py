"""Sentences of MSC4143 for who takes part: which member a call is, and how its membership is sent."""

from __future__ import annotations

from rtcfoci.testing import Lobby, SynapseOptions, run


def test_each_join_is_another_member():
    async def main():
        async with Lobby(options=SynapseOptions()) as lobby:
            client, _ = await lobby.client("ann")
            ids = []
            for _ in range(2):
                async with lobby.join_as(client, dialect="D6/D7") as call:
                    ids.append(call.member.member_id)
            return ids

    first, second = run(main())
    assert first != second
    for member_id in (first, second):
        assert len(bytes.fromhex(member_id)) == 16


def test_in_an_encrypted_room_a_membership_is_state():
    async def main():
        options = SynapseOptions()
        async with Lobby(options=options, encrypted=True, allow_insecure=True) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            (seen,) = bob.call.participants
            assert seen.member == ann.call.member
            assert (seen.membership.dialect, seen.membership.encrypted) == ("D3", False)

    run(main())
