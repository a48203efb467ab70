"""Many jobs on one clock: what is stored when, in which order servers are asked, how it ends.

Runs in virtual time; the homeserver, the SFU and the store answer as told.
"""

import asyncio
import logging
from dataclasses import asdict
from itertools import pairwise

import pytest
from rtcfoci_livekit_auth.delegation.engine import Delegations
from rtcfoci_livekit_auth.delegation.model import (
    Answer,
    DelegationRefused,
    DelegationSettings,
    Leave,
    NotStored,
    Phase,
    Record,
    ShuttingDown,
    Verdict,
)
from rtcfoci_livekit_auth.delegation.store import MemoryStore
from rtcfoci_livekit_auth.room_service import Presence, Sighting
from rtcfoci_livekit_auth.webhooks import ParticipantEvent

from rtcfoci.testing.clock import VirtualLoop

ORIGINAL = DelegationSettings()
CAREFUL = DelegationSettings.careful()
PACED = DelegationSettings(calls_per_s=1.0, calls_burst=5)


def leave_of(n=0, *, delay_s=100.0, server="example.org", user_id=None, delay_id=None):
    return Leave(
        room=f"room{n // 10}",
        identity=f"user{n}",
        delay_id=delay_id or f"secret{n}",
        delay_ms=int(delay_s * 1000),
        server_name=server,
        user_id=user_id,
    )


def event(kind, n=0, *, reason="", sid="PA_1"):
    who = "" if kind == "room_finished" else f"user{n}"
    return ParticipantEvent(
        kind=kind, room=f"room{n // 10}", identity=who, sid=sid, reason=reason, created_ts_ms=0
    )


class Store(MemoryStore):
    """A store whose writes can be slow, or refused, and that says what was asked of it."""

    def __init__(self, records=()):
        super().__init__()
        self.records = {record.leave.key: record for record in records}
        self.broken = False
        self.slow_s = 0.0
        self.told = []
        self.ours = True
        self.saves = 0

    async def save(self, record, *, new=False):
        await asyncio.sleep(self.slow_s)
        if self.broken:
            raise OSError("broken")
        self.saves += 1
        if self.ours:
            await super().save(record, new=new)
        return self.ours

    def keep(self, record):
        self.saves += 1
        super().keep(record)

    def tell(self, message):
        self.told.append(message)


class World:
    """Fakes around one engine."""

    def __init__(self, settings=ORIGINAL, *, records=(), as_user=False):
        self.clock = asyncio.get_running_loop().clock
        self.there = set()
        self.sfu_up = True
        self.calls = []
        """(seconds since the start, action, delay id)"""
        self.answers = {}
        self.as_user = as_user
        self.at_once = self.most_at_once = 0
        self.store = Store(records)
        self.began_s = self.clock.s
        self.delegations = Delegations(
            store=self.store,
            delayed_events=self,
            sfus=self,
            settings=settings,
            clock=self.clock,
            chance=lambda: 0.5,
        )

    async def is_there(self, room, identity):
        await asyncio.sleep(0.01)
        if not self.sfu_up:
            return Sighting(Presence.UNKNOWN)
        return (
            Sighting(Presence.PRESENT, "PA_1")
            if identity in self.there
            else Sighting(Presence.GONE)
        )

    def speaks_for(self, leave):
        return self.as_user

    async def restart(self, leave):
        return await self._call("restart", leave)

    async def send(self, leave):
        return await self._call("send", leave)

    async def _call(self, action, leave):
        self.calls.append((round(self.clock.s - self.began_s, 2), action, leave.delay_id))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        answer = self.answers.get(action, Answer(Verdict.DONE))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def times(self, action):
        return [at for at, what, _ in self.calls if what == action]

    async def connect(self, *numbers):
        for n in numbers:
            self.there.add(f"user{n}")
            self.delegations.handle(event("joined", n))
        await asyncio.sleep(1)


