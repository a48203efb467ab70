"""A leave that is being sent: until the homeserver has it, or would have sent it itself."""

import time

import pytest
from fakes import Answer
from world import together


def leaving(world, delay_ms, *answers, always=None):
    """Give a delegation whose participant has just left."""
    delegation = world.delegated(delay_ms)
    delegation.leave.on_send.then(*answers)
    delegation.leave.on_send.always(always)
    delegation.connected()
    delegation.leave_by()
    return delegation


@together
def test_404_means_that_it_was_sent_or_cancelled(world):
    delegation = leaving(
        world, 60_000, Answer(status=404, body={"errcode": "M_NOT_FOUND", "error": "?"})
    )
    delegation.sends(1)
    delegation.stays_quiet(2.5)


@together
@pytest.mark.parametrize(
    "answer",
    [*(Answer(status=status) for status in (400, 401, 403, 409, 500, 502)), Answer(reset=True)],
    ids=lambda a: "reset" if a.reset else str(a.status),
)
def test_a_leave_that_fails_is_sent_again(world, answer):
    delegation = leaving(world, 60_000, answer, answer)
    delegation.sends(3, within_s=9)
    delegation.stays_quiet(2.0)
    assert delegation.leave.ended_by == "send"


@together
def test_an_answer_that_is_lost_is_asked_for_again(world):
    delegation = leaving(world, 60_000, Answer(status=502, effect=True))
    first, second = delegation.sends(2, within_s=6)
    assert (first.status, second.status) == (502, 404)
    delegation.stays_quiet(1.5)


@together
def test_a_homeserver_says_when_to_send_again(world):
    delegation = leaving(world, 60_000, Answer(status=429, headers={"Retry-After": "2"}))
    first, second = delegation.sends(2, within_s=8)
    assert 1.9 <= second.at_s - first.at_s < 4


@together
def test_a_wait_beyond_the_deadline_is_not_waited_for(world):
    delegation = leaving(world, 5_000, always=Answer(status=429, headers={"Retry-After": "30"}))
    delegation.sends(1)
    delegation.stays_quiet(5.0)


@together
def test_tries_end_with_the_delay(world):
    delegation = leaving(world, 5_000, always=Answer(status=429, headers={"Retry-After": "1"}))
    restarted_s = delegation.leave.restarts.all()[-1].at_s
    time.sleep(7.0)
    sends = delegation.leave.sends.all()
    assert len(sends) >= 3
    assert sends[-1].at_s - restarted_s < 5.5


@together
def test_a_call_is_given_five_seconds(world):
    delegation = leaving(world, 60_000, Answer(after_s=float("inf")))
    first, second = delegation.sends(2, within_s=12)
    assert 4.0 < second.at_s - first.at_s < 10


@together
def test_who_comes_back_is_a_new_delegation(world):
    delegation = leaving(world, 60_000)
    delegation.sends(1)
    again = delegation.renewed(60_000)
    again.connected()
    again.leave_by()
    again.sends(1)
    assert len(delegation.leave.sends) == 1


@together
def test_another_leave_ends_the_sending(world):
    delegation = leaving(world, 60_000, always=Answer(status=500))
    delegation.sends(1)
    again = delegation.renewed(60_000)
    time.sleep(0.1)
    delegation.stays_quiet(3.0)
    again.connected()
