"""Each dialect that can be asked for, as the generation of matrix-js-sdk reads it that knows it."""

import pytest

from tests.interop.tools import Driver, npm_folder
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

READERS = {
    "D2": ("43.0.0", "session"),
    "D3": ("43.0.0", "session"),
    "D5": ("42.0.0", "rtc"),
    "D6/D7": ("43.0.0", "rtc"),
}


@pytest.mark.parametrize("dialect", READERS)
async def test_the_sdk_of_its_time_lists_the_member(synapse, new_user, tmp_path, dialect):
    version, kind = READERS[dialect]
    watcher, ours = await new_user("watcher"), await new_user("ours")
    room_id = await synapse.create_room(watcher.access_token)
    await synapse.join_room(ours.access_token, room_id)
    modules = npm_folder({"matrix-js-sdk": version})
    async with (
        Driver.started(tmp_path / "sdk.txt", "session.mjs", modules) as sdk,
        cast() as started,
    ):
        await sdk.ask(
            "start",
            baseUrl=synapse.base_url,
            userId=watcher.user_id,
            deviceId=watcher.device_id,
            accessToken=watcher.access_token,
            roomId=room_id,
        )
        mesh = await Participant.start(
            synapse, ours, room_id, tmp_path / "ours", "--source", "tone", "--dialect", dialect
        )
        started.append(mesh)
        seen = await sdk.until(lambda s: len(s["members"]) == 1, "ours is in")
        (member,) = seen["members"]
        assert member["userId"] == ours.user_id
        assert member["kind"] == kind
        assert [transport["type"] for transport in member["transports"]] == ["rtcfoci.mesh"]
        assert not member["expired"]
        assert seen["troubles"] == []
        assert await mesh.stop() == 0
        await sdk.until(lambda s: s["members"] == [], "ours has left")