def in_virtual_time(test):
    """Run a test without waiting."""

    def run():
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_virtual_time
async def test_a_leave_is_watched_over_from_the_delegation_to_the_end():
    world = World()
    await world.delegations.start()
    await world.delegations.add(leave_of())
    await world.connect(0)
    await asyncio.sleep(200)
    assert world.times("restart")[0] < 1
    assert len(world.times("restart")) == 3
    world.delegations.handle(event("left", reason="SIGNAL_CLOSE"))
    await asyncio.sleep(1)
    assert world.calls[-1][1:] == ("send", "secret0")
    assert len(world.delegations) == 0
    assert world.store.records == {}
    await world.delegations.stop(drain_s=1)


@in_virtual_time
async def test_a_leave_is_stored_before_it_is_accepted():
    world = World()
    await world.delegations.start()
    world.store.slow_s = 2.0
    adding = asyncio.create_task(world.delegations.add(leave_of()))
    await asyncio.sleep(1.9)
    assert not adding.done()
    assert len(world.delegations) == 0
    await adding
    assert leave_of().key in world.store.records


@in_virtual_time
async def test_a_leave_that_the_store_refuses_is_held_in_memory_or_refused():
    world = World()
    await world.delegations.start()
    world.store.broken = True
    await world.delegations.add(leave_of())
    assert len(world.delegations) == 1
    world = World(CAREFUL)
    await world.delegations.start()
    world.store.broken = True
    with pytest.raises(NotStored):
        await world.delegations.add(leave_of())
    assert len(world.delegations) == 0


@in_virtual_time
async def test_a_newer_leave_of_the_same_participant_replaces_the_older_one():
    world = World()
    await world.delegations.start()
    await world.delegations.add(leave_of())
    await world.connect(0)
    world.store.slow_s = 1.0
    adding = asyncio.create_task(world.delegations.add(leave_of(delay_id="newer")))
    await asyncio.sleep(0.5)
    world.delegations.handle(event("left", reason="SIGNAL_CLOSE"))  # the older one's
    await adding
    assert world.store.records[leave_of().key].leave.delay_id == "newer"
    assert len(world.delegations) == 1
    await world.connect(0)
    await asyncio.sleep(1)
    assert world.calls[-1][1:] == ("restart", "newer")


@in_virtual_time
async def test_what_cannot_be_kept_is_refused():
    world = World()
    await world.delegations.start()
    for leave in (
        leave_of(delay_s=2**63),
        leave_of(delay_s=-1),
        leave_of(delay_id="\ud800"),
        leave_of(delay_id="x" * 5000),
    ):
        with pytest.raises(DelegationRefused):
            await world.delegations.add(leave)
    assert world.store.saves == 0


@in_virtual_time
async def test_no_more_are_taken_than_there_is_room_for():
    world = World(DelegationSettings(most_leaves=2))
    await world.delegations.start()
    await world.delegations.add(leave_of(0))
    await world.delegations.add(leave_of(1))
    with pytest.raises(DelegationRefused):
        await world.delegations.add(leave_of(2))
    await world.delegations.add(leave_of(1, delay_id="newer"))


@in_virtual_time
async def test_unauthenticated_calls_keep_to_synapses_limit():
    world = World(PACED)
    await world.delegations.start()
    for n in range(20):
        await world.delegations.add(leave_of(n, delay_s=3600))
    await world.connect(*range(20))
    await asyncio.sleep(30)
    restarts = world.times("restart")
    assert len(restarts) == 20
    assert sum(at < 0.5 for at in restarts) == 5
    assert all(later - at > 0.99 for at, later in pairwise(restarts[5:]))


@in_virtual_time
async def test_calls_made_as_users_are_not_held_back():
    world = World(PACED, as_user=True)
    await world.delegations.start()
    for n in range(20):
        await world.delegations.add(leave_of(n, user_id=f"@{n}:example.org"))
    await world.connect(*range(20))
    assert len(world.times("restart")) == 20


