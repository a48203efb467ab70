"""Which dialect a call writes when the application does not say."""

import pytest

from rtcfoci.testing import Lobby, SynapseOptions, run

LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.example.org"}


@pytest.mark.parametrize(
    ("options", "dialect"),
    [
        (SynapseOptions(), "D6/D7"),
        # What the homeserver advertises counts only for those who accept it.
        (SynapseOptions(rtc_transports=(LIVEKIT,)), "D6/D7"),
        (SynapseOptions(sticky_events=False), "D3"),
        (SynapseOptions(delayed_events=False), "D3"),
    ],
)
def test_a_member_without_livekit_writes(options, dialect):
    async def main():
        async with Lobby(options=options) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            (seen,) = bob.call.participants
            assert seen.membership.dialect == dialect
            assert seen.member == ann.call.member

    run(main())
