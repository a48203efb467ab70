"""The lifecycle machine against refusals and rate limits: how they are read, and waited out."""

from dataclasses import replace

import pytest

from rtcfoci.core.effects import (
    CancelLeave,
    Failure,
    ListDelayed,
    Outcome,
    RestartLeave,
    ScheduleLeave,
    SendHeldLeave,
    SendLeave,
    SendMembership,
)
from rtcfoci.core.phases import State
from rtcfoci.errors import ClientError, UnreachableError
from tests.core.playing import STATE, Play, error, joined
from tests.core.wire import off_the_wire

# Classification.


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (UnreachableError("no"), Outcome.UNREACHABLE),
        (ClientError("no", status=200), Outcome.UNRECOGNIZED),
        (ClientError("no", status=199), Outcome.UNREACHABLE),
        (ClientError("no", status=299), Outcome.UNRECOGNIZED),
        (ClientError("no", status=300), Outcome.UNREACHABLE),
        (ClientError("no", status=302), Outcome.UNREACHABLE),
        (ClientError("no", status=502, errcode=""), Outcome.UNREACHABLE),
        (ClientError("no", status=404, errcode=""), Outcome.UNREACHABLE),
        (ClientError("no", status=500, errcode="M_UNKNOWN"), Outcome.UNREACHABLE),
        (ClientError("no", status=399, errcode="M_UNKNOWN"), Outcome.UNREACHABLE),
        (ClientError("no", status=499, errcode="M_UNKNOWN"), Outcome.REJECTED),
        (ClientError("no", status=502, errcode="M_UNKNOWN"), Outcome.UNREACHABLE),
        (ClientError("no", status=429, errcode=""), Outcome.RATE_LIMITED),
        (ClientError("no", status=400, errcode="M_LIMIT_EXCEEDED"), Outcome.RATE_LIMITED),
        (ClientError("no", status=401, errcode="M_UNKNOWN_TOKEN"), Outcome.REVOKED),
        (ClientError("no", status=401, errcode="M_MISSING_TOKEN"), Outcome.REVOKED),
        (ClientError("no", status=404, errcode="M_NOT_FOUND"), Outcome.GONE),
        (ClientError("no", status=409, errcode="M_UNKNOWN"), Outcome.GONE),
        (ClientError("no", status=405, errcode="M_UNRECOGNIZED"), Outcome.UNRECOGNIZED),
        (ClientError("no", status=403, errcode="M_FORBIDDEN"), Outcome.FORBIDDEN),
        (ClientError("no", status=413, errcode="M_TOO_LARGE"), Outcome.REJECTED),
        (ClientError("no", status=400, errcode="M_UNKNOWN"), Outcome.REJECTED),
        (ClientError("no", status=400, errcode="M_BAD_JSON"), Outcome.REJECTED),
        (ClientError("no", status=400, errcode="M_WEAK_PASSWORD"), Outcome.REJECTED),
        (
            ClientError("no", status=400, errcode="ORG.MATRIX.MSC4140_DELAY_TOO_LARGE"),
            Outcome.TOO_LONG,
        ),
        (
            ClientError(
                "no", status=400, errcode="M_UNKNOWN", body={"org.matrix.msc4140.errcode": ["odd"]}
            ),
            Outcome.REJECTED,
        ),
    ],
)
def test_refusals_are_classified(raised, outcome):
    raised.errcode = off_the_wire(raised.errcode)
    assert Failure.of(raised).outcome is outcome


@pytest.mark.parametrize(
    ("named", "kept"), [(5_000, 5_000), (1, 1), (True, None), ("9", None), (0, None), (-1, None)]
)
def test_only_a_number_names_a_maximum(named, kept):
    failure = error(400, "M_MAX_DELAY_EXCEEDED", **{"org.matrix.msc4140.max_delay": named})
    assert failure.max_delay_ms == kept


def test_the_wait_is_read():
    raised = ClientError("no", status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=1_500)
    assert Failure.of(raised).retry_after_s == 1.5


# Rate limits.