@in_virtual_time
async def test_leaves_go_before_restarts_that_have_time():
    world = World(PACED)
    await world.delegations.start()
    for n in range(20):
        await world.delegations.add(leave_of(n, delay_s=3600))
    await world.connect(*range(20))
    for n in range(4):
        world.delegations.handle(event("left", n, reason="SIGNAL_CLOSE"))
    await asyncio.sleep(8)
    assert len(world.times("send")) == 4
    assert max(world.times("send")) < 6


@in_virtual_time
async def test_a_retry_after_holds_back_all_calls_to_that_server():
    world = World(PACED)
    await world.delegations.start()
    for n in range(3):
        await world.delegations.add(leave_of(n))
    world.answers["restart"] = Answer(Verdict.LATER, 7.0)
    await world.connect(0)
    world.answers.clear()
    await world.connect(1, 2)
    await asyncio.sleep(20)
    assert [at for at in world.times("restart") if 0.1 < at < 7] == []
    assert len(world.times("restart")) == 4


@in_virtual_time
async def test_many_restored_jobs_are_looked_up_a_few_at_a_time():
    now_ms = asyncio.get_running_loop().clock.ts_ms
    records = [
        Record(leave=leave_of(n, delay_s=3600), restarted_ts_ms=now_ms, created_ts_ms=now_ms)
        for n in range(2000)
    ]
    world = World(records=records)
    await world.delegations.start()
    assert len(world.delegations) == 2000
    await asyncio.sleep(0.005)
    assert 0 < len(world.delegations._tasks) <= 32
    await asyncio.sleep(2)
    assert len(world.delegations._tasks) <= 32


@in_virtual_time
async def test_an_idle_job_has_no_task_and_one_entry_on_the_clock():
    world = World()
    await world.delegations.start()
    for n in range(100):
        await world.delegations.add(leave_of(n, delay_s=3600))
    await world.connect(*range(100))
    before = len(asyncio.all_tasks())
    await asyncio.sleep(8 * 3600)
    assert len(asyncio.all_tasks()) == before
    assert not world.delegations._tasks
    assert len(world.delegations._due) <= 64 + 2 * 100


@in_virtual_time
async def test_stopping_sends_what_is_being_sent_and_keeps_the_rest():
    world = World(CAREFUL)
    await world.delegations.start()
    for n in range(2):
        await world.delegations.add(leave_of(n))
    await world.connect(0, 1)
    world.there.discard("user0")
    world.delegations.handle(event("left", 0, reason="PARTICIPANT_REMOVED"))
    before_s = world.clock.s
    await world.delegations.stop(drain_s=5)
    assert world.clock.s - before_s < 1
    assert [call[1:] for call in world.calls if call[1] == "send"] == [("send", "secret0")]
    assert set(world.store.records) == {leave_of(1).key}
    assert world.store.records[leave_of(1).key].phase is Phase.CONNECTED
    with pytest.raises(ShuttingDown):
        await world.delegations.add(leave_of(2))


@in_virtual_time
async def test_stopping_does_not_wait_for_a_homeserver_that_is_down():
    world = World(CAREFUL)
    await world.delegations.start()
    await world.delegations.add(leave_of())
    await world.connect(0)
    world.there.clear()
    world.answers["send"] = Answer(Verdict.LATER)
    world.delegations.handle(event("left", reason="PARTICIPANT_REMOVED"))
    await asyncio.sleep(1)
    before_s = world.clock.s
    await world.delegations.stop(drain_s=3)
    assert world.clock.s - before_s < 3.5
    assert world.store.records[leave_of().key].phase is Phase.LEAVING


@in_virtual_time
async def test_a_wall_clock_that_is_set_restarts_what_is_kept_alive():
    world = World()
    await world.delegations.start()
    await world.delegations.add(leave_of(delay_s=3600))
    await world.connect(0)
    assert len(world.times("restart")) == 1
    world.clock.set_wall(+7_200_000)
    await asyncio.sleep(20)
    assert len(world.times("restart")) == 2
    world.clock.set_wall(-7_200_000)
    await asyncio.sleep(20)
    assert len(world.times("restart")) == 3


