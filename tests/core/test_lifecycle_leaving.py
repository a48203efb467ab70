"""The lifecycle machine as it leaves, and what ends it for good."""

from dataclasses import replace

import pytest

from rtcfoci.core.beliefs import OUTCOMES
from rtcfoci.core.conditions import KINDS
from rtcfoci.core.effects import (
    CancelLeave,
    ListDelayed,
    Listed,
    Outcome,
    RestartLeave,
    ScheduleLeave,
    SendHeldLeave,
    SendLeave,
    SendMembership,
)
from rtcfoci.core.phases import Goal, State
from rtcfoci.errors import LocalProtocolError
from tests.core.playing import BOTH, STATE, STICKY, Held, Play, joined, snapshot

# Leaving.


@BOTH
def test_leaving_fires_the_delayed_leave(writer):
    play = joined(writer)
    assert isinstance(play.do("leave"), SendHeldLeave)
    assert not play.machine.joined
    assert play.do("leave") is play.effect
    assert play.answer() is None
    assert play.machine.state is State.LEFT
    assert play.machine.goal is Goal.ENDED
    assert play.machine.next_timer_s is None
    assert not play.machine.guarded
    assert play.do("leave") is None
    assert play.machine.state is State.LEFT


@pytest.mark.parametrize("outcome", [Outcome.GONE, Outcome.UNRECOGNIZED, Outcome.REJECTED])
def test_a_leave_that_cannot_be_fired_is_sent(outcome):
    play = joined()
    play.do("leave")
    send = play.fail(outcome)
    assert isinstance(send, SendLeave)
    assert send.event == STATE.leave()
    play.fail(Outcome.UNREACHABLE)
    assert play.tick().txn_id == send.txn_id
    assert play.settle() is State.LEFT


def test_leaving_before_anything_was_sent():
    play = Play()
    play.join()
    play.do("leave")
    assert isinstance(play.effect, ListDelayed), "the one under way is awaited"
    assert play.answer() is None
    assert play.machine.state is State.LEFT
    play = Play()
    play.do("leave")
    assert play.machine.state is State.LEFT


def test_a_scheduled_leave_without_a_membership_is_cancelled():
    play = Play()
    play.join()
    play.answer()
    play.do("leave")
    assert isinstance(play.answer(), CancelLeave)
    assert play.settle() is State.LEFT


def test_a_send_of_unknown_fate_is_withdrawn():
    play = Play()
    play.join(delayed_events=False)
    play.do("leave")
    assert play.fail(Outcome.UNREACHABLE) is None
    assert isinstance(play.tick(), SendLeave)
    assert play.settle() is State.LEFT


def test_a_limited_send_was_not_sent():
    play = Play()
    play.join(delayed_events=False)
    play.fail(Outcome.RATE_LIMITED, retry_after_s=4.0)
    play.do("leave")
    assert play.machine.state is State.LEFT
    assert "rate_limited" not in play.conditions


def test_leaving_never_claims_success_it_did_not_have():
    play = joined()
    play.do("leave")
    began = play.s
    tries = 0
    while play.machine.goal is Goal.OUT:
        tries += 1
        if play.fail(Outcome.UNREACHABLE, after_s=0.1) is None and play.machine.goal is Goal.OUT:
            play.tick()
    assert play.machine.state is State.LEAVE_FAILED
    assert play.s - began == pytest.approx(10, abs=0.2)
    assert 5 < tries < 20
    assert play.conditions["leave_failed"].cause == "why"
    assert play.machine.next_timer_s is None
    # It can be tried again, with all that is known.
    assert isinstance(play.do("leave"), SendHeldLeave)
    assert "leave_failed" not in play.conditions
    assert play.settle() is State.LEFT
    assert play.conditions == {}


def test_a_late_answer_still_counts():
    play = joined()
    play.do("leave")
    play.answer(after_s=60)
    assert play.machine.state is State.LEFT


def test_a_withdrawal_that_is_refused_fails_at_once():
    play = joined(delayed_events=False)
    play.do("leave")
    play.fail(Outcome.FORBIDDEN)
    assert play.machine.state is State.LEAVE_FAILED
    play.join()
    assert "leave_failed" not in play.conditions
    assert play.settle() is State.JOINED


def failed_to_leave(writer):
    play = joined(writer, delayed_events=False)
    play.do("leave")
    play.fail(Outcome.FORBIDDEN)
    assert play.machine.state is State.LEAVE_FAILED
    return play


def test_a_leave_that_failed_is_not_forgotten_by_the_next_join():
    play = failed_to_leave(STATE)
    play.join(replace(STATE, data="again"))
    play.do("leave")
    play.answer()
    assert isinstance(play.effect, SendLeave), "nothing was sent, and yet there is one"
    assert play.settle() is State.LEFT


def test_a_leave_that_failed_bars_another_member_id():
    play = failed_to_leave(STICKY)
    before = snapshot(play)
    with pytest.raises(LocalProtocolError, match="may still be there"):
        play.join(replace(STICKY, key="another"))
    assert snapshot(play) == before
    play.do("leave")
    assert play.settle() is State.LEFT
    play.join(replace(STICKY, key="another"))
    assert play.settle() is State.JOINED


