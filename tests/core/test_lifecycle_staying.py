"""The lifecycle machine while it is in: restarts, refreshes, being withdrawn, outages."""

from dataclasses import replace

import pytest

from rtcfoci.core.effects import (
    CancelLeave,
    ListDelayed,
    Listed,
    Outcome,
    RestartLeave,
    ScheduleLeave,
    SendMembership,
)
from rtcfoci.core.phases import State
from rtcfoci.errors import LocalProtocolError
from tests.core.playing import BOTH, SECRET, STATE, STICKY, Held, Play, Writer, joined

# Staying.


@BOTH
def test_restart_404_after_the_delay_means_it_fired(writer):
    play = joined(writer)
    play.until(RestartLeave)
    play.answer()
    play.s += 19
    assert isinstance(play.do("timer"), RestartLeave)
    assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    assert "membership_lost" in play.conditions
    assert not play.machine.joined
    assert isinstance(play.answer(), SendMembership)
    assert play.settle() is State.JOINED
    assert play.conditions == {}


def test_a_delay_is_counted_to_the_millisecond():
    for after_s, lost in ((4.4, False), (4.6, True)):
        play = joined(max_delay_ms=4_500)
        play.until(RestartLeave)
        play.answer()
        play.s += after_s
        assert isinstance(play.do("timer"), RestartLeave)
        play.fail(Outcome.GONE)
        assert play.machine.joined is not lost


def test_restart_404_before_the_delay_means_it_was_cancelled():
    play = joined()
    play.until(RestartLeave)
    assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    assert play.machine.joined
    assert play.answer() is None
    assert play.machine.state is State.JOINED


def test_a_server_that_cancels_on_our_own_event_is_found_out_at_once():
    play = Play()
    play.join()
    play.until(RestartLeave)
    assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    assert play.answer() is None
    assert play.machine.state is State.JOINED


@pytest.mark.parametrize("outcome", [Outcome.UNRECOGNIZED, Outcome.REJECTED, Outcome.FORBIDDEN])
def test_a_leave_that_cannot_be_restarted_is_cancelled(outcome):
    play = joined()
    play.until(RestartLeave)
    assert isinstance(play.fail(outcome), CancelLeave)
    assert play.effect.delay_id == f"{SECRET}1"
    assert "no_dead_mans_switch" in play.conditions
    join = play.answer()
    assert isinstance(join, SendMembership)
    assert join.event.content["expires"] < 700_000
    assert play.settle() is State.JOINED


@BOTH
def test_refresh_well_before_expiry(writer):
    play = joined(writer)
    created_ts_ms = play.now.ts_ms - 1000
    began = play.s
    for number in (1, 2, 3):
        play.effect or play.tick()
        while not isinstance(play.effect, SendMembership):
            play.answer() or play.tick()
        assert play.s == pytest.approx(began + 1800 * number, abs=5)
        content = play.effect.event.content
        expires_ms = created_ts_ms + content["expires"] - play.now.ts_ms
        assert expires_ms == pytest.approx(3_600_000, abs=2)
        assert content["created"] == created_ts_ms
        play.settle()


@pytest.mark.parametrize(("event_id", "is_ours"), [("$0", False), ("$1", True), ("$9", False)])
def test_the_join_time_is_the_servers_even_when_its_echo_comes_first(event_id, is_ours):
    play = Play()
    play.join()
    play.until(SendMembership)
    play.do("seen", event_id, created_ts_ms=77)
    answered_ts_ms = play.now.ts_ms
    play.answer()
    play.do("update", replace(STATE, data="new"))
    created = play.until(SendMembership).event.content["created"]
    assert created == (77 if is_ours else answered_ts_ms)


@pytest.mark.parametrize(("event_id", "created_ts_ms"), [("$0", None), ("$1", 77), ("$9", None)])
def test_the_join_time_is_that_of_the_echo_of_our_first_event(event_id, created_ts_ms):
    play = Play()
    play.join()
    play.settle()
    answered_ts_ms = play.now.ts_ms
    play.do("seen", event_id, created_ts_ms=77)
    play.do("update", replace(STATE, data="new"))
    created = play.until(SendMembership).event.content["created"]
    assert created == (created_ts_ms or answered_ts_ms)