def test_a_limit_is_honoured_and_restarts_go_on_meanwhile():
    play = Play()
    play.join()
    play.answer()
    assert isinstance(play.answer(), SendMembership)
    txn = play.effect.txn_id
    began = play.s
    assert play.fail(Outcome.RATE_LIMITED, retry_after_s=5.0) is None
    assert play.conditions["rate_limited"].retry_at_s == began + 5
    assert isinstance(play.tick(), RestartLeave)
    assert play.s == began + 4
    assert play.answer() is None
    assert isinstance(play.tick(), SendMembership)
    assert (play.s, play.effect.txn_id) == (began + 5, txn)
    assert play.settle() is State.JOINED
    assert play.conditions == {}


def test_a_limit_without_a_time_backs_off_and_zero_is_not_hot():
    play = Play()
    play.join()
    play.answer()
    waits = []
    for retry_after_s in (None, None, None, None, None, 0.0, -3.0):
        began = play.s
        assert play.fail(Outcome.RATE_LIMITED, retry_after_s=retry_after_s) is None
        assert isinstance(play.tick(), ScheduleLeave)
        waits.append(round(play.s - began, 3))
    assert waits == [1, 2, 4, 8, 8, 0.1, 0.1]


def test_leaving_takes_the_way_that_is_not_limited():
    play = joined()
    play.until(RestartLeave)
    play.fail(Outcome.RATE_LIMITED, retry_after_s=3.0)
    assert isinstance(play.do("leave"), SendLeave)
    assert play.answer() is None
    assert play.machine.state is State.CANCELLING
    assert isinstance(play.tick(), CancelLeave)
    assert play.settle() is State.LEFT


def test_a_limit_that_is_over_bars_no_way():
    play = joined()
    play.until(RestartLeave)
    play.fail(Outcome.RATE_LIMITED, retry_after_s=3.0)
    play.tick()
    play.answer()
    play.s += 1
    assert isinstance(play.do("leave"), SendHeldLeave)


def test_leaving_waits_for_the_way_that_opens_first():
    play = joined()
    play.until(RestartLeave)
    play.fail(Outcome.RATE_LIMITED, retry_after_s=3.0)
    play.do("leave")
    play.fail(Outcome.RATE_LIMITED, retry_after_s=5.0)
    assert play.machine.state is State.FIRING
    assert isinstance(play.tick(), SendHeldLeave)
    assert play.settle() is State.LEFT


def test_a_limit_is_told_until_all_that_was_limited_goes_through():
    play = joined()
    play.do("update", replace(STATE, data="new"))
    play.fail(Outcome.RATE_LIMITED, retry_after_s=10.0)
    play.until(RestartLeave)
    play.answer()
    assert "rate_limited" in play.conditions
    play.until(SendMembership)
    play.settle()
    assert "rate_limited" not in play.conditions


def test_how_long_an_answer_is_awaited():
    """Restarts are worth nothing late, and while the homeserver is silent everything is short."""
    play = Play()
    waits = {}
    play.join()
    while play.effect is not None:
        waits[type(play.effect)] = play.effect.timeout_s
        play.answer()
    assert waits == {ListDelayed: 5, ScheduleLeave: 5, RestartLeave: 2, SendMembership: 5}
    silent = Play()
    silent.join()
    silent.fail(Outcome.UNREACHABLE)
    assert silent.tick().timeout_s == 2


def test_a_leave_that_is_repeated_is_the_same_one():
    play = joined(delayed_events=False)
    first = play.do("leave")
    assert isinstance(first, SendLeave)
    play.fail(Outcome.UNREACHABLE)
    again = play.tick()
    assert (again.event, again.txn_id) == (first.event, first.txn_id)
    assert again.txn_id


def test_it_shows_what_it_is_about():
    assert repr(Play().machine) == "<Lifecycle idle>"
    assert repr(joined().machine) == "<Lifecycle joined joined>"


@pytest.mark.parametrize(
    ("outcome", "steps_s"),
    [
        (Outcome.UNREACHABLE, [0.25, 0.5, 1, 2, 2]),
        (Outcome.RATE_LIMITED, [1, 2, 4, 8, 8]),
    ],
)
def test_how_long_it_waits_before_it_asks_again(outcome, steps_s):
    play = Play()
    play.join()
    waited_s = []
    for _ in steps_s:
        play.fail(outcome)
        waited_s.append(play.machine.next_timer_s - play.s)
        play.tick()
    assert waited_s == pytest.approx(steps_s)


def test_without_a_token_nobody_is_a_member():
    play = joined()
    play.do("token_revoked", "logged out")
    assert not play.machine.joined
