"""A mesh call of three across two homeservers that federate, in an encrypted room."""

import asyncio

import pytest

from rtcfoci.testing import federated_pair
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


async def test_three_on_two_homeservers_hear_and_see_each_other(tmp_path):
    async with federated_pair(tmp_path / "servers") as (here, there), cast() as started:
        homes = (here, here, there)
        people = [
            await server.register(name, "password")
            for server, name in zip(homes, ("ann", "bob", "cem"), strict=True)
        ]
        ann, bob, cem = people
        room_id = await here.create_room(ann.access_token, encrypted=True)
        await here.join_room(bob.access_token, room_id)
        await there.join_room(cem.access_token, room_id, via=here.server_name)
        assert len({person.user_id.partition(":")[2] for person in people}) == 2
        for number, (server, person) in enumerate(zip(homes, people, strict=True)):
            folder = tmp_path / f"participant{number}"
            media = ("--source", "tone", "--source", f"pattern:{number + 1}")
            started.append(await Participant.start(server, person, room_id, folder, *media))
        for participant, person in zip(started, people, strict=True):
            for other in people:
                for kind in ("audio", "video") if other is not person else ():
                    await participant.until(
                        lambda p=participant, o=other, k=kind: p.frames(o.user_id, k) > 20,
                        f"receives {kind} of {other.user_id}",
                        60,
                    )
        for participant in started:
            tracks = [t for p in participant.status["participants"] for t in p["tracks"]]
            assert sorted(t["kind"] for t in tracks) == ["audio", "audio", "video", "video"]
        assert await started[2].stop() == 0
        for participant in started[:2]:
            await participant.until(
                lambda p=participant: p.events("ParticipantLeft", user_id=cem.user_id),
                "sees cem leave",
                15,
            )
            # The table is printed once a second.
            await participant.until(
                lambda p=participant: not p.sees(cem.user_id), "shows it as gone", 5
            )
        before = started[0].frames(bob.user_id)
        await started[0].until(lambda: started[0].frames(bob.user_id) > before + 50, "goes on", 15)
        assert await asyncio.gather(*(p.stop() for p in started[:2])) == [0, 0]
