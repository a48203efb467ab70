"""Redis: the original's format to the letter, and replicas that share the work.

Against the real server. The expected texts are written out here, not made by our own code.
"""

import asyncio
import json

import pytest
import redis.asyncio
from rtcfoci_livekit_auth.delegation.model import Leave, Phase, Record
from rtcfoci_livekit_auth.delegation.redis import RedisStore
from rtcfoci_livekit_auth.delegation.redis_format import field, parse
from stores import Watcher, record_of, redis_server, redis_url, until

from rtcfoci.errors import UsageError

__all__ = ["redis_server", "redis_url"]

LEASE_S = 0.3


@pytest.fixture
async def server(redis_url):
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    client.url = redis_url
    yield client
    await client.aclose()


def theirs(restarted_at="2027-01-15T08:00:00.123456789Z", **params):
    """A value as lk-jwt-service writes it."""
    known = {
        "DelayId": "syd_abc",
        "DelayTimeout": 3_600_000_000_000,
        "ServerName": "example.org",
        "LiveKitRoom": "alias",
        "LiveKitIdentity": "@a:example.org:DEV",
    }
    return json.dumps({"Params": known | params, "RestartedAt": restarted_at})


FIELD = '["alias","@a:example.org:DEV"]'
LEAVE = Leave(
    room="alias",
    identity="@a:example.org:DEV",
    delay_id="syd_abc",
    delay_ms=3_600_000,
    server_name="example.org",
)


async def test_our_jobs_are_written_as_the_original_does(server):
    store = RedisStore(server.url)
    await store.open(Watcher())
    await store.save(
        Record(leave=LEAVE, created_ts_ms=0, restarted_ts_ms=1_800_000_000_123), new=True
    )
    await store.close()
    assert await server.keys() == ["lk-jwt:jobs"]
    jobs = await server.hgetall("lk-jwt:jobs")
    assert list(jobs) == [FIELD]
    assert json.loads(jobs[FIELD]) == json.loads(theirs("2027-01-15T08:00:00.123Z"))


async def test_no_other_commands_than_the_originals_are_sent(server):
    await server.config_resetstat()
    store = RedisStore(server.url)
    await store.open(Watcher())
    await store.save(record_of(1), new=True)
    store.delete(record_of(1).leave.key)
    await store.close()
    sent = {
        name.removeprefix("cmdstat_").partition("|")[0]
        for name in await server.info("commandstats")
    }
    housekeeping = {"client", "hello", "config", "info", "select", "keys"}
    assert sent - housekeeping == {"ping", "hgetall", "hset", "hdel"}


@pytest.mark.parametrize(
    ("restarted_at", "ms"),
    [
        ("2027-01-15T08:00:00Z", 0),
        ("2027-01-15T08:00:00.5Z", 500),
        ("2027-01-15T10:00:00.123456789+02:00", 123),
        ("2027-01-15T02:30:00.001-05:30", 1),
    ],
)
def test_the_originals_times_are_read(restarted_at, ms):
    found = parse(FIELD, theirs(restarted_at), None)
    assert found == Record(
        leave=LEAVE, created_ts_ms=1_800_000_000_000 + ms, restarted_ts_ms=1_800_000_000_000 + ms
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no JSON", theirs()),
        ('["one"]', theirs()),
        ('["one",2]', theirs()),
        (FIELD, "{}"),
        (FIELD, "[" * 100_000),
        (FIELD, theirs("yesterday")),
        (FIELD, theirs("2027-13-45T08:00:00Z")),
        (FIELD, theirs(DelayTimeout="1h")),
        (FIELD, theirs(DelayTimeout=1e300)),
        (FIELD, theirs(DelayTimeout=10**400)),
        (FIELD, theirs(DelayId=None)),
        ('["alias","\\ud800"]', theirs()),
    ],
)
async def test_what_is_no_job_is_skipped_and_stays(server, name, value):
    await server.hset("lk-jwt:jobs", name, value)
    store = RedisStore(server.url)
    assert await store.open(Watcher()) == []
    await store.close()
    assert await server.hlen("lk-jwt:jobs") == 1


def test_fields_are_escaped_as_the_original_does():
    assert field(("a", "<b>&\u2028\u2029é")) == '["a","\\u003cb\\u003e\\u0026\\u2028\\u2029é"]'


async def test_a_field_written_another_way_is_replaced_not_doubled(server):
    await server.hset("lk-jwt:jobs", '["alias", "<b>"]', theirs(LiveKitIdentity="<b>"))
    store = RedisStore(server.url)
    (found,) = await store.open(Watcher())
    store.keep(found)
    await store.close()
    assert await server.hkeys("lk-jwt:jobs") == ['["alias","\\u003cb\\u003e"]']


async def test_what_we_keep_beside_is_not_believed_of_another_job(server):
    store = RedisStore(server.url, extras=True)
    await store.open(Watcher())
    record = Record(
        leave=LEAVE, created_ts_ms=5, restarted_ts_ms=1_800_000_000_000, phase=Phase.LEAVING
    )
    await store.save(record, new=True)
    await store.close()
    await server.hset("lk-jwt:jobs", FIELD, theirs(DelayId="syd_of_a_newer_job"))
    store = RedisStore(server.url, extras=True)
    (found,) = await store.open(Watcher())
    await store.close()
    assert found.phase is Phase.WAITING
    assert found.created_ts_ms == found.restarted_ts_ms


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://127.0.0.1:1/0"])
async def test_a_redis_that_cannot_be_used_says_so(url):
    with pytest.raises(UsageError) as caught:
        await RedisStore(url).open(Watcher())
    assert caught.value.do


