"""The lifecycle machine against its tables: what each input and each answer may lead to."""

import pytest

from rtcfoci.core.beliefs import DUTIES, OUTCOMES
from rtcfoci.core.effects import (
    CancelLeave,
    Done,
    Listed,
    Outcome,
    RestartLeave,
    Scheduled,
    SendHeldLeave,
)
from rtcfoci.core.lifecycle import Lifecycle, LifecycleConfig
from rtcfoci.core.phases import BUDGETS, INPUTS, Goal, Input, State
from rtcfoci.errors import LocalProtocolError, UsageError
from tests.core.playing import SECRET, STATE, Held, Play, joined, snapshot


def test_tables_are_complete():
    assert set(INPUTS) == set(Goal)
    assert set(OUTCOMES) == set(BUDGETS)
    assert all(set(reactions) == set(Outcome) for reactions in OUTCOMES.values())
    resting = {State.IDLE, State.JOINED, State.LEFT, State.LEAVE_FAILED, State.REVOKED}
    assert set(State) == set(OUTCOMES) | resting
    due = {state for duties in DUTIES.values() for state, _ in duties}
    assert due | {State.IDLE} == set(State)
    # The last duty of a goal is always there, so that there is a next one.
    assert all(duties[-1][1](Lifecycle(), 0.0) for duties in DUTIES.values())


def in_goal(goal):
    if goal is Goal.NONE:
        return Play()
    play = joined()
    if goal is Goal.OUT:
        play.do("leave")
    elif goal is Goal.ENDED:
        play.do("leave")
        assert play.settle() is State.LEFT
    elif goal is Goal.REVOKED:
        play.do("token_revoked", "logged out")
    assert play.machine.goal is goal
    return play


def give(play, given):
    match given:
        case Input.JOIN:
            play.join()
        case Input.UPDATE:
            play.do("update", STATE)
        case Input.TOKEN_REVOKED:
            play.do("token_revoked", "logged out")
        case _:
            play.do(given.value)


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("given", Input)
def test_inputs_follow_the_table(goal, given):
    play = in_goal(goal)
    before = snapshot(play)
    target = INPUTS[goal].get(given)
    if target is None:
        with pytest.raises(LocalProtocolError):
            give(play, given)
        assert snapshot(play) == before
    else:
        give(play, given)
        # Leaving what is left, or was never joined, ends in the same breath.
        ended = target is Goal.OUT and goal in (Goal.NONE, Goal.ENDED)
        assert play.machine.goal is (Goal.ENDED if ended else target)


def test_results_must_match():
    play = Play()
    with pytest.raises(LocalProtocolError):
        play.do("result", 1, Done())
    play.join()
    before = snapshot(play)
    with pytest.raises(LocalProtocolError):
        play.do("result", play.effect.id + 1, Listed(events=()))
    with pytest.raises(LocalProtocolError):
        play.do("result", play.effect.id - 1, Listed(events=()))
    with pytest.raises(LocalProtocolError, match="Done does not answer ListDelayed"):
        play.do("result", play.effect.id, Done())
    assert snapshot(play) == before


def test_secrets_are_not_shown():
    play = Play()
    play.join()
    shown = [repr(play.effect)]
    for _ in range(3):
        play.answer()
        shown.append(repr(play.effect))
    assert isinstance(play.effect, RestartLeave)
    shown += [repr(play.machine), repr(Scheduled(delay_id=SECRET))]
    shown += [
        repr(Listed(events=(Held(SECRET, "t", None, {}),))),
        repr(vars(play.machine)["_flying"]),
    ]
    assert play.effect.delay_id.startswith(SECRET)
    assert SECRET not in "".join(shown)


def test_the_times_of_a_membership():
    """Delay and restarts are Element Call's, and no sticky event lives longer than an hour (MSC4354)."""
    times = LifecycleConfig()
    assert (times.leave_delay_ms, times.restart_every_s) == (18_000, 4)
    assert (times.lifetime_ms, times.unguarded_lifetime_ms) == (3_600_000, 600_000)
    assert (times.request_timeout_s, times.probe_timeout_s, times.leave_timeout_s) == (5, 2, 10)


@pytest.mark.parametrize("effect", [RestartLeave, CancelLeave, SendHeldLeave])
def test_no_effect_shows_a_delay_id(effect):
    assert SECRET not in repr(effect(id=1, timeout_s=1.0, delay_id=SECRET))


@pytest.mark.parametrize(
    "times",
    [
        {"leave_delay_ms": 2_999, "restart_every_s": 1.0},
        {"leave_delay_ms": 4_000, "restart_every_s": 2.001},
        {"restart_every_s": 0.999},
        {"lifetime_ms": 0},
        {"lifetime_ms": -1},
        {"unguarded_lifetime_ms": 0},
        {"request_timeout_s": 0.0},
        {"probe_timeout_s": 0.0},
        {"leave_timeout_s": 0.0},
    ],
)
def test_times_that_cannot_hold_are_refused(times):
    with pytest.raises(UsageError):
        LifecycleConfig(**times)


@pytest.mark.parametrize(
    "times",
    [
        {"leave_delay_ms": 3_000, "restart_every_s": 1.0},
        {"leave_delay_ms": 5_000, "restart_every_s": 2.5},
        {"lifetime_ms": 1, "unguarded_lifetime_ms": 1},
        {"request_timeout_s": 0.01, "probe_timeout_s": 0.01, "leave_timeout_s": 0.01},
    ],
)
def test_times_that_just_hold_are_accepted(times):
    assert LifecycleConfig(**times)
