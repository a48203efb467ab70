"""The machine of one delegated leave, step by step: first as the original, then with each setting."""

import itertools
import re
from pathlib import Path

import pytest
from rtcfoci_livekit_auth.delegation.job import Finished, Job, Keep, Look, Restart, Send
from rtcfoci_livekit_auth.delegation.model import (
    Answer,
    DelegationSettings,
    Leave,
    Phase,
    Record,
    Verdict,
)
from rtcfoci_livekit_auth.delegation.rules import Given, Rules, State, backoff_s

from rtcfoci.core.model import Now

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "livekit-leaves.md"
EPOCH_MS = 1_800_000_000_000
ORIGINAL = DelegationSettings()
CAREFUL = DelegationSettings.careful(sanity_interval_s=0)
DONE, MISSING, LATER = (Answer(v) for v in (Verdict.DONE, Verdict.MISSING, Verdict.LATER))


def leave_of(delay_s=100.0):
    return Leave(
        room="alias",
        identity="@a:example.org:DEV",
        delay_id="syd_secret",
        delay_ms=int(delay_s * 1000),
        server_name="example.org",
    )


class Play:
    """One job, its clock, and what it asked for last."""

    def __init__(self, settings=ORIGINAL, *, delay_s=100.0, record=None, wall_ahead_s=0.0):
        self.s, self.wall_ahead_s = 1000.0, wall_ahead_s
        rules = Rules(settings)
        if record is None:
            self.job = Job(rules, leave_of(delay_s), self.now)
        else:
            self.job = Job.restored(rules, record, self.now)
        self.effects = ()
        if self.job:
            self.take(self.job.timer(self.now))

    @property
    def now(self):
        return Now(self.s, EPOCH_MS + int((self.s - 1000 + self.wall_ahead_s) * 1000))

    @property
    def kinds(self):
        return [type(effect) for effect in self.effects]

    @property
    def state(self):
        return self.job.state

    def take(self, effects):
        self.effects = effects
        for effect in effects:
            if isinstance(effect, Look):
                self.look = effect
            elif isinstance(effect, (Restart, Send)):
                self.call = effect

    def joined(self, sid="PA_1"):
        self.take(self.job.joined(self.now, sid))

    def left(self, reason="CLIENT_INITIATED", sid="PA_1", **more):
        self.take(self.job.left(self.now, sid=sid, reason=reason, **more))

    def looked(self, found, sid=""):
        self.take(self.job.looked(self.now, self.look.id, found, sid=sid))

    def answered(self, answer):
        self.take(self.job.answered(self.now, self.call.id, answer))

    def to(self, s):
        """Let time pass, doing what is due on the way."""
        end_s, seen = 1000.0 + s, []
        while self.job.next_timer_s <= end_s:
            self.s = max(self.s, self.job.next_timer_s)
            self.take(self.job.timer(self.now))
            seen += self.effects
        self.s = end_s
        self.effects = tuple(seen)

    def connect(self):
        self.joined()
        self.answered(DONE)
        return self


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


# Better than the original.


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


# Restored.


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
