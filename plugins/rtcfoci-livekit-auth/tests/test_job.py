"""The machine of one delegated leave, step by step, as the original has it."""

import itertools
import re
from pathlib import Path

import pytest
from jobs import CAREFUL, DONE, EPOCH_MS, LATER, MISSING, ORIGINAL, Play
from rtcfoci_livekit_auth.delegation.job import Finished, Keep, Look, Restart, Send
from rtcfoci_livekit_auth.delegation.model import (
    Answer,
    DelegationSettings,
    Verdict,
)
from rtcfoci_livekit_auth.delegation.rules import Given, Rules, State, backoff_s

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "livekit-leaves.md"


def test_a_new_job_looks_its_participant_up_at_once_and_does_nothing_else():
    play = Play()
    assert play.kinds == [Look]
    assert play.state is State.WAITING


def test_who_connects_has_the_delayed_event_restarted_at_once_and_at_80_percent():
    play = Play()
    play.to(30)
    play.joined()
    assert play.kinds == [Restart]
    play.answered(DONE)
    assert play.kinds == [Keep]
    assert play.job.record.restarted_ts_ms == EPOCH_MS + 30_000
    play.to(109)
    assert play.kinds == []
    play.to(110)
    assert play.kinds == [Restart]


def test_a_look_up_that_finds_the_participant_is_as_good_as_the_webhook():
    play = Play()
    play.looked(True, "PA_1")
    assert play.state is State.CONNECTED
    assert play.kinds == [Restart]


def test_a_waiting_participant_is_looked_up_again_and_again():
    play = Play()
    play.looked(False)
    play.to(1.0)
    assert play.kinds == [Look]
    play.looked(None)
    play.to(2.4)
    assert play.kinds == []
    play.to(2.5)
    assert play.kinds == [Look]


@pytest.mark.parametrize(("delay_s", "waited_s"), [(100.0, 100.0), (7200.0, 3600.0)])
def test_who_never_connects_is_made_to_leave(delay_s, waited_s):
    play = Play(delay_s=delay_s)
    play.to(waited_s - 0.1)
    assert play.state is State.WAITING
    play.to(waited_s)
    assert play.kinds == [Send]
    play.answered(DONE)
    assert play.effects == (Finished(State.LEFT),)


@pytest.mark.parametrize("reason", ["CLIENT_INITIATED", "DUPLICATE_IDENTITY", "SIGNAL_CLOSE"])
def test_the_original_sends_the_leave_for_any_end_of_a_session(reason):
    play = Play().connect()
    play.left(reason)
    assert play.kinds == [Send]


def test_the_original_ignores_an_intentional_leave_while_waiting():
    play = Play()
    play.left()
    assert play.state is State.WAITING


def test_the_original_gives_up_when_the_first_connection_fails():
    play = Play()
    play.left("JOIN_FAILURE")
    assert play.effects == (Finished(State.LAPSED),)


@pytest.mark.parametrize("settings", [ORIGINAL, CAREFUL])
def test_an_event_that_is_missing_when_restarted_has_fired(settings):
    play = Play(settings)
    play.joined()
    play.answered(MISSING)
    assert Finished(State.LAPSED) in play.effects


@pytest.mark.parametrize("settings", [ORIGINAL, CAREFUL])
def test_restarts_that_fail_are_tried_until_the_delay_is_over(settings):
    play = Play(settings).connect()
    play.to(80)
    tries = 0
    while play.state is State.CONNECTED:
        play.answered(LATER)
        tries += 1
        if play.state is State.CONNECTED:
            play.to(play.job.next_timer_s - 1000)
    assert play.s <= 1100
    assert tries >= 5


def test_an_address_that_cannot_be_found_ends_the_job_of_the_original_alone():
    nowhere = Answer(Verdict.NOWHERE)
    play = Play()
    play.joined()
    play.answered(nowhere)
    assert play.state is State.LAPSED
    play = Play(CAREFUL)
    play.joined()
    play.answered(nowhere)
    assert play.state is State.CONNECTED
    play.to(1)
    assert play.kinds == [Restart]