def test_waiting_for_the_join_does_not_lengthen_the_life_of_the_membership():
    play = Play()
    play.join(delayed_events=False)
    play.fail(Outcome.RATE_LIMITED, retry_after_s=600.0)
    play.tick()
    play.answer()
    play.do("update", replace(STATE, data="new"))
    expires_ms = play.until(SendMembership).event.content["expires"]
    assert expires_ms == pytest.approx(600_000, abs=5)


def test_update():
    play = joined()
    update = play.do("update", replace(STATE, data="new"))
    assert isinstance(update, SendMembership)
    assert update.event.content["data"] == "new"
    assert play.settle() is State.JOINED
    with pytest.raises(LocalProtocolError, match="who we are"):
        play.do("update", Writer("other"))


def test_an_update_under_way_is_followed_by_the_next():
    play = joined()
    first = play.do("update", replace(STATE, data="1"))
    play.do("update", replace(STATE, data="2"))
    play.fail(Outcome.UNREACHABLE)
    second = play.until(SendMembership)
    assert second.event.content["data"] == "2"
    assert second.txn_id != first.txn_id
    assert play.settle() is State.JOINED


def test_two_sends_never_share_a_millisecond():
    play = joined(STICKY)
    play.do("update", STICKY)
    play.until(RestartLeave)
    play.answer()
    began = play.s
    assert play.do("update", STICKY) is None
    assert isinstance(play.tick(), SendMembership)
    assert play.s > began + 0.001


def test_an_update_is_not_lost_when_it_comes_while_a_send_is_under_way():
    play = joined()
    play.do("update", replace(STATE, data="1"))
    play.do("update", replace(STATE, data="2"))
    play.answer()
    assert play.until(SendMembership).event.content["data"] == "2"


# Losing it, by sync.


def test_a_withdrawn_membership_is_sent_again():
    play = joined()
    assert isinstance(play.do("gone"), RestartLeave), "who withdrew us may have cancelled it"
    assert "membership_lost" in play.conditions
    assert not play.machine.joined
    assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    assert isinstance(play.answer(), SendMembership)
    assert play.settle() is State.JOINED
    assert play.conditions == {}


@pytest.mark.parametrize("kind", [RestartLeave, ScheduleLeave])
def test_what_was_asked_before_we_were_withdrawn_is_asked_again(kind):
    play = joined()
    play.until(RestartLeave)
    if kind is ScheduleLeave:
        assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    play.s += 0.01
    assert isinstance(play.do("gone"), kind), "the one under way"
    assert isinstance(play.answer(), RestartLeave)
    assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    assert isinstance(play.answer(), SendMembership)
    assert play.settle() is State.JOINED


def test_who_keeps_withdrawing_us_is_answered_ever_more_slowly():
    play = joined()
    gaps = []
    for _ in range(5):
        began = play.s
        play.do("gone")
        play.until(SendMembership)
        gaps.append(round(play.s - began, 1))
        play.settle()
        play.do("seen", f"${play.events}", created_ts_ms=0)
    assert gaps == [0, 2, 4, 8, 16]
    play.s += 61
    play.do("timer")
    play.settle()
    began = play.s
    play.do("gone")
    play.until(SendMembership)
    assert play.s - began < 0.1


def test_sync_that_tells_of_the_past_is_not_believed():
    """The leave of a crashed process, or ours that fired, may be shown after the send that followed it."""
    play = Play()
    play.join()
    assert play.settle() is State.JOINED
    play.do("gone")
    assert play.machine.joined
    assert play.effect is None
    play.do("seen", "$1", created_ts_ms=5)
    for _ in range(10):
        play.until(RestartLeave)
        play.answer()
    assert play.events == 1


@pytest.mark.parametrize("event_id", ["$0", "$9"])
def test_only_the_echo_of_our_last_event_ends_the_doubt(event_id):
    play = joined()
    play.do("update", replace(STATE, data="new"))
    play.settle()
    play.do("seen", event_id, created_ts_ms=5)
    play.do("gone")
    assert play.machine.joined
    began = play.s
    play.until(SendMembership)
    assert play.s - began == pytest.approx(5)


def test_an_echo_that_never_comes_is_not_awaited_for_ever():
    play = Play()
    play.join()
    play.settle()
    gaps = []
    for _ in range(5):
        play.do("gone")
        began = play.s
        play.until(SendMembership)
        gaps.append(round(play.s - began))
        play.settle()
    assert gaps == [5, 10, 20, 40, 40]