def test_what_is_left_of_the_delayed_leave_does_not_make_the_leave_fail():
    play = joined()
    play.until(RestartLeave)
    play.fail(Outcome.RATE_LIMITED, retry_after_s=60.0)
    assert isinstance(play.do("leave"), SendLeave)
    play.answer()
    assert play.machine.state is State.CANCELLING
    play.tick()
    assert play.machine.state is State.LEFT


def test_rejoining():
    play = joined()
    play.do("leave")
    play.settle()
    assert isinstance(play.join(replace(STATE, data="again")), ListDelayed)
    assert play.until(SendMembership).event.content["data"] == "again"
    assert "created" not in play.effect.event.content
    assert play.settle() is State.JOINED


# Ends.


def test_no_power_to_send():
    play = Play()
    play.join()
    play.until(SendMembership)
    assert isinstance(play.fail(Outcome.FORBIDDEN), CancelLeave), "nothing was sent"
    assert play.machine.reason == "membership_refused"
    assert KINDS["membership_refused"].terminal
    assert play.settle() is State.LEFT
    assert set(play.conditions) == {"membership_refused"}
    play.join()
    assert play.conditions == {}
    assert play.machine.reason == ""


def test_power_lost_later():
    play = joined()
    play.do("update", STATE)
    assert isinstance(play.fail(Outcome.FORBIDDEN), SendHeldLeave)
    assert play.machine.reason == "membership_refused"
    play.fail(Outcome.GONE)
    play.fail(Outcome.FORBIDDEN)
    assert play.machine.state is State.LEAVE_FAILED
    assert set(play.conditions) == {"membership_refused", "leave_failed"}


def test_a_refusal_that_meets_a_leave():
    play = Play()
    play.join()
    play.until(SendMembership)
    play.do("leave")
    assert isinstance(play.fail(Outcome.FORBIDDEN), CancelLeave)
    assert play.settle() is State.LEFT


@pytest.mark.parametrize("state", sorted(OUTCOMES, key=lambda state: state.value))
def test_a_revoked_token_ends_everything(state):
    play = at(state)
    assert play.fail(Outcome.REVOKED) is None
    assert play.machine.state is State.REVOKED
    assert play.machine.reason == "token_revoked"
    assert "token_revoked" in play.conditions
    assert play.machine.next_timer_s is None
    assert not play.machine.joined
    play.s += 100
    assert play.do("timer") is None


@pytest.mark.parametrize("state", sorted(OUTCOMES, key=lambda state: state.value))
def test_a_revoked_token_is_learnt_from_sync(state):
    play = at(state)
    play.do("token_revoked", "logged out")
    assert play.answer() is None, "its result is still taken"
    assert play.machine.state is State.REVOKED


@pytest.mark.parametrize("state", sorted(OUTCOMES, key=lambda state: state.value))
def test_silence_and_limits_are_waited_out_in_every_state(state):
    for outcome in (Outcome.UNREACHABLE, Outcome.RATE_LIMITED):
        play = at(state)
        began = play.s
        play.fail(outcome)
        if play.machine.goal is Goal.OUT and play.effect is not None:
            continue  # the other way out is open
        assert play.effect is None
        play.tick()
        assert began < play.s <= began + 1


def at(state):
    """Bring a machine to the request of a state."""
    play = Play()
    play.join()
    match state:
        case State.LISTING:
            pass
        case State.CLEARING:
            play.answer(Listed(events=(Held("stale", "call.member", STATE.key, {}),)))
            play.answer()
        case State.CANCELLING:
            play.answer()
            play.do("leave")
            play.answer()
        case State.FIRING | State.WITHDRAWING:
            play.settle()
            play.s += 1
            play.do("leave")
            if state is State.WITHDRAWING:
                play.fail(Outcome.GONE)
        case _:
            kinds = {
                State.SCHEDULING: ScheduleLeave,
                State.RESTARTING: RestartLeave,
                State.SENDING: SendMembership,
            }
            play.until(kinds[state])
    assert play.machine.state is state
    assert play.effect is not None
    return play


@BOTH
def test_evicted(writer):
    play = joined(writer)
    assert isinstance(play.do("evicted"), CancelLeave), "there is no membership to withdraw"
    assert play.settle() is State.LEFT


def test_evicted_while_a_send_is_under_way():
    play = joined()
    play.do("update", STATE)
    play.do("evicted")
    assert isinstance(play.fail(Outcome.FORBIDDEN), CancelLeave)
    assert play.settle() is State.LEFT


@pytest.mark.parametrize("late_s", [0.0, 0.3])
def test_where_nothing_gets_through_there_is_an_end_though_timers_ring_late(late_s):
    play = joined(delayed_events=False)
    play.do("leave")
    for _ in range(20):
        if play.effect is None:
            play.s = play.machine.next_timer_s + late_s
            play.do("timer")
        else:
            play.fail(Outcome.UNREACHABLE)
        if play.machine.state is State.LEAVE_FAILED:
            break
    assert play.machine.state is State.LEAVE_FAILED
    assert play.machine.next_timer_s is None
