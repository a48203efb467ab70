"""The machine of one delegated leave, taken up by a process after another."""

import pytest
from jobs import CAREFUL, DONE, EPOCH_MS, ORIGINAL, Play, leave_of
from rtcfoci_livekit_auth.delegation.job import Look, Restart, Send
from rtcfoci_livekit_auth.delegation.model import (
    Phase,
    Record,
)
from rtcfoci_livekit_auth.delegation.rules import State


def record_of(phase=Phase.WAITING, *, restarted_s=-10.0, created_s=-10.0, delay_s=100.0):
    return Record(
        leave=leave_of(delay_s),
        restarted_ts_ms=EPOCH_MS + int(restarted_s * 1000),
        created_ts_ms=EPOCH_MS + int(created_s * 1000),
        phase=phase,
    )


def test_the_original_restores_with_the_whole_wait_and_looks_up_at_once():
    play = Play(record=record_of(Phase.CONNECTED, restarted_s=-90))
    assert play.state is State.WAITING
    assert play.kinds == [Look]
    play.to(99)
    assert play.state is State.WAITING
    play.to(100)
    assert Send in play.kinds


def test_the_original_drops_what_is_expired():
    assert Play(record=record_of(restarted_s=-100)).job is None


@pytest.mark.parametrize("settings", [ORIGINAL, CAREFUL])
def test_what_is_no_job_is_dropped(settings):
    assert Play(settings, record=record_of(delay_s=0)).job is None


def test_a_restored_job_goes_on_with_the_time_that_remains():
    play = Play(CAREFUL, record=record_of(Phase.CONNECTED, restarted_s=-70, created_s=-500))
    assert play.state is State.CONNECTED
    assert play.kinds == [Look]
    play.looked(True, "PA_1")
    play.to(9)
    assert play.kinds == []
    play.to(10)
    assert play.kinds == [Restart]


def test_a_restored_wait_goes_on_with_the_time_that_remains():
    play = Play(CAREFUL, record=record_of(restarted_s=-70, created_s=-70))
    play.looked(False)
    play.to(10)
    assert Restart in play.kinds
    play.answered(DONE)
    play.to(30)
    assert play.state is State.CHECKING


def test_who_left_while_we_were_away_is_made_to_leave():
    play = Play(CAREFUL, record=record_of(Phase.CONNECTED))
    play.looked(False)
    assert play.state is State.CHECKING
    play.to(10)
    play.looked(False)
    assert Send in play.kinds


def test_a_leave_that_was_being_sent_is_sent():
    play = Play(CAREFUL, record=record_of(Phase.LEAVING))
    play.to(2)
    assert Look in play.kinds
    play.looked(False)
    assert Send in play.kinds


@pytest.mark.parametrize("restarted_s", [-5000, +5000])
def test_a_wall_clock_that_was_set_makes_us_ask_not_guess(restarted_s):
    play = Play(CAREFUL, record=record_of(Phase.CONNECTED, restarted_s=restarted_s))
    assert set(play.kinds) == {Look, Restart}
    play.answered(DONE)
    assert play.state is State.CONNECTED


def test_clocks_that_disagree_make_us_restart():
    play = Play(CAREFUL).connect()
    play.to(5)
    play.take(play.job.clock_jumped(play.now))
    assert play.kinds == [Restart]
