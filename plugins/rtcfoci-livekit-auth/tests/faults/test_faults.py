"""Kill, cut off and lie to the real service under load: every leave takes effect once, and none early.

Only where `RTCFOCI_FAULT_POINTS` says how many times the service is killed (100 for the long form):
`RTCFOCI_FAULT_SEED` repeats a run that failed.
"""

import asyncio
import os
import random
import sqlite3
import time

import pytest
from crowd import Crowd, Trouble
from fakes import Answer, RedisServer, redis_missing
from world import Stage

from rtcfoci.testing import skip_or_fail

POINTS = int(os.environ.get("RTCFOCI_FAULT_POINTS", "0"))
SEED = os.environ.get("RTCFOCI_FAULT_SEED") or str(random.randrange(10**6))
SIZE = 200
CAREFUL = {
    "RTCFOCI_AUTH_CAREFUL_LEAVES": "true",
    "RTCFOCI_AUTH_RECONNECT_GRACE_S": "2",
    "RTCFOCI_AUTH_CALLS_PER_S": "0",
    "RTCFOCI_AUTH_LEASE_S": "2",
    "LIVEKIT_LOG_LEVEL": "debug",
    "LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS": "4",
}

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240 + 8 * POINTS),
    pytest.mark.skipif(not POINTS, reason="takes minutes: set RTCFOCI_FAULT_POINTS"),
]


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path, {})
    yield stage
    stage.close()


class Run:
    """One run: the service, its crowd, and what went wrong when."""

    def __init__(self, stage, services, homeserver, sfu):
        self.stage, self.services, self.homeserver, self.sfu = stage, services, homeserver, sfu
        self.random = random.Random(f"{SEED}-run")
        self.trouble = Trouble()

    async def kill(self, service, *, meanwhile=None):
        """Kill a service at a random point, now and then as it has begun, or again while it starts."""
        begun = self.random.random() < 0.2
        await asyncio.sleep(
            self.random.uniform(0.0, 0.02) if begun else self.random.uniform(0.5, 3.0)
        )
        self.trouble.kills_s.append(time.monotonic())
        with self.trouble.span():
            # Mostly as a crash would, sometimes as an operator does.
            await asyncio.to_thread(self.random.choice((service.kill,) * 4 + (service.stop,)))
            if self.random.random() < 0.2:
                service.launch()
                await asyncio.sleep(self.random.uniform(0.0, 1.0))
                await asyncio.to_thread(service.kill)
            if meanwhile is not None:
                meanwhile()
            await asyncio.to_thread(service.start, 60.0)

    async def judge(self, crowd, within_s):
        await crowd.go(within_s)
        print(f"seed {SEED}: {len(self.trouble.kills_s)} kills, {crowd.summary()}")
        complaints = crowd.complaints()
        assert not complaints, f"seed {SEED}: {len(complaints)}: {complaints[:10]}"
        excused = crowd.excused
        assert len(excused) <= len(crowd.people) // 20, (
            f"seed {SEED}: {len(excused)} excused: {excused[:10]}"
        )
        assert self.stage.violations() == []
        for service in self.services:
            shown = service.output()
            assert "syd_" not in shown, "a log shows a delay id"
            assert "Traceback" not in shown, shown[shown.index("Traceback") :][:2000]


async def test_killed_at_random_points_with_the_clock_set_and_servers_failing(stage, tmp_path):
    homeserver, sfu = stage.homeserver(), stage.sfu()
    state_file = tmp_path / "jobs.sqlite"
    service = stage.service(
        {
            "LIVEKIT_URL": sfu.url,
            "LIVEKIT_KEY": sfu.key,
            "LIVEKIT_SECRET": sfu.secret,
            "LIVEKIT_FULL_ACCESS_HOMESERVERS": homeserver.name,
            "RTCFOCI_AUTH_STATE_FILE": str(state_file),
            **CAREFUL,
        }
    ).start()
    run = Run(stage, [service], homeserver, sfu)

    def set_the_clock():
        by_ms = run.random.choice((0, 0, -7_200_000, 7_200_000))
        with sqlite3.connect(state_file) as db:
            db.execute(
                "UPDATE leaves SET restarted_ts_ms = restarted_ts_ms + ?,"
                " created_ts_ms = created_ts_ms + ?",
                (by_ms, by_ms),
            )
        db.close()

    async with Crowd(homeserver, sfu, [service.url], run.trouble, seed=SEED, size=SIZE) as crowd:
        await crowd.settled()
        for point in range(POINTS):
            await run.kill(service, meanwhile=set_the_clock)
            if point % 5 == 1:
                await sfu_fails(run)
            elif point % 5 == 3:
                await homeserver_fails(run, crowd)
        await run.judge(crowd, within_s=90.0)


async def sfu_fails(run):
    """Let the SFU answer nothing for a while; its webhooks still come."""
    run.sfu.on("GetParticipant").always(Answer(reset=True))
    await asyncio.sleep(run.random.uniform(0.5, 3.0))
    run.sfu.on("GetParticipant").always(None)


async def homeserver_fails(run, crowd):
    """Let the homeserver be slow, down, limiting, or lie, for a while."""
    wrong = run.random.choice(
        (
            Answer(after_s=6.0, effect=True),
            Answer(reset=True),
            Answer(reset=True, effect=True),
            Answer(status=500, effect=True),
            Answer(status=404, body=b"<html>no such page</html>"),
            Answer(status=429, headers={"Retry-After": "3600"}),
            Answer(status=401, body={"errcode": "M_MISSING_TOKEN", "error": "?"}),
        )
    )
    people = list(crowd.people)
    with run.trouble.span():
        for person in people:
            person.leave.on_send.always(wrong)
            person.leave.on_restart.always(wrong)
        await asyncio.sleep(run.random.uniform(0.5, 2.5))
        for person in people:
            person.leave.on_send.always(None)
            person.leave.on_restart.always(None)


async def test_replicas_that_die_and_a_redis_that_forgets(stage, tmp_path):
    if missing := redis_missing():
        skip_or_fail("redis", missing)
    redis = RedisServer(tmp_path).start()
    homeserver, sfu = stage.homeserver(), stage.sfu()
    services = [
        stage.service(
            {
                "LIVEKIT_URL": sfu.url,
                "LIVEKIT_KEY": sfu.key,
                "LIVEKIT_SECRET": sfu.secret,
                "LIVEKIT_FULL_ACCESS_HOMESERVERS": homeserver.name,
                "LIVEKIT_REDIS_URL": redis.url,
                "RTCFOCI_AUTH_REPLICA": name,
                **CAREFUL,
            }
        ).start()
        for name in ("one", "two")
    ]
    run = Run(stage, services, homeserver, sfu)
    try:
        urls = [service.url for service in services]
        async with Crowd(homeserver, sfu, urls, run.trouble, seed=SEED, size=SIZE) as crowd:
            await crowd.settled()
            for point in range(max(2, POINTS // 2)):
                await run.kill(run.random.choice(services))
                await asyncio.sleep(run.random.uniform(0.0, 3.0))
                if point % 2:
                    # Both replicas live, so all that Redis forgets is remembered.
                    await asyncio.sleep(3.0)
                    with run.trouble.span():
                        await asyncio.to_thread(redis.stop)
                        await asyncio.sleep(run.random.uniform(0.0, 1.5))
                        await asyncio.to_thread(redis.start)
                    await asyncio.sleep(3.0)
            await run.judge(crowd, within_s=90.0)
    finally:
        redis.stop()
