"""The sync loop against the homeserver in memory, in virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from rtcfoci.errors import ClientError, UnreachableError
from rtcfoci.matrix.client import Connectivity, RoomUpdate, ToDevice
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.cs import CsClient
from rtcfoci.matrix.http import Response
from rtcfoci.testing.clock import run
from rtcfoci.testing.homeserver import MemoryHomeserver
from rtcfoci.testing.homeserver_devices import DeviceMessage

SYNC = "GET /_matrix/client/v3/sync"
STICKY = "org.matrix.msc4143.rtc.member"


class World:
    """Alice and bob in a room of a homeserver in memory; bob's updates are read."""

    async def __aenter__(self):
        self.server = MemoryHomeserver(latency_s=0.02)
        alice = await self.server.register("alice", "a")
        bob = await self.server.register("bob", "b")
        self.room_id = await self.server.create_room(alice.access_token)
        await self.server.join_room(bob.access_token, self.room_id)
        self.line = self.server.line()
        self.ours = await self.client(alice, self.server.line())
        self.theirs = await self.client(bob, self.line)
        self.seen = []
        self.reader = asyncio.create_task(self.read())
        await self.until(lambda: self.rooms)
        return self

    async def client(self, who, line):
        return await connect(
            self.server.base_url, token=who.access_token, requester=lambda url: line
        )

    async def read(self):
        async for update in self.theirs.updates(self.room_id):
            self.seen.append(update)

    async def until(self, happened, timeout_s=60.0):
        async with asyncio.timeout(timeout_s):
            while not happened():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def tell(self, n):
        return await self.ours.send_state(self.room_id, "x.test", "k", {"n": n})

    async def whisper(self, n):
        await self.ours.send_to_device(
            "x.msg", self.theirs.user_id, self.theirs.device_id, {"n": n}, encrypt=False
        )

    @property
    def rooms(self):
        return [u for u in self.seen if isinstance(u, RoomUpdate)]

    @property
    def told(self):
        return [e.content["n"] for u in self.rooms for e in u.events if e.type == "x.test"]

    @property
    def whispered(self):
        return [u.content["n"] for u in self.seen if isinstance(u, ToDevice)]

    @property
    def connectivity(self):
        return [u.online for u in self.seen if isinstance(u, Connectivity)]

    async def __aexit__(self, *_):
        await self.ours.aclose()
        await self.theirs.aclose()
        await self.reader


def test_nothing_is_lost_and_nothing_doubled_over_an_outage():
    async def main():
        async with World() as w:
            await w.tell(1)
            await w.whisper(1)
            await w.until(lambda: w.told == [1] and w.whispered == [1])
            w.line.cut = True
            await w.until(lambda: w.connectivity == [False])
            for n in (2, 3):
                await w.tell(n)
                await w.whisper(n)
            await asyncio.sleep(600)
            w.line.cut = False
            # A call has 5 s to be a member again.
            await w.until(lambda: w.told == [1, 2, 3] and w.whispered == [1, 2, 3], 3.0)
            await asyncio.sleep(120)
            assert (w.told, w.whispered) == ([1, 2, 3], [1, 2, 3])
            assert w.connectivity == [False, True]

    run(main())


def test_a_lost_answer_loses_no_message():
    async def main():
        async with World() as w:
            w.server.lose_answer(SYNC, count=2)
            for n in range(6):
                await w.whisper(n)
                await w.tell(n)
                await asyncio.sleep(1)
            await w.until(lambda: w.whispered == list(range(6)) and w.told == list(range(6)))

    run(main())


def test_a_gap_longer_than_a_timeline_ends_in_the_state_of_now():
    async def main():
        async with World() as w:
            w.line.cut = True
            await w.until(lambda: w.connectivity == [False])
            await w.ours.send_state(w.room_id, "x.other", "early", {})
            for n in range(120):
                await w.tell(n)
            w.line.cut = False
            await w.until(lambda: w.told and w.told[-1] == 119)
            assert w.told == sorted(set(w.told))
            assert "x.other" in [e.type for u in w.rooms[1:] for e in u.events]

    run(main())


