"""Joins that are refused before anything is sent, each with the reason and the remedy."""

from dataclasses import replace

import pytest

import rtcfoci
from rtcfoci.errors import PreflightError, SelectionError, UsageError
from rtcfoci.plugin import Security
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby


def test_unknown_focus_types_are_refused_with_a_suggestion():
    async def main():
        async with Lobby() as lobby:
            with pytest.raises(UsageError) as caught:
                await lobby.peer("ann", foci=["memory.electd"])
            assert "memory.elected" in caught.value.do
            with pytest.raises(UsageError, match="no focus type is named"):
                async with rtcfoci.join((await lobby.client("ann"))[0], lobby.room_id, foci=[]):
                    pass

    run(main())


def test_a_focus_that_protects_too_little_is_refused_in_an_encrypted_room():
    async def main():
        async with Lobby(encrypted=True) as lobby:
            found = lobby.plugins.focus_type
            lobby.plugins.focus_type = lambda name: replace(
                found(name), media_security=Security.HOP
            )
            with pytest.raises(SelectionError, match="protects") as caught:
                await lobby.peer("ann")
            assert "media hop" in caught.value.why

    run(main())


def test_preflight_names_every_reason_before_anything_is_sent():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            client, _ = await lobby.client("bob")
            await client.request("POST", f"/_matrix/client/v3/rooms/{lobby.room_id}/leave", body={})
            with pytest.raises(PreflightError, match="not in the room"):
                await lobby.peer("bob")
            await ann.call.client.send_state(
                lobby.room_id,
                "m.room.power_levels",
                "",
                {"users": {ann.call.member.user_id: 100}},
            )
            cem, _ = await lobby.client("cem")
            with pytest.raises(PreflightError, match="power level") as caught:
                async with rtcfoci.join(
                    cem, lobby.room_id, foci=["memory.elected"], dialect="D3", plugins=lobby.plugins
                ):
                    pass
            assert "rtcfoci slot permit" in caught.value.do
            with pytest.raises(UsageError, match="no writable dialect"):
                await lobby.peer("cem", dialect="D9")

    run(main())


@pytest.mark.parametrize("left", ["x", ["x"], {"state": "x"}, {"timeline": {"events": ["x"]}}])
def test_preflight_takes_an_answer_of_no_sense_for_no_membership(monkeypatch, left):
    async def main():
        async with Lobby() as lobby:
            bob, _ = await lobby.client("bob")
            room = f"/_matrix/client/v3/rooms/{lobby.room_id}"
            await bob.request("POST", f"{room}/leave", body={})

            async def senseless(method, path, **more):
                return {"rooms": {"leave": {lobby.room_id: left}}}

            monkeypatch.setattr(bob, "request", senseless)
            with pytest.raises(PreflightError, match="not in the room"):
                async with rtcfoci.join(
                    bob, lobby.room_id, foci=["memory.elected"], plugins=lobby.plugins
                ):
                    pass

    run(main())


def test_a_client_that_cannot_encrypt_is_refused_where_signalling_must_be():
    async def main():
        async with Lobby(encrypted=True, olm=False, foci=["memory.pairwise"]) as lobby:
            client, _ = await lobby.client("ann")
            with pytest.raises(PreflightError, match="cannot encrypt") as caught:
                async with rtcfoci.join(
                    client,
                    lobby.room_id,
                    foci=["memory.pairwise"],
                    allow_insecure=True,
                    plugins=lobby.plugins,
                ):
                    pass
            assert "encrypted=True" in caught.value.do

    run(main())
