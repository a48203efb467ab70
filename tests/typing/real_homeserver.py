"""A call on a real homeserver, for tests of apps: quoted by the docs, checked by mypy, never run."""

from pathlib import Path

import rtcfoci
from rtcfoci.testing import Synapse


async def test_a_call_on_a_real_homeserver(tmp_path: Path) -> None:
    async with Synapse(tmp_path) as synapse:
        alice = await synapse.register("alice", "secret")
        room_id = await synapse.create_room(alice.access_token)
        client = await rtcfoci.connect(synapse.base_url, token=alice.access_token)
        async with rtcfoci.join(client, room_id, foci=["mesh"]) as call:
            assert call.focus_type == "rtcfoci.mesh"
        await client.aclose()