async def test_a_password_is_never_shown():
    url = "redis://:hunter2@127.0.0.1:1"
    with pytest.raises(UsageError) as caught:
        await RedisStore(url).open(Watcher())
    assert "hunter2" not in f"{caught.value}{RedisStore(url)!r}"


# Replicas.


class Replica:
    """One process of several."""

    def __init__(self, server, name):
        self.store = RedisStore(server.url, replica=name, lease_s=LEASE_S)
        self.watcher = Watcher()

    async def __aenter__(self):
        self.found = await self.store.open(self.watcher)
        return self

    async def __aexit__(self, *exc):
        await self.store.close()

    async def crash(self):
        """End without a word: no sign of life from here on."""
        for task in self.store._tasks:
            task.cancel()
        await asyncio.gather(*self.store._tasks, return_exceptions=True)


async def test_a_job_of_a_living_replica_is_left_alone(server):
    async with Replica(server, "one") as one:
        await one.store.save(record_of(1), new=True)
        async with Replica(server, "two") as two:
            assert two.found == []
            await asyncio.sleep(LEASE_S * 2)
            assert two.watcher.adopted == []
            assert await one.store.save(record_of(1))


async def test_the_jobs_of_a_replica_that_died_are_taken_up_by_one(server):
    async with (
        Replica(server, "one") as one,
        Replica(server, "two") as two,
        Replica(server, "three") as three,
    ):
        for n in range(20):
            await one.store.save(record_of(n), new=True)
        await one.crash()
        await until(lambda: len(two.watcher.adopted + three.watcher.adopted) == 20)
        await asyncio.sleep(LEASE_S)
        taken = two.watcher.adopted + three.watcher.adopted
        assert sorted(r.leave.identity for r in taken) == sorted(
            record_of(n).leave.identity for n in range(20)
        )
        # The dead one comes back to life and finds that it has lost them.
        assert not await one.store.save(record_of(1, phase=Phase.LEAVING))
        one.store.keep(record_of(2))
        await until(lambda: one.watcher.lost_keys == [record_of(2).leave.key])


async def test_a_replica_that_ends_hands_over_at_once(server):
    async with Replica(server, "two") as two:
        async with Replica(server, "one") as one:
            await one.store.save(record_of(1), new=True)
        await until(lambda: two.watcher.adopted == [record_of(1)], within_s=LEASE_S)


async def test_a_replica_that_restarts_has_its_own_jobs_at_once(server):
    async with Replica(server, "one") as one:
        await one.store.save(record_of(1), new=True)
        await one.crash()
        async with Replica(server, "one") as again:
            assert again.found == [record_of(1)]


async def test_jobs_that_nobody_has_are_anybodys(server):
    await server.hset("lk-jwt:jobs", FIELD, theirs())
    async with Replica(server, "one") as one:
        assert [record.leave for record in one.found] == [LEAVE]


async def test_a_new_job_takes_its_key_from_whoever_had_it(server):
    async with Replica(server, "one") as one, Replica(server, "two") as two:
        await one.store.save(record_of(1), new=True)
        assert await two.store.save(record_of(1, delay_id="newer"), new=True)
        assert not await one.store.save(record_of(1))
        one.store.delete(record_of(1).leave.key)
        await one.store.save(record_of(5), new=True)
        kept = [json.loads(text)["Params"] for text in await server.hvals("lk-jwt:jobs")]
        assert {params["DelayId"] for params in kept} == {"newer", "secret5"}


async def listening(server):
    return (await server.pubsub_numsub("rtcfoci:events"))[0][1] >= 2


async def test_what_one_replica_hears_all_hear(server):
    async with Replica(server, "one") as one, Replica(server, "two") as two:
        await until(lambda: listening(server))
        one.store.tell({"kind": "left"})
        await until(lambda: two.watcher.messages == [{"kind": "left"}])
        await server.publish("rtcfoci:events", "no JSON")
        two.store.tell({"kind": "joined"})
        await until(lambda: one.watcher.messages == [{"kind": "joined"}])


async def test_two_that_go_by_one_name_do_not_both_drive_the_jobs(server, caplog):
    async with Replica(server, "one") as one:
        await one.store.save(record_of(1), new=True)
        async with Replica(server, "one") as twin:
            assert twin.found == [record_of(1)]
            await until(lambda: one.watcher.lost_keys == [None])
            assert "name of its own" in caplog.text
            assert await twin.store.save(record_of(1))
            assert not await one.store.save(record_of(1))


async def test_a_redis_that_forgot_everything_is_told_again(server, monkeypatch):
    monkeypatch.setattr("rtcfoci_livekit_auth.delegation.store.RETRY_S", 0.05)
    async with Replica(server, "one") as one:
        await one.store.save(record_of(1), new=True)
        one.watcher.records = [record_of(1)]
        await server.flushdb()
        await until(lambda: server.hlen("lk-jwt:jobs"))


async def test_jobs_given_to_us_in_an_answer_that_was_lost_are_asked_for_again(server, monkeypatch):
    async with Replica(server, "one") as one, Replica(server, "two") as two:
        await one.store.save(record_of(1), new=True)
        ask, lost = two.store._ask, []

        async def lose_the_first(call):
            answer = await ask(call)
            if isinstance(answer, list) and len(answer) == 3 and not lost:
                lost.append(answer)
                raise OSError("no answer in time")
            return answer

        monkeypatch.setattr(two.store, "_ask", lose_the_first)
        await one.crash()
        await until(lambda: two.watcher.adopted == [record_of(1)])
        assert lost
