"""What Element Call shows, in a call of its own, of a member that has a mesh only."""

import asyncio
import contextlib
from collections import Counter
from urllib.parse import quote

import pytest

from tests.interop.element_call import deployment, element_call
from tests.interop.shapes import SHAPES
from tests.interop.tools import by_user
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

COMPATIBILITY, MATRIX_2_0 = "compatibility", "matrix_2_0"
ENDING = ["no foci", "foci missing", "focus_active without selection", "receive-only"]
SHOWN = [
    "mesh, multi_sfu",
    "livekit, then mesh",
    "focus without type",
    "focus_active of another type",
    "another application's ROOM",
    "sticky, mesh",
    "sticky, livekit then mesh",
    "D7, no can_subscribe",
    "D1",
]


def in_call(count):
    return lambda s: s["inCall"] and len(s["tiles"]) == len(s["members"]) == count


def pictures_since(seen, before):
    """Frames shown of each tile since an earlier look."""
    return {name: count - before["frames"].get(name, 0) for name, count in seen["frames"].items()}


@contextlib.asynccontextmanager
async def pages_in_call(synapse, callers, room_id, folder, mode=COMPATIBILITY, others=0):
    """Open a browser for each caller; give them all in one call, each showing all.

    :param others: how many are in the call already, without pictures.
    """
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(deployment(synapse, folder))
        pages = [
            await stack.enter_async_context(element_call(site, caller, room_id, folder, mode))
            for caller in callers
        ]
        for page in pages:
            await page.until(in_call(len(pages) + others), "in the call with all tiles")
            await page.until(
                lambda s: len(s["frames"]) == len(pages) and min(s["frames"].values()) > 10,
                "shows everybody's picture",
            )
        yield pages


@pytest.mark.parametrize(
    ("encrypted", "options", "people", "mode"),
    [
        (False, (), 1, COMPATIBILITY),
        (False, (), 1, MATRIX_2_0),
        (False, ("--dialect", "D3"), 1, COMPATIBILITY),
        (True, (), 2, COMPATIBILITY),
    ],
    ids=["clear-sticky", "clear-sticky-2.0", "clear-state", "encrypted-two"],
)
async def test_the_call_goes_on(synapse, new_user, tmp_path, encrypted, options, people, mode):
    callers = [await new_user("caller") for _ in range(people)]
    ours = await new_user("ours")
    room_id = await synapse.create_room(callers[0].access_token, encrypted=encrypted)
    for person in (*callers[1:], ours):
        await synapse.join_room(person.access_token, room_id)

    async with (
        pages_in_call(synapse, callers, room_id, tmp_path, mode) as pages,
        cast() as started,
    ):
        before = [await page.ask("look") for page in pages]
        for member in before[0]["members"]:  # the two modes write different transports
            assert ("livekit_alias" in member["transports"][0]) == (mode == COMPATIBILITY)
        mesh = await Participant.start(
            synapse, ours, room_id, tmp_path / "ours", "--source", "tone", *options
        )
        started.append(mesh)
        early = [await page.until(in_call(people + 1), "ours is shown too") for page in pages]
        await asyncio.sleep(5)  # time to connect, give up or break
        for number, (page, then, joined) in enumerate(zip(pages, before, early, strict=True)):
            await page.ask("picture", path=str(tmp_path / f"together-{number}.png"))
            seen = await page.ask("look")
            assert in_call(people + 1)(seen), seen
            assert seen["troubles"] == []
            members, earlier = by_user(seen), by_user(then)
            assert {user: members[user] for user in earlier} == earlier
            assert [t["type"] for t in members[ours.user_id]["transports"]] == ["rtcfoci.mesh"]
            assert any(mesh.name in tile for tile in seen["tiles"]), seen["tiles"]
            # Every caller's picture, its own and the other's through LiveKit, goes on.
            moved = pictures_since(seen, joined)
            assert len(moved) == people
            assert min(moved.values()) > 10, moved
        for caller in callers:
            await mesh.until(lambda user=caller.user_id: mesh.sees(user), "sees the caller")
        await mesh.until(lambda: "no_focus_type" in mesh.conditions(), "says why it hears nobody")

        assert await mesh.stop() == 0
        for number, (page, then) in enumerate(zip(pages, before, strict=True)):
            after = await page.until(in_call(people), "ours has left")
            assert by_user(after) == by_user(then)
            assert after["troubles"] == []
            await page.ask("picture", path=str(tmp_path / f"after-{number}.png"))


