"""The lifecycle machine as it joins: delayed leaves of every generation of MSC4140, and none at all."""

import pytest

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
from rtcfoci.core.phases import State
from tests.core.playing import (
    BOTH,
    SECRET,
    STATE,
    STICKY,
    Held,
    Play,
    error,
    joined,
)


@BOTH
def test_the_leave_is_scheduled_before_the_join_is_sent(writer):
    play = Play()
    assert isinstance(play.join(writer), ListDelayed)
    leave = play.answer()
    assert isinstance(leave, ScheduleLeave)
    assert (leave.event, leave.delay_ms) == (writer.leave(), 18_000)
    join = play.answer()
    assert isinstance(join, SendMembership)
    assert join.event == writer.join(lifetime_ms=3_600_000)
    assert not play.machine.joined
    restart = play.answer()
    assert isinstance(restart, RestartLeave)
    assert play.machine.joined
    assert play.answer() is None
    assert play.machine.state is State.JOINED
    assert play.machine.guarded
    assert play.machine.next_timer_s == play.s + 4


def test_stale_leaves_of_a_crashed_process():
    play = Play()
    play.join(STATE)
    ours = STATE.leave()
    events = (
        Held("same", ours.type, ours.state_key, {}),
        Held("other device", ours.type, "_@u:hs_PHONE", {}, mine=False),
        Held("sticky", "rtc.member", None, {"sticky_key": "old"}),
        Held("other dialect", "m.call.member", ours.state_key, {}),
    )
    play.answer(Listed(events=events))
    assert isinstance(play.effect, ScheduleLeave)
    cleared = []
    while not isinstance(play.answer(), SendMembership):
        cleared.append((type(play.effect), play.effect.delay_id))
    assert cleared == [
        (CancelLeave, "same"),
        (SendHeldLeave, "sticky"),
        (SendHeldLeave, "other dialect"),
    ]


def test_a_stale_sticky_leave_is_sent_and_one_of_this_join_cancelled():
    play = Play()
    play.join(STICKY)
    old = Held("old", "rtc.member", None, {"sticky_key": "before"})
    own = Held("own", "rtc.member", None, STICKY.leave().content)
    play.answer(Listed(events=(old, own)))
    assert isinstance(play.answer(), SendHeldLeave)
    assert isinstance(play.answer(), CancelLeave)
    assert isinstance(play.answer(), SendMembership)


def test_leaving_withdraws_the_ghost_whose_leave_we_might_cancel():
    play = Play()
    play.join(STATE)
    play.answer(Listed(events=(Held("stale", "call.member", STATE.key, {}),)))
    play.do("leave")
    assert isinstance(play.answer(), SendHeldLeave)
    assert play.effect.delay_id == f"{SECRET}1"
    assert isinstance(play.answer(), CancelLeave)
    assert play.settle() is State.LEFT


@pytest.mark.parametrize("outcome", [Outcome.UNRECOGNIZED, Outcome.FORBIDDEN, Outcome.REJECTED])
def test_a_server_that_cannot_list_is_joined(outcome):
    play = Play()
    play.join()
    assert isinstance(play.fail(outcome), ScheduleLeave)
    assert play.settle() is State.JOINED


def test_without_delayed_events():
    play = Play()
    join = play.join(delayed_events=False)
    assert isinstance(join, SendMembership)
    assert join.event.content["expires"] == 600_000
    assert "no_dead_mans_switch" in play.conditions
    assert play.answer() is None
    assert play.machine.next_timer_s == play.s + 300
    created = play.now.ts_ms
    refresh = play.tick()
    assert isinstance(refresh, SendMembership)
    assert refresh.event.content == {"data": "", "created": created, "expires": 900_000}
    play.answer()
    play.s += 1
    play.do("leave")
    assert isinstance(play.effect, SendLeave)
    assert play.settle() is State.LEFT
    assert play.conditions == {}


@BOTH
@pytest.mark.parametrize("delayed_events", [True, False])
def test_a_leave_never_shares_the_millisecond_of_the_membership(writer, delayed_events):
    play = Play()
    play.join(writer, delayed_events=delayed_events)
    play.until(SendMembership)
    play.do("leave")
    sent_s = play.s
    leave = play.answer() or play.tick()
    assert isinstance(leave, SendHeldLeave if delayed_events else SendLeave)
    assert sent_s + 0.001 < play.s < sent_s + 0.01
    assert play.settle() is State.LEFT


