"""With a sanity check the SFU is asked for everybody who is in, again and again."""

import itertools
import time

import pytest
from fakes import Answer
from fakes.sfu import twirp_error
from world import together


@pytest.fixture(scope="module")
def world(stage):
    return stage.world({"LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS": "1"})


def inside(world, delay_ms=60_000):
    """Give a delegation of somebody who is in the room and was found there."""
    delegation = world.delegated(delay_ms)
    delegation.arrive()
    delegation.restarts(1)
    return delegation


@together
def test_everybody_inside_is_looked_for_every_interval(world):
    delegation = inside(world)
    before = len(delegation.lookups())
    times = delegation.looked_up(before + 3, within_s=8)[before:]
    for earlier, later in itertools.pairwise(times):
        assert 0.8 < later - earlier < 1.9
    delegation.stays_quiet(0.1)


@together
def test_who_vanished_without_a_webhook_leaves(world):
    delegation = inside(world)
    delegation.vanish()
    delegation.sends(1)
    before = len(delegation.lookups())
    delegation.stays_quiet(2.5)
    assert len(delegation.lookups()) == before


@together
@pytest.mark.parametrize(
    "answer",
    [
        twirp_error(500, "internal"),
        twirp_error(503, "unavailable"),
        twirp_error(401, "unauthenticated"),
        Answer(reset=True),
        Answer(status=502, body=b"<html>", headers={"Content-Type": "text/html"}),
    ],
    ids=["500", "503", "401", "reset", "502"],
)
def test_an_sfu_in_trouble_says_nothing_about_anybody(world, answer):
    delegation = inside(world)
    script = world.sfu.on("GetParticipant", delegation.member.alias)
    script.always(answer)
    delegation.stays_quiet(3.0)
    delegation.vanish()
    script.always(None)
    delegation.sends(1)


@together
def test_nobody_is_looked_for_after_a_leave(world):
    delegation = inside(world)
    delegation.leave_by()
    delegation.sends(1)
    time.sleep(0.3)
    before = len(delegation.lookups())
    time.sleep(2.5)
    assert len(delegation.lookups()) == before


@together
def test_who_is_not_there_yet_is_not_gone(world):
    waiting = world.delegated(60_000)
    waiting.looked_up(3, within_s=8)
    assert len(waiting.leave.calls) == 0


@together
def test_who_joined_by_webhook_is_looked_for_too(world):
    delegation = world.delegated(60_000)
    delegation.arrive()
    delegation.connected()
    # The first look may have been before the arrival; then found once, and only then missed.
    delegation.looked_up(len(delegation.lookups()) + 2)
    delegation.vanish()
    delegation.sends(1)