@pytest.mark.parametrize("encrypted", [False, True], ids=["clear-sticky", "encrypted"])
async def test_it_comes_into_a_call_that_ours_began(synapse, new_user, tmp_path, encrypted):
    """Ours is the oldest member then, after whose transport some clients choose theirs."""
    caller, ours = await new_user("caller"), await new_user("ours")
    room_id = await synapse.create_room(caller.access_token, encrypted=encrypted)
    await synapse.join_room(ours.access_token, room_id)
    async with cast() as started:
        mesh = await Participant.start(
            synapse, ours, room_id, tmp_path / "ours", "--source", "tone"
        )
        started.append(mesh)
        await mesh.until(lambda: mesh.events("Status"), "is in the call", 40)
        async with pages_in_call(synapse, [caller], room_id, tmp_path, others=1) as (page,):
            before = await page.ask("look")
            await asyncio.sleep(5)  # time to connect, give up or break
            seen = await page.ask("look")
            assert in_call(2)(seen), seen
            members = by_user(seen)
            assert seen["members"][0]["userId"] == ours.user_id, "ours is not the oldest"
            assert [t["type"] for t in members[ours.user_id]["transports"]] == ["rtcfoci.mesh"]
            assert [t["type"] for t in members[caller.user_id]["transports"]] == ["livekit"]
            assert min(pictures_since(seen, before).values()) > 10
            assert await mesh.stop() == 0
            after = await page.until(in_call(1), "ours has left")
            assert by_user(after)[caller.user_id] == members[caller.user_id]
            assert after["troubles"] == []
            await page.until(
                lambda s: min(pictures_since(s, after).values()) > 10, "its picture goes on"
            )


async def send(synapse, person, room_id, raw):
    """Send an event of `shapes.py` as somebody."""
    path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}"
    kind, content = raw["type"], raw["content"]
    if "state_key" in raw:
        url, query = f"{path}/state/{kind}/{quote(raw['state_key'], safe='')}", None
    else:
        sticky = str(raw["msc4354_sticky"]["duration_ms"])
        url, query = f"{path}/send/{kind}/{person.device_id}", {_STICKY_QUERY: sticky}
    await synapse.checked("PUT", url, person.access_token, body=content, query=query)


_STICKY_QUERY = "org.matrix.msc4354.sticky_duration_ms"


async def shown(page, before):
    """What became of one more member: a tile and which, nothing, or the end of the call."""
    for _ in range(15):  # three seconds without any change are long enough
        seen = await page.ask("look")
        if not seen["inCall"]:
            return "crashes"
        new = list((Counter(seen["tiles"]) - Counter(before["tiles"])).elements())
        if new:
            await asyncio.sleep(1)  # it may still break
            seen = await page.ask("look")
            if not seen["inCall"]:
                return "crashes"
            (tile,) = (Counter(seen["tiles"]) - Counter(before["tiles"])).elements()
            return "tile" if "Waiting for media" in tile else "avatar"
        await asyncio.sleep(0.2)
    return "nothing"


@pytest.mark.parametrize("mode", [COMPATIBILITY, MATRIX_2_0])
async def test_a_member_of_each_shape_shows_as_the_linter_says(synapse, new_user, tmp_path, mode):
    """The others of the table were seen once, in the same way."""
    caller = await new_user("caller")
    room_id = await synapse.create_room(caller.access_token)
    async with pages_in_call(synapse, [caller], room_id, tmp_path, mode) as (page,):
        for name in SHOWN:
            before = await page.until(in_call(1), "alone again")
            other = await new_user("other")
            await synapse.join_room(other.access_token, room_id)
            raw = SHAPES[name].event(other.user_id, other.device_id, room_id)
            await send(synapse, other, room_id, raw)
            assert await shown(page, before) == SHAPES[name].element_call, name
            leave = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/leave"
            await synapse.checked("POST", leave, other.access_token, body={})
        assert (await page.ask("look"))["troubles"] == []


@pytest.mark.parametrize("name", ENDING)
async def test_a_shape_that_we_never_write_ends_the_call(synapse, new_user, tmp_path, name):
    """The control: these instruments do see a call that a membership without transport breaks."""
    assert SHAPES[name].element_call == "crashes"
    caller, other = await new_user("caller"), await new_user("other")
    room_id = await synapse.create_room(caller.access_token)
    await synapse.join_room(other.access_token, room_id)
    async with pages_in_call(synapse, [caller], room_id, tmp_path) as (page,):
        raw = SHAPES[name].event(other.user_id, other.device_id, room_id)
        await send(synapse, other, room_id, raw)
        await page.until(lambda s: not s["inCall"], "its call has ended")
        await page.ask("picture", path=str(tmp_path / "ended.png"))