@in_virtual_time
async def test_whatever_a_server_does_the_engine_goes_on():
    world = World()
    await world.delegations.start()
    await world.delegations.add(leave_of())
    world.answers["restart"] = RuntimeError("secret0")
    await world.connect(0)
    world.answers.clear()
    await asyncio.sleep(5)
    assert len(world.delegations) == 1
    assert len(world.times("restart")) == 2


@in_virtual_time
async def test_a_leave_that_another_replica_took_over_is_not_sent():
    world = World()
    type(world.store).shared = True
    try:
        await world.delegations.start()
        await world.delegations.add(leave_of())
        await world.connect(0)
        world.store.ours = False
        world.delegations.handle(event("left", reason="SIGNAL_CLOSE"))
        await asyncio.sleep(1)
        assert world.times("send") == []
        assert len(world.delegations) == 0
        assert world.store.told[-1]["identity"] == "user0"
    finally:
        type(world.store).shared = False


@in_virtual_time
async def test_jobs_of_another_replica_are_taken_up_and_given_away():
    world = World(CAREFUL)
    await world.delegations.start()
    now_ms = world.clock.ts_ms
    record = Record(
        leave=leave_of(), restarted_ts_ms=now_ms, created_ts_ms=now_ms, phase=Phase.CONNECTED
    )
    world.delegations.adopt([record])
    world.delegations.adopt([record])
    assert world.delegations.counts.adopted == 1
    assert [kept.leave for kept in world.delegations.kept_again()] == [leave_of()]
    world.delegations.heard({"kind": "left", "of a newer version": 1})
    world.delegations.heard(asdict(event("left", reason="PARTICIPANT_REMOVED")))
    await asyncio.sleep(1)
    assert len(world.times("send")) == 1
    world.delegations.adopt([record])
    world.delegations.lost([record.leave.key, ("nobody", "here")])
    assert len(world.delegations) == 0
    world.delegations.adopt([record])
    world.delegations.lost(None)
    assert len(world.delegations) == 0
    await asyncio.sleep(1)
    assert len(world.calls) == 1


@in_virtual_time
async def test_what_the_original_drops_when_it_restores_is_deleted():
    record = Record(leave=leave_of(), restarted_ts_ms=0, created_ts_ms=0)
    world = World(records=[record])
    await world.delegations.start()
    assert len(world.delegations) == 0
    assert world.store.records == {}


@in_virtual_time
async def test_a_refused_leave_does_not_end_the_one_before_it():
    world = World(CAREFUL)
    await world.delegations.start()
    await world.delegations.add(leave_of())
    await world.connect(0)
    world.store.broken = True
    with pytest.raises(NotStored):
        await world.delegations.add(leave_of(delay_id="newer"))
    assert world.store.records[leave_of().key].leave.delay_id == "secret0"
    assert len(world.delegations) == 1


@in_virtual_time
async def test_an_sfu_that_hangs_or_breaks_is_no_answer():
    world = World(CAREFUL)

    async def hang(room, identity):
        await asyncio.sleep(3600)

    async def fail(room, identity):
        raise RuntimeError("secret0")

    await world.delegations.start()
    for n, answer in enumerate((hang, fail)):
        world.is_there = answer
        await world.delegations.add(leave_of(n))
        await asyncio.sleep(20)
        assert len(world.delegations) == n + 1
    assert not world.calls


@in_virtual_time
async def test_the_end_of_a_room_ends_its_jobs_alone():
    world = World(CAREFUL)
    await world.delegations.start()
    for n in (0, 1, 10):
        await world.delegations.add(leave_of(n))
    await world.connect(0, 1, 10)
    world.there.clear()
    world.delegations.handle(event("room_finished"))
    await asyncio.sleep(5)
    assert len(world.times("send")) == 2


def test_no_log_shows_a_delay_id(caplog):
    caplog.set_level(logging.DEBUG)
    test_whatever_a_server_does_the_engine_goes_on()
    test_a_newer_leave_of_the_same_participant_replaces_the_older_one()
    assert "secret" not in caplog.text
    assert "newer" not in caplog.text.replace("a newer", "")
    assert caplog.records
