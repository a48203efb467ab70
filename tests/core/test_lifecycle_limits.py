"""The lifecycle machine against refusals and rate limits: how they are read, and waited out."""

import pytest

from rtcfoci.core.effects import (
    CancelLeave,
    Failure,
    Outcome,
    RestartLeave,
    ScheduleLeave,
    SendHeldLeave,
    SendLeave,
    SendMembership,
)
from rtcfoci.core.phases import State
from rtcfoci.errors import ClientError, UnreachableError
from tests.core.playing import Play, error, joined

# Classification.


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (UnreachableError("no"), Outcome.UNREACHABLE),
        (ClientError("no", status=200), Outcome.UNRECOGNIZED),
        (ClientError("no", status=302), Outcome.UNREACHABLE),
        (ClientError("no", status=502, errcode=""), Outcome.UNREACHABLE),
        (ClientError("no", status=404, errcode=""), Outcome.UNREACHABLE),
        (ClientError("no", status=500, errcode="M_UNKNOWN"), Outcome.UNREACHABLE),
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
    assert Failure.of(raised).outcome is outcome


@pytest.mark.parametrize(("named", "kept"), [(5_000, 5_000), (True, None), ("9", None), (-1, None)])
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
