"""The end of the process: prompt, and nothing that was promised is lost."""

import signal
import threading
import time

import pytest
from asking import SFU_GET
from fakes import Answer, RedisServer, redis_missing
from world import together

from rtcfoci.testing import skip_or_fail

AT_ONCE = 4


@pytest.fixture(scope="module")
def world(stage):
    """Nothing is shared but the stage: every test ends a service of its own."""
    return stage.world(start=False)


@together
def test_sigterm_ends_it_soon(world):
    world = world.stage.world()
    world.delegated(60_000).connected()
    world.delegated(60_000)
    before_s = time.monotonic()
    world.service.signal(signal.SIGTERM)
    world.service.wait(10)
    assert time.monotonic() - before_s < 5
    with pytest.raises(OSError):
        world.service.get("/healthz")


@pytest.mark.weakness("go-0.5", "drops the requests that it is answering")
@together
def test_a_request_under_way_is_answered(world):
    world = world.stage.world()
    member = world.member()
    member.openid = world.homeserver.openid(
        member.user_id, Answer(body={"sub": member.user_id}, after_s=1.0)
    )
    replies = []

    def ask():
        try:
            replies.append(world.ask(SFU_GET, member).status)
        except OSError as error:
            replies.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    world.homeserver.lookups.until(lambda: world.homeserver.lookups_of(member.openid), within_s=5)
    world.service.signal(signal.SIGTERM)
    asking.join()
    world.service.wait(10)
    assert replies == [200]


@together
def test_a_leave_that_was_being_sent_is_sent_after_the_restart(world):
    """Whatever became of the first try, the homeserver gets the leave. (Here at the terminal's signal.)"""
    if missing := redis_missing():
        skip_or_fail("redis", missing)
    server = RedisServer(world.service.folder).start()
    world = world.stage.world({"LIVEKIT_REDIS_URL": server.url})
    delegation = world.delegated(3_000)
    delegation.leave.on_send.then(Answer(status=500))
    delegation.connected()
    delegation.leave_by()
    delegation.sends(1)
    world.service.signal(signal.SIGINT)
    world.service.wait(10)
    world.service.start()
    delegation.sends(2, within_s=8)
    world.service.kill()
    server.stop()
