"""A call goes by its homeserver's clock, whatever the clock of its machine says."""

from __future__ import annotations

import asyncio

import pytest

import rtcfoci
from rtcfoci.call.clock import ServerClock
from rtcfoci.core.model import Now, RoomEvent
from rtcfoci.matrix.cs import CsClient
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby
from rtcfoci.testing.synapse_config import SynapseOptions

HOUR_MS = 3_600_000


class Skewed:
    """A device whose wall clock is wrong."""

    def __init__(self, lobby: Lobby, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms
        self._lobby = lobby

    def now(self) -> Now:
        right = self._lobby.now()
        return Now(right.s, right.ts_ms + self.ahead_ms)

    async def client(self, name: str) -> CsClient:
        lobby = self._lobby
        person = await lobby.homeserver.register(name, "secret")
        await lobby.homeserver.join_room(person.access_token, lobby.room_id)
        return CsClient(
            lobby.homeserver.line(),
            homeserver_url=lobby.homeserver.base_url,
            user_id=person.user_id,
            device_id=person.device_id,
            access_token=person.access_token,
            wall_ts_ms=lambda: self.now().ts_ms,
        )


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("ahead_ms", [-HOUR_MS, 90_000, 24 * HOUR_MS])
def test_a_wrong_clock_keeps_nobody_apart(ahead_ms, sticky):
    async def main():
        async with Lobby(options=SynapseOptions(sticky_events=sticky)) as lobby:
            ann = await lobby.peer("ann")
            wrong = Skewed(lobby, ahead_ms)
            client = await wrong.client("bob")
            foci = [("memory.elected", {"world": lobby.world_name})]
            async with rtcfoci.join(
                client, lobby.room_id, foci=foci, plugins=lobby.plugins, now=wrong.now
            ) as bob:
                await ann.until(lambda: ann.call.participants)
                await asyncio.sleep(5)
                assert bob.participants
                assert abs(bob.now().ts_ms - lobby.now().ts_ms) < 1000

                wrong.ahead_ms += 7 * HOUR_MS  # somebody sets it
                await asyncio.sleep(120)
                assert abs(bob.now().ts_ms - lobby.now().ts_ms) < 1000
                assert bob.participants
                assert ann.call.participants
            await client.aclose()

    run(main())


def test_what_is_read_late_came_when_it_came():
    """An encrypted event is handed out again when its key comes, and ends no later for that."""
    clock = ServerClock(lambda: Now(100.0, 5_000_000))

    def event(**more):
        return RoomEvent(type="t", sender="@a:hs", content={}, event_id="$e", **more)

    late = event(origin_server_ts_ms=1_000_000, received_ts_ms=4_970_000)
    assert clock.heard_ts_ms(late) == 4_970_000
    own = event(origin_server_ts_ms=1_000_000, received_ts_ms=5_000_000, age_ms=7)
    clock.learn([own], "@a:hs")
    assert clock.now().ts_ms == 1_000_007
    assert clock.heard_ts_ms(late) == 970_007
    in_our_future = event(origin_server_ts_ms=1_000_000, received_ts_ms=9_000_000)
    assert clock.heard_ts_ms(in_our_future) == 1_000_007