@pytest.mark.parametrize("answer", [DONE, MISSING])
def test_a_leave_that_was_sent_or_cancelled_before_counts_as_sent(answer):
    play = Play().connect()
    play.left()
    play.answered(answer)
    assert play.effects == (Finished(State.LEFT),)


def test_a_send_is_tried_until_the_homeserver_would_send_by_itself():
    play = Play().connect()
    play.to(50)
    play.left()
    tries = 1
    while play.state is State.LEAVING:
        play.answered(LATER)
        if play.state is State.LEAVING:
            play.to(play.job.next_timer_s - 1000)
            tries += 1
    assert play.state is State.LAPSED
    assert 1090 < play.s <= 1100 or tries >= 7


def test_a_late_answer_to_a_restart_changes_nothing():
    play = Play()
    play.joined()
    restart = play.call
    play.left()
    assert play.job.answered(play.now, restart.id, MISSING) == ()
    assert play.state is State.LEAVING


def test_a_look_up_of_before_the_connection_changes_nothing():
    play = Play(DelegationSettings(sanity_interval_s=5))
    look = play.look
    play.joined()
    assert play.job.looked(play.now, look.id, False) == ()
    assert play.state is State.CONNECTED


def test_the_sanity_check_notices_who_is_gone():
    play = Play(DelegationSettings(sanity_interval_s=5)).connect()
    play.to(5)
    assert play.kinds == [Look]
    play.looked(True)
    play.to(10)
    play.looked(None)
    play.to(15)
    play.looked(False)
    assert play.kinds == [Send]


def test_a_retry_after_is_kept_to_and_ends_the_original_where_it_leads_past_the_deadline():
    play = Play()
    play.joined()
    play.answered(Answer(Verdict.LATER, 30.0))
    play.to(29.9)
    assert play.kinds == []
    play.to(30)
    assert play.kinds == [Restart]
    play.answered(Answer(Verdict.LATER, 1e9))
    assert play.state is State.LAPSED


def test_a_retry_after_that_leads_past_the_deadline_is_not_believed():
    play = Play(CAREFUL)
    play.joined()
    play.answered(Answer(Verdict.LATER, 1e300))
    assert play.state is State.CONNECTED
    play.to(50)
    assert play.kinds == [Restart]


def test_a_job_that_was_replaced_does_nothing_more():
    play = Play().connect()
    play.left()
    play.take(play.job.replace(play.now))
    assert play.effects == (Finished(State.REPLACED),)
    assert not play.job.wants(play.call.id)
    play.answered(DONE)
    play.to(10_000)
    assert play.effects == ()


def test_nothing_shows_the_delay_id():
    play = Play()
    play.joined()
    shown = f"{play.job!r}{play.job.record!r}{play.effects!r}{play.job.leave!r}{vars(play)!r}"
    assert "syd_secret" not in shown


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not here")
def test_the_page_about_leaves_has_the_table_as_it_is():
    tables = Rules(ORIGINAL).table, Rules(CAREFUL).table
    rows = []
    for state, given in itertools.product(State, Given):
        targets = [table.get(state, {}).get(given, state) for table in tables]
        if set(targets) != {state}:
            cells = [state, given, *targets]
            values = [
                cell.value if n < 2 or cell is not state else "" for n, cell in enumerate(cells)
            ]
            rows.append(f"| {' | '.join(values)} |")
    assert (
        re.findall(r"^\| (?:waiting|connected|checking|leaving) .*", PAGE.read_text(), re.M) == rows
    )


def test_the_backoff_grows_to_a_minute():
    assert [backoff_s(n, 0.5) for n in (1, 2, 3)] == [1.0, 1.5, 2.25]
    assert backoff_s(10_000, 0.5) == 60.0
    assert backoff_s(1, 0.0) == 0.5
    assert backoff_s(1, 1.0) == 1.5