def test_gone_while_a_send_is_under_way():
    play = joined()
    play.do("update", STATE)
    play.do("gone")
    play.do("seen", "$2", created_ts_ms=1)
    play.settle()
    assert play.machine.joined
    assert isinstance(play.until(RestartLeave), RestartLeave)
    assert play.events == 2
    play.answer()
    play.do("update", STATE)
    play.do("gone")
    play.settle()
    began = play.s
    play.until(SendMembership)
    assert play.s == pytest.approx(began + 5)


def test_gone_means_nothing_when_we_are_out():
    play = joined()
    play.do("leave")
    play.do("gone")
    assert play.settle() is State.LEFT
    assert play.do("gone") is None


# Outages.


@BOTH
def test_after_an_outage_the_delayed_leave_is_restarted_before_anything_else(writer):
    play = joined(writer)
    play.do("offline", "connection refused")
    assert "homeserver_unreachable" in play.conditions
    play.do("update", writer)
    for _ in range(6):
        play.fail(Outcome.UNREACHABLE)
        assert isinstance(play.tick(), RestartLeave)
        assert play.effect.timeout_s == 2
    play.fail(Outcome.UNREACHABLE)
    assert isinstance(play.do("online"), RestartLeave)
    assert play.conditions == {}
    assert isinstance(play.answer(), SendMembership)
    assert play.settle() is State.JOINED


@BOTH
def test_back_within_five_seconds_though_it_fired_and_sync_is_slow(writer):
    play = joined(writer)
    play.until(RestartLeave)
    down = play.s
    while play.s < down + 30:
        play.fail(Outcome.UNREACHABLE, after_s=2.0)
        play.tick()
    back = play.s
    play.fail(Outcome.UNREACHABLE, after_s=1.99)
    assert isinstance(play.tick(), RestartLeave)
    assert isinstance(play.fail(Outcome.GONE), ScheduleLeave)
    assert isinstance(play.answer(), SendMembership)
    play.answer()
    assert play.machine.joined
    assert play.s - back < 5
    assert play.conditions == {}


def test_online_without_an_outage_does_nothing():
    play = joined()
    timer_s = play.machine.next_timer_s
    assert play.do("online") is None
    assert play.machine.next_timer_s == timer_s


def test_online_brings_nothing_forward_when_nothing_was_asked():
    play = Play()
    play.do("offline", "refused")
    play.do("online")
    assert play.machine.state is State.IDLE
    assert play.machine.next_timer_s is None
    assert play.conditions == {}


@BOTH
def test_a_send_whose_answer_is_lost_is_repeated_under_the_same_transaction(writer):
    play = Play()
    play.join(writer)
    first = play.until(SendMembership)
    play.fail(Outcome.UNREACHABLE)
    assert isinstance(play.tick(), RestartLeave)
    again = play.answer()
    assert (again.event, again.txn_id) == (first.event, first.txn_id)
    assert again.id != first.id
    play.fail(Outcome.UNREACHABLE)
    play.s += 31
    play.do("timer")
    assert play.until(SendMembership).txn_id != first.txn_id


def test_a_schedule_whose_answer_is_lost_is_found_by_listing():
    play = Play()
    play.join(STICKY)
    play.answer()
    first = play.effect
    assert play.fail(Outcome.UNREACHABLE) is None
    assert isinstance(play.tick(), ListDelayed)
    leave = STICKY.leave()
    play.answer(Listed(events=(Held("orphan", leave.type, None, leave.content),)))
    assert isinstance(play.effect, ScheduleLeave)
    assert play.effect.txn_id != first.txn_id, "the old one would give us the cancelled id again"
    assert isinstance(play.answer(), CancelLeave)
    assert play.effect.delay_id == "orphan"
    assert play.settle() is State.JOINED


def test_a_schedule_whose_answer_is_lost_where_nothing_can_be_listed():
    play = Play()
    play.join()
    first = play.fail(Outcome.UNRECOGNIZED)
    play.fail(Outcome.UNREACHABLE)
    again = play.tick()
    assert isinstance(again, ScheduleLeave)
    assert again.txn_id == first.txn_id


def test_the_leave_finds_an_orphan_too():
    play = Play()
    play.join()
    play.answer()
    play.do("leave")
    play.fail(Outcome.UNREACHABLE)
    assert isinstance(play.tick(), ListDelayed)
    leave = STATE.leave()
    play.answer(Listed(events=(Held("orphan", leave.type, leave.state_key, {}),)))
    assert isinstance(play.effect, CancelLeave), "nothing was sent, so nothing is withdrawn"
    assert play.settle() is State.LEFT
