"""A service that was killed finds the leaves that it looked after: its own, and lk-jwt-service's."""

import time

import pytest
from asking import DELEGATE, SFU_GET
from fakes import RedisServer, redis_missing
from redis_jobs import HASH, Jobs, timestamp
from world import Delegation, together

from rtcfoci.testing import skip_or_fail


class Before:
    """What was there when the service was killed."""

    def __init__(self, world, jobs):
        self.jobs = jobs
        self.inside = world.delegated(60_000)
        self.inside.arrive()
        self.absent = world.delegated(60_000, path=SFU_GET).connected()
        self.late = world.delegated(60_000)
        self.sent = world.delegated(60_000).connected()
        self.sent.leave_by()
        self.replaced = world.delegated(60_000)
        self.replacing = self.replaced.renewed(60_000)
        self.replacing.arrive()
        self.inside.restarts(1)
        self.absent.restarts(1)
        self.sent.sends(1)
        time.sleep(0.2)
        world.service.kill()
        self.killed_s = time.monotonic()
        # As the other program leaves them: an offset of hours, more than microseconds, unknown fields.
        self.foreign = foreign(world, jobs, 60_000, "2999-01-01T00:00:00.123456789+02:00")
        self.foreign.arrive()
        self.newer = foreign(world, jobs, 60_000, timestamp(1), OwnerUserId="@someone:example.org")
        self.newer.arrive()
        # However long the start takes, this one is not expired by then.
        self.never = foreign(world, jobs, 4_000, "2999-01-01T00:00:00Z")
        self.expired = foreign(world, jobs, 60_000, timestamp(61))
        self.expired.arrive()
        self.invalid = [
            foreign(world, jobs, 60_000, timestamp(), **change)
            for change in ({"DelayTimeout": 0}, {"DelayTimeout": -1}, {"ServerName": ""})
        ]
        for delegation in self.invalid:
            delegation.arrive()
        self.unreadable = {
            "no JSON": "{}",
            '["a","b"]': "no JSON",
            '["c","d"]': "[]",
            '["e"]': '{"Params": 1}',
        }
        jobs.client.hset(HASH, mapping=self.unreadable)


def foreign(world, jobs, delay_ms, restarted_at, **changes):
    """Store a leave behind the service's back."""
    member, leave = world.member(), world.homeserver.schedule(delay_ms)
    jobs.put(member, DELEGATE, leave, restarted_at=restarted_at, **changes)
    return Delegation(world=world, member=member, leave=leave)


@pytest.fixture(scope="module")
def world(stage, tmp_path_factory):
    """A service that was killed and started again."""
    if missing := redis_missing():
        skip_or_fail("redis", missing)
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    jobs = Jobs(server.url)
    world = stage.world({"LIVEKIT_REDIS_URL": server.url})
    world.before = Before(world, jobs)
    world.service.start()
    world.started_s = time.monotonic()
    yield world
    world.service.kill()
    jobs.close()
    server.stop()


@together
def test_who_is_inside_is_found_at_once(world):
    restarts = world.before.inside.restarts(2)
    assert restarts[-1].at_s - world.started_s < 3
    world.before.inside.leave_by()
    world.before.inside.sends(1)


@together
def test_who_is_absent_is_waited_for_again(world):
    """A join during the outage was not seen, and neither was a leave."""
    absent = world.before.absent
    absent.stays_quiet(2.0)
    absent.join()
    absent.restarts(2)


@together
def test_who_had_not_come_may_still_come(world):
    world.before.late.connected()


@together
def test_who_never_came_leaves(world):
    world.before.never.sends(1, within_s=9)
    world.before.never.stays_quiet(1.0)


@pytest.mark.policy("go-0.5")
@together
def test_the_whole_delay_is_waited_again(world):
    (send,) = world.before.never.sends(1, within_s=9)
    assert send.at_s - world.before.killed_s > 3.9


@together
def test_what_was_sent_is_not_sent_again(world):
    world.before.sent.stays_quiet(2.0)
    assert len(world.before.sent.leave.sends) == 1


@together
def test_the_newer_of_two_leaves_is_the_one(world):
    world.before.replacing.restarts(1)
    assert len(world.before.replaced.leave.calls) == 0


@together
@pytest.mark.parametrize("name", ["foreign", "newer"])
def test_leaves_of_another_program_are_taken_over(world, name):
    delegation = getattr(world.before, name)
    delegation.restarts(1)
    delegation.leave_by()
    delegation.sends(1)
    time.sleep(0.3)
    assert world.before.jobs.of(delegation.member, DELEGATE) is None


@together
def test_what_the_homeserver_has_sent_by_now_is_dropped(world):
    world.before.expired.stays_quiet(2.0)
    assert len(world.before.expired.leave.calls) == 0
    assert world.before.jobs.of(world.before.expired.member, DELEGATE) is None


@together
def test_what_can_be_no_leave_is_dropped(world):
    time.sleep(1.0)
    for delegation in world.before.invalid:
        assert len(delegation.leave.calls) == 0
        assert world.before.jobs.of(delegation.member, DELEGATE) is None


@together
def test_what_cannot_be_read_is_left_alone(world):
    time.sleep(1.0)
    assert set(world.before.unreadable) <= world.before.jobs.fields()


@pytest.mark.weakness("go-0.5", "keeps nothing without Redis")
def test_a_killed_service_without_redis_recovers_too(stage):
    alone = stage.world()
    delegation = alone.delegated(60_000)
    alone.service.kill()
    alone.service.start()
    delegation.join()
    restarts = delegation.leave.restarts
    assert restarts.until(lambda: len(restarts) > 0, within_s=2)
    delegation.leave_by()
    delegation.sends(1)
    alone.service.kill()