def test_a_server_that_forgot_our_place_gives_the_whole_room_again():
    async def main():
        async with World() as w:
            await w.tell(1)
            await w.until(lambda: w.told == [1])
            w.server.refuse(SYNC, status=400, errcode="M_UNKNOWN")
            await w.tell(2)
            await w.until(lambda: w.told and w.told[-1] == 2)
            whole = [u for u in w.rooms if "m.room.create" in [e.type for e in u.events]]
            assert len(whole) == 2
            await w.tell(3)
            await w.until(lambda: w.told[-1] == 3)

    run(main())


def test_a_limited_sync_is_no_outage():
    async def main():
        async with World() as w:
            w.server.refuse(SYNC, count=3, retry_after_ms=5_000)
            await w.tell(1)
            asked = w.server.seen(SYNC)
            await w.until(lambda: w.told == [1])
            assert w.connectivity == []
            assert w.server.seen(SYNC) - asked <= 5

    run(main())


def test_a_failing_server_is_asked_gently_and_a_first_update_waits_for_it():
    async def main():
        async with World() as w:
            w.server.refuse("/state", count=20, status=503, errcode="M_UNKNOWN")
            late: list = []

            async def read():
                async for update in w.theirs.updates(w.room_id):
                    late.append(update)

            reader = asyncio.create_task(read())
            asked = w.server.seen("/state")
            await asyncio.sleep(20)
            assert 8 <= w.server.seen("/state") - asked <= 20
            await w.until(lambda: any(isinstance(u, RoomUpdate) for u in late))
            assert [u.online for u in late if isinstance(u, Connectivity)][:1] == [False]
            await w.tell(1)
            await w.until(lambda: w.told == [1])
            assert w.connectivity == [False, True]
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    run(main())


def test_an_idle_hour_costs_a_request_every_half_minute():
    async def main():
        async with World() as w:
            asked = w.server.seen(SYNC)
            await asyncio.sleep(3600)
            assert w.server.seen(SYNC) - asked <= 130
            assert w.connectivity == []

    run(main())


@pytest.mark.parametrize(("sliding", "count"), [(True, 120), (False, 90)])
def test_sticky_events_reach_readers_old_and_new(sliding, count):
    async def main():
        async with World() as w:
            if not sliding:
                w.server.refuse(
                    "simplified_msc3575", count=999, status=404, errcode="M_UNRECOGNIZED"
                )
            for n in range(count):
                await w.ours.send_event(
                    w.room_id,
                    STICKY,
                    {"msc4354_sticky_key": str(n)},
                    txn_id=str(n),
                    sticky_duration_ms=3_600_000,
                )
            await w.until(lambda: sum(e.type == STICKY for u in w.rooms for e in u.events) == count)
            await asyncio.sleep(60)
            # A message that nobody has seen yet must not get lost over the question.
            w.line.cut = True
            await w.whisper(1)
            w.line.cut = False
            stream = w.theirs.updates(w.room_id)
            async for first in stream:
                if isinstance(first, RoomUpdate):
                    break
            assert sum(e.type == STICKY for e in first.events) == count
            await w.until(lambda: w.whispered == [1])
            await stream.aclose()

    run(main())


def test_a_fault_of_our_own_is_logged_and_survived(caplog):
    async def main():
        async with World() as w:
            commit, failures = w.theirs.store.commit, []

            def fails(*arguments):
                if len(failures) < 2:
                    failures.append(1)
                    raise RuntimeError("disk full")
                return commit(*arguments)

            w.theirs.store.commit = fails
            await w.whisper(1)
            await w.tell(1)
            await w.until(lambda: w.told == [1] and w.whispered == [1])
            assert len(failures) == 2

    with caplog.at_level(logging.ERROR, logger="rtcfoci"):
        run(main())
    assert "Handling a sync failed" in caplog.text


