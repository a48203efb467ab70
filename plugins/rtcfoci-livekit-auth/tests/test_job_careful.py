"""The machine of one delegated leave with each setting that is better than the original."""

import pytest
from jobs import CAREFUL, DONE, EPOCH_MS, Play
from rtcfoci_livekit_auth.delegation.job import Look, Restart, Send
from rtcfoci_livekit_auth.delegation.model import (
    DelegationSettings,
)
from rtcfoci_livekit_auth.delegation.rules import State


@pytest.mark.parametrize("reason", ["DUPLICATE_IDENTITY", "MIGRATION", "SIGNAL_CLOSE", "UNKNOWN"])
def test_who_reconnects_is_not_made_to_leave(reason):
    play = Play(CAREFUL).connect()
    play.left(reason)
    assert play.state is State.CHECKING
    play.to(3)
    play.joined("PA_2")
    assert play.state is State.CONNECTED
    play.to(79)
    assert play.kinds == []


def test_the_end_of_a_session_that_another_superseded_is_only_a_reason_to_look():
    play = Play(CAREFUL).connect()
    play.joined("PA_2")
    play.left("CLIENT_INITIATED", sid="PA_1")
    assert play.state is State.CONNECTED
    assert play.kinds == [Look]
    play.looked(True, "PA_2")
    assert play.state is State.CONNECTED
    play.left("CLIENT_INITIATED", sid="PA_1")
    play.looked(False)
    assert play.state is State.CHECKING
    play.to(10)
    play.looked(False)
    assert Send in play.kinds


def test_who_reconnects_again_has_the_whole_grace_again():
    play = Play(CAREFUL).connect()
    play.left("SIGNAL_CLOSE", sid="PA_1")
    play.to(8)
    play.left("SIGNAL_CLOSE", sid="PA_2")
    play.to(17.9)
    assert Look not in play.kinds
    play.to(18)
    assert play.kinds == [Look]


def test_who_takes_leave_by_intent_to_reconnect_is_not_made_to_leave():
    play = Play(CAREFUL).connect()
    play.left()
    play.to(2)
    assert play.kinds == [Look]
    play.looked(True, "PA_2")
    assert play.state is State.CONNECTED


def test_who_is_lost_is_looked_up_after_the_grace_and_made_to_leave():
    play = Play(CAREFUL).connect()
    play.left("SIGNAL_CLOSE")
    play.to(9.9)
    assert play.kinds == []
    play.to(10)
    assert play.kinds == [Look]
    play.looked(False)
    assert Send in play.kinds


@pytest.mark.parametrize("reason", ["PARTICIPANT_REMOVED", "ROOM_DELETED", "ROOM_CLOSED"])
def test_who_was_removed_is_looked_up_at_once(reason):
    play = Play(CAREFUL).connect()
    play.left(reason)
    assert Look in play.kinds
    play.looked(False)
    assert Send in play.kinds


def test_an_sfu_that_still_shows_the_session_it_ended_is_asked_again():
    play = Play(CAREFUL).connect()
    play.left("PARTICIPANT_REMOVED")
    play.looked(True, "PA_1")
    assert play.state is State.CHECKING
    play.to(2)
    play.looked(False)
    assert Send in play.kinds


def test_a_joined_event_that_comes_after_the_end_of_its_session_changes_nothing():
    play = Play(CAREFUL).connect()
    play.left("SIGNAL_CLOSE")
    play.joined("PA_1")
    assert play.state is State.CHECKING


def test_an_sfu_that_goes_silent_after_reporting_an_end_cannot_keep_a_ghost():
    play = Play(CAREFUL).connect()
    play.left("SIGNAL_CLOSE")
    play.to(10)
    while play.state is State.CHECKING:
        play.looked(None)
        if play.state is State.CHECKING:
            play.to(play.job.next_timer_s - 1000)
    assert play.state is State.LEAVING
    assert play.s <= 1025


def test_an_sfu_that_is_down_makes_nobody_leave_and_restarts_go_on():
    play = Play(DelegationSettings.careful(sanity_interval_s=5)).connect()
    restarts = 0
    while play.s < 2000:
        play.to(play.job.next_timer_s - 1000)
        for kind in play.kinds:
            if kind is Look:
                play.looked(None)
            elif kind is Restart:
                play.answered(DONE)
                restarts += 1
    assert play.state is State.CONNECTED
    assert restarts == 12


def test_the_delayed_event_is_kept_from_firing_during_a_check():
    play = Play(CAREFUL).connect()
    play.to(75)
    play.left("SIGNAL_CLOSE")
    play.to(80)
    assert play.kinds == [Restart]


def test_an_intentional_leave_while_waiting_is_sent_at_once():
    play = Play(CAREFUL)
    play.to(5)
    play.left(created_ts_ms=EPOCH_MS + 5000)
    assert Look in play.kinds
    play.looked(False)
    assert Send in play.kinds


def test_an_intentional_leave_of_an_unknown_time_is_this_ones():
    play = Play(CAREFUL)
    play.left()
    assert play.state is State.CHECKING


def test_the_leave_of_an_earlier_job_is_not_this_ones():
    play = Play(CAREFUL)
    play.left(created_ts_ms=EPOCH_MS - 2000)
    assert play.state is State.WAITING


def test_a_first_connection_that_fails_may_be_tried_again():
    play = Play(CAREFUL)
    play.left("JOIN_FAILURE")
    assert play.state is State.WAITING
    play.joined("PA_2")
    assert play.state is State.CONNECTED


def test_a_waiting_participants_event_is_kept_from_firing():
    play = Play(CAREFUL)
    play.to(80)
    assert Restart in play.kinds
    play.answered(DONE)
    play.to(100)
    assert play.state is State.CHECKING
    play.looked(False)
    assert Send in play.kinds


def test_the_end_of_a_room_is_the_end_of_who_was_in_it():
    play = Play(CAREFUL)
    play.take(play.job.room_finished(play.now))
    assert play.state is State.WAITING
    play.connect()
    play.take(play.job.room_finished(play.now))
    assert Look in play.kinds
    play.looked(False)
    assert Send in play.kinds


def test_who_comes_back_before_the_leave_was_sent_stays():
    play = Play(CAREFUL).connect()
    play.left("PARTICIPANT_REMOVED")
    play.looked(False)
    send = play.call
    play.joined("PA_2")
    assert play.state is State.CONNECTED
    assert not play.job.wants(send.id)
    assert Restart in play.kinds