OFF = [error(403, "M_FORBIDDEN"), error(404, "M_NOT_FOUND"), error(400, "M_INVALID_PARAM")]


@pytest.mark.parametrize("failure", OFF)
def test_a_server_that_refuses_to_schedule_is_asked_again_later(failure):
    play = Play()
    play.join(max_delay_ms=86_400_000)
    play.answer()
    join = play.answer(failure)
    assert isinstance(join, SendMembership)
    assert join.event.content["expires"] == 600_000
    assert play.conditions["no_dead_mans_switch"].cause == "no"
    play.answer()
    began = play.s
    assert isinstance(play.tick(), ScheduleLeave)
    assert play.s == began + 300
    play.answer()
    assert "no_dead_mans_switch" not in play.conditions
    assert play.settle() is State.JOINED
    assert play.machine.guarded


@pytest.mark.parametrize("failure", [error(404, "M_UNRECOGNIZED"), error(200, "")])
def test_a_server_that_does_not_know_delays_is_not_asked_again(failure):
    """It may ignore the delay and send the leave at once, with an answer that names no delay id."""
    play = Play()
    play.join()
    play.answer()
    assert isinstance(play.answer(failure), SendMembership)
    assert "no_dead_mans_switch" in play.conditions
    assert play.settle() is State.JOINED
    for _ in range(5):
        assert isinstance(play.tick(), SendMembership)
        play.answer()


MAXIMUM = {"org.matrix.msc4140.max_delay": 10_000}


@pytest.mark.parametrize(
    ("failure", "max_delay_ms", "delays"),
    [
        # Synapse 1.163.2 names no maximum, nor need it: the capability does.
        (error(400, "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE"), None, [18_000, 9_000, 4_500]),
        (error(400, "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE"), 10_000, [10_000, 5_000]),
        (error(403, "M_FORBIDDEN"), None, [18_000, 9_000, 4_500]),
        (error(403, "M_FORBIDDEN"), 86_400_000, [18_000]),
        (
            error(
                400,
                "M_UNKNOWN",
                **{"org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED"},
                **MAXIMUM,
            ),
            None,
            [18_000, 10_000, 5_000],
        ),
        (
            error(400, "M_UNKNOWN", **{"org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED"}),
            None,
            [18_000, 9_000, 4_500],
        ),
    ],
)
def test_a_delay_that_stays_too_long_ends_without_a_guard(failure, max_delay_ms, delays):
    play = Play()
    play.join(max_delay_ms=max_delay_ms)
    play.answer()
    asked = []
    while isinstance(play.effect, ScheduleLeave):
        asked.append(play.effect.delay_ms)
        play.answer(failure)
    assert asked == delays
    assert isinstance(play.effect, SendMembership)
    assert "no_dead_mans_switch" in play.conditions
    assert play.settle() is State.JOINED


def test_the_named_maximum_is_taken_and_the_restarts_scale():
    play = Play()
    play.join()
    play.answer()
    assert play.answer(error(400, "M_MAX_DELAY_EXCEEDED", **MAXIMUM)).delay_ms == 10_000
    play.settle()
    assert play.machine.next_timer_s == pytest.approx(play.s + 4 * 10 / 18)
    assert play.conditions == {}


def test_the_shortest_delay_to_live_with_is_lived_with():
    play = joined(max_delay_ms=3_000)
    assert play.conditions == {}


def test_a_maximum_too_short_to_live_with():
    play = Play()
    play.join(max_delay_ms=2_000)
    assert "at most 2000 ms" in play.conditions["no_dead_mans_switch"].cause
    assert isinstance(play.answer(), SendMembership)
    play.settle()
    # It is not asked again: the maximum will not grow.
    assert play.machine.next_timer_s == play.s + 300
    assert isinstance(play.tick(), SendMembership)


def test_the_capability_lowers_the_delay_and_the_slowest_restart_is_one_second():
    play = joined(max_delay_ms=4_000)
    assert play.machine.next_timer_s == play.s, "a second after the last"
