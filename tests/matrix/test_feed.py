"""Handing out: whole room first, each event once, slow readers bounded."""

from __future__ import annotations

import asyncio

import pytest

from rtcfoci.core.model import RoomEvent
from rtcfoci.matrix import feed as feed_module
from rtcfoci.matrix.client import Connectivity, RoomUpdate, ToDevice
from rtcfoci.matrix.feed import Feed, Snapshot
from rtcfoci.matrix.sync import RoomBatch


def event(event_id, state_key=None, **content):
    return RoomEvent(
        type="x.test",
        sender="@a:b",
        content=content,
        event_id=event_id,
        origin_server_ts_ms=1,
        received_ts_ms=1,
        state_key=state_key,
    )


def message(id):
    return ToDevice(
        id=id, type="x.msg", sender="@a:b", content={}, security="clear", sender_device_id=None
    )


def batch(timeline=(), state=(), sticky=(), room_id="!r", membership="join", limited=False):
    return RoomBatch(
        room_id=room_id,
        membership=membership,
        limited=limited,
        timeline=tuple(timeline),
        state=tuple(state),
        sticky=tuple(sticky),
    )


class Reading:
    def __init__(self, feed, room_id="!r"):
        self.got = []
        self.task = asyncio.create_task(self.read(feed, room_id))

    async def read(self, feed, room_id):
        async for update in feed.stream(room_id):
            self.got.append(update)

    @property
    def ids(self):
        return [e.event_id for u in self.got if isinstance(u, RoomUpdate) for e in u.events]


@pytest.fixture
async def reading():
    made = []

    async def start(feed, room_id="!r"):
        made.append(Reading(feed, room_id))
        await asyncio.sleep(0)
        return made[-1]

    yield start
    for one in made:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in made), return_exceptions=True)


async def settle():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_first_update_is_the_whole_room_then_pending_messages(reading):
    pending = [message(1), message(2)]
    feed = Feed(lambda: pending)
    one = await reading(feed)
    assert feed.wanted.is_set()
    assert (feed.unprimed(), feed.rooms) == (["!r"], ["!r"])
    feed.message(message(2))
    feed.rooms_synced([batch([event("$early")])])
    feed.prime("!r", Snapshot("join", (event("$s", "k"),), (event("$t"),)))
    feed.message(message(3))
    await settle()
    assert [getattr(u, "id", None) for u in one.got] == [None, 1, 2, 3]
    assert one.ids == ["$s", "$t"]
    assert feed.unprimed() == []


async def test_what_can_be_read_late_is_told_to_those_who_had_it_sealed(reading):
    feed = Feed(list)
    one, other = await reading(feed), await reading(feed, "!other")
    feed.prime("!r", Snapshot("join", (), (event("$sealed"),)))
    feed.prime("!other", Snapshot("join"))
    fresh = await reading(feed)  # its first update will hold what it says
    feed.late("!r", event("$sealed", n=1))
    await settle()
    assert [e.content for u in one.got for e in u.events] == [{}, {"n": 1}]
    assert (other.ids, fresh.got) == ([], [])


async def test_what_the_first_update_held_or_overtook_is_not_told_again(reading):
    feed = Feed(list)
    one = await reading(feed)
    now = (event("$b2", "k"), event("$c", "other"))
    feed.prime("!r", Snapshot("join", now, (event("$sticky"),)))
    feed.rooms_synced(
        [
            batch(
                [
                    event("$b1", "k"),
                    event("$plain"),
                    event("$b2", "k"),
                    event("$b3", "k"),
                ],
                state=[event("$older", "k")],
                sticky=[event("$sticky"), event("$sticky2")],
                limited=True,
            )
        ]
    )
    await settle()
    assert one.ids == ["$b2", "$c", "$sticky", "$plain", "$b3", "$sticky2"]
    # The next sync started after the first update: nothing in it is stale.
    feed.rooms_synced([batch([event("$b2", "k")], state=[event("$d", "k")])])
    await settle()
    assert one.ids[-2:] == ["$d", "$b2"]


async def test_a_sync_from_after_the_first_update_is_told_whole(reading):
    feed = Feed(list)
    one = await reading(feed)
    feed.prime("!r", Snapshot("join", (event("$a", "k"),)))
    feed.rooms_synced([batch([event("$c", "k")], state=[event("$b", "k")], limited=True)])
    await settle()
    assert one.ids == ["$a", "$b", "$c"]


async def test_readers_have_queues_of_their_own(reading):
    feed = Feed(list)
    one, two, other = await reading(feed), await reading(feed), await reading(feed, "!other")
    feed.prime("!r", Snapshot("join"))
    feed.prime("!other", Snapshot("leave"))
    feed.rooms_synced([batch([event("$a")]), batch([event("$b")], room_id="!other")])
    await settle()
    assert one.ids == two.ids == ["$a"]
    assert other.ids == ["$b"]
    two.task.cancel()
    await settle()
    feed.rooms_synced([batch(membership="leave")])
    await settle()
    assert one.got[-1] == RoomUpdate(room_id="!r", events=(), membership="leave")
    assert len(two.got) == 2
    assert feed.rooms == ["!other", "!r"]


async def test_a_reader_far_behind_gets_the_whole_room_again(monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_QUEUED", 5)
    pending = [message(1)]
    feed = Feed(lambda: pending)
    stream = feed.stream("!r")
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    feed.prime("!r", Snapshot("join", (event("$old", "k"),)))
    assert (await first).events[0].event_id == "$old"
    feed.connectivity(False, "gone")
    for n in range(20):
        feed.rooms_synced([batch([event(f"${n}", "k")])])
    assert feed.unprimed() == ["!r"]
    assert feed.wanted.is_set()
    feed.prime("!r", Snapshot("join", (event("$now", "k"),)))
    assert await anext(stream) == Connectivity(online=False, cause="gone")
    assert (await anext(stream)).events[0].event_id == "$now"
    assert await anext(stream) == message(1)
    await stream.aclose()
    assert feed.rooms == []


async def test_connectivity_is_told_once_and_to_newcomers(reading):
    feed = Feed(list)
    one = await reading(feed)
    for online in (True, False, False, True, False):
        feed.connectivity(online, "c")
    await settle()
    assert [u.online for u in one.got] == [False, True, False]
    assert not feed.online
    late = await reading(feed)
    await settle()
    assert [u.online for u in late.got] == [False]


async def test_the_end_comes_after_what_was_queued(reading):
    feed = Feed(list)
    one = await reading(feed)
    feed.prime("!r", Snapshot("join"))
    last = Connectivity(online=False, token_revoked=True)
    feed.end(last)
    feed.end()
    feed.connectivity(True)
    await asyncio.wait_for(one.task, 1)
    assert one.got[1:] == [last]
    late = await reading(feed)
    await asyncio.wait_for(late.task, 1)
    assert late.got == [last]
