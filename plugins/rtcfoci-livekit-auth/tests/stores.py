"""What the tests of stores share: a record, who hears of other replicas, a fresh Redis, patience."""

import asyncio
import inspect

import pytest
import redis
from fakes.redis_server import RedisServer, redis_missing
from rtcfoci_livekit_auth.delegation.model import Leave, Phase, Record


class Watcher:
    """Hears what a store says."""

    def __init__(self, records=()):
        self.records, self.lost_keys, self.adopted, self.messages = list(records), [], [], []

    def adopt(self, records):
        self.adopted += records

    def lost(self, keys):
        self.lost_keys += [None] if keys is None else keys

    def heard(self, message):
        self.messages.append(message)

    def kept_again(self):
        return self.records


def record_of(n=0, *, delay_id=None, phase=Phase.CONNECTED):
    return Record(
        leave=Leave(
            room="alias",
            identity=f"@user{n}:example.org:<DEV&ICE>",
            delay_id=delay_id or f"secret{n}",
            delay_ms=3_600_000,
            server_name="example.org",
            user_id=f"@user{n}:example.org",
        ),
        created_ts_ms=1_800_000_000_123,
        restarted_ts_ms=1_800_000_010_456,
        phase=phase,
    )


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """Give a Redis for all tests of the session."""
    if why := redis_missing():
        pytest.skip(why)
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server):
    """Give the URL of a Redis that holds nothing."""
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    return redis_server.url


async def until(true, within_s=5.0):
    """Wait until something is true; it may be a coroutine function."""
    end_s = asyncio.get_running_loop().time() + within_s
    for _ in range(100_000):
        seen = true()
        if await seen if inspect.isawaitable(seen) else seen:
            return
        assert asyncio.get_running_loop().time() < end_s, f"not within {within_s} s"
        await asyncio.sleep(0.01)
