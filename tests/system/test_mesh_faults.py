"""A mesh on a real Synapse: a network that is cut, signals that are spoilt, members that come at once."""

import asyncio
import contextlib
import json
import time
from itertools import permutations

import pytest

import rtcfoci
from rtcfoci.call import events as ev
from rtcfoci.call.call import Call
from rtcfoci.core.model import Now
from rtcfoci.matrix.connect import connect
from rtcfoci.media.frames import Kind
from rtcfoci.media.sources import ToneSource
from tests.system.gate import Gate, Spoiling
from tests.system.history import is_leave, memberships
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def drill():
    """The mesh's, which is not installed everywhere where this module is collected."""
    from rtcfoci_mesh.connection import MeshDrill

    return MeshDrill


class Guest:
    """A call in this very process, with a tone, and all that it was told."""

    def __init__(self, call):
        self.call = call
        self.user_id = call.member.user_id
        self.events = []
        self.numbers = []
        """What the others sent, as (user id, number)."""
        self.frames = {}
        """How many frames came of each user."""
        self._source = ToneSource(440)
        self._tasks = [asyncio.create_task(self._read())]

    async def begin(self):
        await self.call.publish(self._source.hubs[Kind.AUDIO])
        self._source.start()

    async def _read(self):
        async for event in self.call.events():
            self.events.append(event)
            if isinstance(event, ev.TrackAdded):
                self._tasks.append(asyncio.create_task(self._listen(event.track)))
            elif isinstance(event, ev.DataReceived):
                self.numbers.append((event.member.user_id, int(event.payload)))

    async def _listen(self, track):
        user_id = track.track_id.member.user_id
        async with track.frames() as frames:
            async for _ in frames:
                self.frames[user_id] = self.frames.get(user_id, 0) + 1

    def conditions(self):
        return {c.code for c in self.call.conditions}

    def told(self, kind):
        return [e for e in self.events if isinstance(e, kind)]

    async def end(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._source.aclose()


@contextlib.asynccontextmanager
async def guest(homeserver, person, room_id, **options):
    client = await connect(
        homeserver.base_url, user=person.user_id, password="password", encrypted=True
    )
    try:
        foci = [("mesh", {"loopback": True, **options})]
        async with rtcfoci.join(client, room_id, foci=foci) as call:
            joined = Guest(call)
            try:
                await joined.begin()
                yield joined
            finally:
                await joined.end()
    finally:
        await client.aclose()


async def until(holds, what, timeout_s=20.0):
    """Wait until something holds; give back how long it took."""
    start_s = time.monotonic()
    while not holds():
        assert time.monotonic() - start_s < timeout_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - start_s


async def people_in(synapse, new_user, *names):
    people = [await new_user(name) for name in names]
    room_id = await synapse.create_room(people[0].access_token, encrypted=True)
    for person in people[1:]:
        await synapse.join_room(person.access_token, room_id)
    return people, room_id


async def test_the_network_is_cut_for_ten_seconds_and_comes_back(synapse, new_user):
    """Both ways at once: to the homeserver and between the members. Then all is as it was."""
    people, room_id = await people_in(synapse, new_user, "ann", "bob")
    async with Gate(synapse.base_url) as gate, contextlib.AsyncExitStack() as stack:
        ann, bob = [await stack.enter_async_context(guest(gate, p, room_id)) for p in people]
        views = ((ann, bob), (bob, ann))
        for one, other in views:
            await until(lambda o=one, u=other.user_id: o.frames.get(u, 0) > 20, "sound", 40)
        sent = 0

        async def send(count):
            nonlocal sent
            for _ in range(count):
                await ann.call.send_data(b"%d" % sent)
                sent += 1

        await send(20)
        gate.shut()
        cut_s = time.monotonic()
        for one, _ in views:
            await one.call.extension(drill()).suspend()
        await send(20)  # these are under way when the connection is given up
        for one, _ in views:
            await until(lambda o=one: "media_stalled" in o.conditions(), "says so", 8)
        await send(20)
        await asyncio.sleep(max(0.0, cut_s + 10 - time.monotonic()))
        for one, _ in views:
            assert "homeserver_unreachable" in one.conditions()
        before = {one.user_id: dict(one.frames) for one, _ in views}
        gate.open()
        back_s = time.monotonic()
        for one, other in views:
            await until(
                lambda o=one, u=other.user_id: o.frames[u] > before[o.user_id][u] + 25, "sound", 30
            )
        took_s = time.monotonic() - back_s
        print(f"sound again {took_s:.1f} s after the network's return")
        for one, _ in views:
            await until(lambda o=one: not o.conditions(), "is well", 15)
        await send(20)
        await until(lambda: len(bob.numbers) >= sent, "all the data")
        assert bob.numbers == [(ann.user_id, n) for n in range(sent)], "each once, in order"
        for one, _ in views:
            assert len(one.call.participants) == 1
            assert not one.told(ev.ParticipantLeft)
        events = await memberships(synapse, people[0].access_token, room_id)
        assert not any(map(is_leave, events)), "the delayed leave was never due"
        assert took_s < 15


@pytest.mark.parametrize("seed", [1, 2])
async def test_to_device_is_lost_repeated_and_out_of_order(synapse, new_user, tmp_path, seed):
    people, room_id = await people_in(synapse, new_user, "ann", "bob", "cat")
    async with Gate(synapse.base_url, seed=seed) as gate, cast() as started:
        gate.spoiling = Spoiling(lost=0.25, repeated=0.5, late=0.5)
        for person in people:
            folder = tmp_path / person.user_id[1:4]
            options = ("--source", "tone")
            started.append(await Participant.start(gate, person, room_id, folder, *options))
        user_ids = [person.user_id for person in people]
        for (one, _), (_, user_id) in permutations(zip(started, user_ids, strict=True), 2):
            await one.until(lambda o=one, u=user_id: o.frames(u) > 50, f"hears {user_id}", 90)
        print(f"seed {seed}: {dict(gate.spoilt)}")
        assert all(gate.spoilt[what] for what in ("lost", "repeated", "late"))
        gate.spoiling = Spoiling()
        for one in started:
            await one.until(lambda o=one: not o.conditions(), "is well", 45)
            assert len(one.status["participants"]) == 2
        for one in started:
            assert await one.stop() == 0


async def test_members_that_join_in_the_same_millisecond_agree(synapse, new_user, monkeypatch):
    """Their ids decide the order, the same for everybody: who offers, and who does not fit."""
    people, room_id = await people_in(synapse, new_user, "ann", "bob", "cat")
    same_ts_ms = int(time.time() * 1000)
    # The homeserver's clock, as every call sees it, stands still.
    monkeypatch.setattr(Call, "now", lambda _: Now(time.monotonic(), same_ts_ms))
    async with contextlib.AsyncExitStack() as stack:
        room_for_two = {"max_video_members": 2, "max_audio_members": 2}
        guests = await asyncio.gather(
            *(stack.enter_async_context(guest(synapse, p, room_id, **room_for_two)) for p in people)
        )
        events = await memberships(synapse, people[0].access_token, room_id)
        claims = [_claim(event) for event in events]
        assert claims == [same_ts_ms] * 3
        ann, bob, cat = sorted(guests, key=lambda g: g.call.member.order)
        for one, other in ((ann, bob), (bob, ann)):
            await until(lambda o=one, u=other.user_id: o.frames.get(u, 0) > 20, "sound", 40)
        for one in guests:
            await until(lambda o=one: o.conditions() == {"mesh_full"}, "knows who does not fit")
            subjects = {c.subject for c in one.call.conditions}
            assert subjects == {str(cat.call.member)}
        assert not cat.frames

        await ann.call.leave()
        for one, other in ((bob, cat), (cat, bob)):
            await until(lambda o=one, u=other.user_id: o.frames.get(u, 0) > 20, "moved up", 40)
            await until(lambda o=one: not o.conditions(), "is well")


def _claim(event):
    """When a member says that it joined, wherever its dialect keeps the transport."""
    text = json.dumps(event["content"])
    return int(text.partition('"joined_ts_ms": ')[2].partition(",")[0].partition("}")[0])
