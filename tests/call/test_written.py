"""Which dialect a call writes: what fits when the application does not say, else what it says."""

import pytest

from rtcfoci.call.join import join
from rtcfoci.call.preflight import remarks
from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.model import Member, Slot, Transport
from rtcfoci.errors import PreflightError, UsageError
from rtcfoci.plugin import DialectInfo, hookimpl
from rtcfoci.plugin.manager import PluginInfo
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


@pytest.mark.parametrize("dialect", ["D2", "D3", "D5", "D6/D7"])
def test_any_writable_dialect_can_be_asked_for(dialect):
    async def main():
        async with Lobby(options=SynapseOptions()) as lobby:
            ann, bob = await lobby.peer("ann", dialect=dialect), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            (seen,) = bob.call.participants
            assert seen.membership.dialect == dialect
            assert seen.member == ann.call.member
            await ann.call.leave()
            await bob.until(lambda: not bob.call.participants)

    run(main())


@pytest.mark.parametrize("dialect", ["D0", "D1", "D4", "D8"])
def test_no_other_can(dialect):
    async def main():
        async with Lobby(options=SynapseOptions()) as lobby:
            with pytest.raises(UsageError, match="no writable dialect") as told:
                await lobby.peer("ann", dialect=dialect)
            assert "D2, D3, D5, D6/D7" in str(told.value)

    run(main())


class Empty(D3):
    """A shape that crashes every Element Call in the room."""

    name = "org.example.empty"

    def _content(self, own, expires_ms):
        return {**super()._content(own, expires_ms), "foci_preferred": []}


class Offer:
    @staticmethod
    @hookimpl
    def rtcfoci_dialects():
        return [
            DialectInfo(name=Empty.name, dialect=f"{__name__}:Empty", event_types=Empty.event_types)
        ]


def test_a_shape_that_crashes_others_must_be_forced():
    async def main():
        async with Lobby(options=SynapseOptions()) as lobby:
            assert lobby.plugins.add(PluginInfo("offer"), lambda: Offer)
            client, _ = await lobby.client("ann")
            focus = [("memory.pairwise", {"world": lobby.world_name})]
            options = {
                "foci": focus,
                "dialect": Empty.name,
                "plugins": lobby.plugins,
                "now": lobby.now,
            }
            with pytest.raises(PreflightError) as told:
                async with join(client, lobby.room_id, **options):
                    pass
            assert "foci_preferred is empty: every Element Call" in str(told.value)
            assert "--force" in str(told.value)
            async with join(client, lobby.room_id, force=True, **options) as call:
                assert call.member.member_id == f"{client.user_id}:{client.device_id}"

    run(main())


@pytest.mark.parametrize("dialect", ["D3", "D6/D7"])
def test_a_member_whom_element_x_will_not_show_is_told_so(dialect):
    async def main():
        async with Lobby(options=SynapseOptions()) as lobby:
            ann = await lobby.peer("ann", dialect=dialect)
            (remark,) = ann.call.remarks
            assert remark.startswith("Element X's call indicator will not show this member: ")

    run(main())


def test_what_element_x_shows_or_does_not_look_for_is_no_remark():
    member = Member(user_id="@u:hs", device_id="DEV", member_id="@u:hs:DEV")
    for slot, transport in (
        (Slot(room_id="!r:hs"), LIVEKIT),
        (Slot(room_id="!r:hs", application="org.example.game"), {"type": "rtcfoci.mesh"}),
    ):
        transports = (Transport(transport["type"], transport),)
        own = OwnMembership(slot=slot, member=member, transports=transports)
        assert remarks(D3().join(own), slot) == ()
