"""What is kept in Redis of delegated leaves, and from when to when."""

import datetime as dt
import time

import pytest
from asking import DELEGATE, ENDPOINTS, SFU_GET
from fakes import Answer, RedisServer, redis_missing
from fakes.sfu import twirp_error
from redis_jobs import HASH, Jobs

from rtcfoci.testing import skip_or_fail


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if missing := redis_missing():
        skip_or_fail("redis", missing)
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def jobs(server):
    # A database of its own, as the URL says.
    jobs = Jobs(server.url + "/1")
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def world(stage, server):
    return stage.world({"LIVEKIT_REDIS_URL": server.url + "/1"})


def gone(jobs, member, path, within_s=3.0):
    deadline = time.monotonic() + within_s
    while jobs.of(member, path) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_leave_is_stored_before_the_answer(world, jobs, path):
    before = dt.datetime.now(dt.UTC)
    delegation = world.delegated(600_000, path=path)
    stored = jobs.of(delegation.member, path)
    assert stored is not None
    assert stored["Params"] == {
        "DelayId": delegation.leave.delay_id,
        "DelayTimeout": 600_000_000_000,
        "ServerName": world.homeserver.name,
        "LiveKitRoom": delegation.member.alias,
        "LiveKitIdentity": delegation.identity,
    }
    assert set(stored) == {"Params", "RestartedAt"}
    at = dt.datetime.fromisoformat(stored["RestartedAt"])
    assert (
        before - dt.timedelta(seconds=1) <= at <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    )


def test_the_hash_does_not_pass(jobs, world):
    world.delegated(600_000)
    assert jobs.client.type(HASH) == "hash"
    assert jobs.client.ttl(HASH) == -1


def test_nothing_is_stored_without_a_delegation(jobs, world):
    member = world.member()
    assert world.ask(SFU_GET, member).status == 200
    assert jobs.of(member, SFU_GET) is None


def test_nothing_is_stored_of_a_refusal(jobs, world):
    member = world.member()
    world.sfu.on("CreateRoom", member.alias).always(twirp_error(500, "internal"))
    assert world.ask(SFU_GET, member, world.homeserver.schedule(1_000)).status == 500
    guest = world.guest()
    assert world.ask(DELEGATE, guest, world.homeserver.schedule(1_000)).status == 403
    assert jobs.of(member, SFU_GET) is None
    assert jobs.of(guest, DELEGATE) is None


def test_a_restart_is_stored(jobs, world):
    delegation = world.delegated(600_000)
    first = jobs.of(delegation.member, DELEGATE)
    time.sleep(0.05)
    delegation.connected()
    deadline = time.monotonic() + 3
    while (second := jobs.of(delegation.member, DELEGATE)) == first and time.monotonic() < deadline:
        time.sleep(0.02)
    assert second["Params"] == first["Params"]
    assert dt.datetime.fromisoformat(second["RestartedAt"]) > dt.datetime.fromisoformat(
        first["RestartedAt"]
    )


def test_a_new_leave_replaces_the_stored_one(jobs, world):
    old = world.delegated(600_000)
    new = old.renewed(500_000)
    stored = jobs.of(old.member, DELEGATE)
    assert stored["Params"]["DelayId"] == new.leave.delay_id
    assert stored["Params"]["DelayTimeout"] == 500_000_000_000
    time.sleep(0.2)
    assert jobs.of(old.member, DELEGATE) is not None


def test_a_leave_that_was_sent_is_forgotten(jobs, world):
    delegation = world.delegated(600_000).connected()
    delegation.leave_by()
    delegation.sends(1)
    assert gone(jobs, delegation.member, DELEGATE)


def test_a_leave_that_is_being_sent_is_kept(jobs, world):
    delegation = world.delegated(600_000)
    delegation.leave.on_send.then(Answer(status=500))
    delegation.connected()
    delegation.leave_by()
    delegation.sends(1)
    assert jobs.of(delegation.member, DELEGATE) is not None
    delegation.sends(2)
    assert gone(jobs, delegation.member, DELEGATE)


@pytest.mark.policy("go-0.5")
def test_a_leave_that_is_given_up_is_forgotten(jobs, world):
    delegation = world.delegated(600_000)
    delegation.abort()
    assert gone(jobs, delegation.member, DELEGATE)


def test_a_leave_that_is_gone_is_forgotten(jobs, world):
    delegation = world.delegated(600_000)
    delegation.leave.on_restart.always(Answer(status=404))
    delegation.connected()
    assert gone(jobs, delegation.member, DELEGATE)


def test_names_of_any_letters_are_stored(jobs, world):
    delegation = world.delegated(600_000, path=SFU_GET, device_id='é"\\🙂')
    assert jobs.of(delegation.member, SFU_GET)["Params"]["LiveKitIdentity"] == delegation.identity


def test_without_redis_the_service_goes_on(stage, tmp_path):
    """A leave that cannot be stored is delegated all the same."""
    if missing := redis_missing():
        skip_or_fail("redis", missing)
    server = RedisServer(tmp_path).start()
    world = stage.world({"LIVEKIT_REDIS_URL": server.url})
    server.stop()
    delegation = world.delegated(600_000).connected()
    assert world.service.get("/healthz").status == 200
    server.start()
    jobs = Jobs(server.url)
    delegation.leave_by()
    delegation.sends(1)
    again = world.delegated(600_000)
    assert jobs.of(again.member, DELEGATE) is not None
    jobs.close()
    world.service.kill()
    server.stop()


@pytest.mark.policy("go-0.5")
def test_a_hash_that_is_none_is_no_reason_to_stay_down(stage, server):
    other = Jobs(server.url + "/2")
    other.client.set(HASH, "no hash")
    other.close()
    world = stage.world({"LIVEKIT_REDIS_URL": server.url + "/2"})
    world.delegated(600_000).connected()
    world.service.kill()