def test_a_message_that_no_database_takes_holds_nothing_up(caplog):
    async def main():
        async with World() as w:
            deep = []
            for _ in range(400):
                deep = [deep]
            for kind, content in (("x.\ud800", {"n": 1}), ("x.msg", {"n": deep}), ("\ud800", {})):
                message = DeviceMessage(
                    kind, w.ours.user_id, w.theirs.user_id, w.theirs.device_id, content
                )
                w.server.devices.deliver(message)
            await w.whisper(2)
            await w.tell(1)
            await w.until(lambda: w.told == [1] and w.whispered == [2])
            assert w.connectivity == []

    with caplog.at_level(logging.WARNING, logger="rtcfoci"):
        run(main())
    assert caplog.text == ""


def test_what_was_kept_but_not_handed_out_is_handed_out(caplog):
    async def main():
        async with World() as w:
            commit, failures = w.theirs.store.commit, []

            def fails_afterwards(*arguments):
                done = commit(*arguments)
                if len(failures) < 1:
                    failures.append(1)
                    raise RuntimeError("a bug after the commit")
                return done

            w.theirs.store.commit = fails_afterwards
            await w.whisper(1)
            await w.until(lambda: failures)
            await w.tell(1)
            await w.until(lambda: w.told == [1] and w.whispered == [1])

    run(main())


def test_a_reader_who_comes_while_the_server_is_away_brings_no_word_of_its_return():
    async def main():
        async with World() as w:
            w.server.refuse(SYNC, count=10_000, status=502, errcode="M_UNKNOWN")
            w.server.latency_s = 10.0
            await w.until(lambda: w.connectivity == [False])
            late = []

            async def read():
                async for update in w.theirs.updates(w.room_id):
                    late.append(update)

            for _ in range(5):
                reader = asyncio.create_task(read())
                await asyncio.sleep(5)
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            assert w.connectivity == [False]

    run(main())


def test_a_room_that_is_refused_does_not_lose_our_place():
    async def main():
        async with World() as w:
            await w.tell(1)
            await w.until(lambda: w.told == [1])
            place = w.theirs.store.next_batch
            w.server.refuse("/state", count=1, status=400, errcode="M_INVALID_PARAM")
            stream = w.theirs.updates(w.room_id)
            async for update in stream:
                if isinstance(update, RoomUpdate):
                    break
            assert place is not None
            whole = [u for u in w.rooms if "m.room.create" in [e.type for e in u.events]]
            assert len(whole) == 1
            await stream.aclose()

    run(main())


@pytest.mark.parametrize("body", [{}, {"next_batch": 5}, [], "html", None])
def test_something_else_that_answers_is_an_outage(body):
    async def main():
        class Portal:
            async def request(self, *_, timeout_s):
                return Response(200, {}, body)

            async def aclose(self):
                pass

        client = CsClient(
            Portal(), homeserver_url="http://h", user_id="@a:b", device_id="D", access_token="t"
        )
        stream = client.updates("!r")
        update = await anext(stream)
        assert not update.online
        assert "next_batch" in update.cause
        await stream.aclose()
        await client.aclose()

    run(main())


def test_a_revoked_token_ends_everything():
    async def main():
        async with World() as w:
            w.server.refuse(SYNC, status=401, errcode="M_UNKNOWN_TOKEN")
            await w.tell(1)
            await asyncio.wait_for(w.reader, 60)
            assert w.seen[-1].token_revoked
            asked = w.server.seen(SYNC)
            await asyncio.sleep(300)
            assert w.server.seen(SYNC) == asked

    run(main())


def test_closing_ends_streams_and_stops_asking():
    async def main():
        async with World() as w:
            await w.theirs.aclose()
            await asyncio.wait_for(w.reader, 1)
            asked = w.server.seen(SYNC)
            await asyncio.sleep(300)
            assert w.server.seen(SYNC) == asked
            with pytest.raises(ClientError) as error:
                await w.theirs.send_state(w.room_id, "x", "", {})
            assert isinstance(error.value, UnreachableError)

    run(main())
