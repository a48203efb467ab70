"""The lifecycle machine against scripted answers: its tables, and every generation and error of MSC4140."""

from dataclasses import dataclass, replace

import pytest

from rtcfoci.core.beliefs import DUTIES, OUTCOMES
from rtcfoci.core.conditions import KINDS
from rtcfoci.core.dialects import OwnEvent
from rtcfoci.core.effects import (
    CancelLeave,
    Done,
    Effect,
    Failure,
    ListDelayed,
    Listed,
    Outcome,
    RaiseCondition,
    RestartLeave,
    Scheduled,
    ScheduleLeave,
    SendHeldLeave,
    SendLeave,
    SendMembership,
    Sent,
)
from rtcfoci.core.lifecycle import Lifecycle, LifecycleConfig
from rtcfoci.core.model import Now
from rtcfoci.core.phases import BUDGETS, INPUTS, Goal, Input, State
from rtcfoci.errors import ClientError, LocalProtocolError, UnreachableError, UsageError

SECRET = "syd_secret"
START_TS_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Held:
    delay_id: str
    type: str
    state_key: str | None
    content: dict
    mine: bool = True


@dataclass(frozen=True)
class Writer:
    """Both kinds of dialect in a few lines."""

    key: str = "_@u:hs_DEV"
    sticky: bool = False
    data: str = ""

    def _event(self, content):
        if self.sticky:
            content = {**content, "sticky_key": self.key}
            return OwnEvent(type="rtc.member", content=content, sticky_duration_ms=3_600_000)
        return OwnEvent(type="call.member", content=content, state_key=self.key)

    def join(self, *, lifetime_ms):
        return self._event({"data": self.data, "expires": lifetime_ms})

    def refresh(self, *, created_ts_ms, now_ts_ms, lifetime_ms):
        expires = now_ts_ms - created_ts_ms + lifetime_ms
        return self._event({"data": self.data, "created": created_ts_ms, "expires": expires})

    def leave(self):
        return self._event({})

    def owns(self, held):
        return held.mine


STATE, STICKY = Writer(), Writer("uuid", sticky=True)
BOTH = pytest.mark.parametrize("writer", [STATE, STICKY], ids=["state", "sticky"])


class Play:
    """A machine with a clock, the one effect under way, and the conditions it raised."""

    def __init__(self, **config):
        self.machine = Lifecycle(LifecycleConfig(**config))
        self.s = 100.0
        self.effect = None
        self.conditions = {}
        self.delays = 0
        self.events = 0

    @property
    def now(self):
        return Now(self.s, START_TS_MS + int(self.s * 1000))

    def take(self, outputs):
        for output in outputs:
            if isinstance(output, Effect):
                assert self.effect is None, "two effects at once"
                self.effect = output
            elif isinstance(output, RaiseCondition):
                assert output.code in KINDS
                self.conditions[output.code] = output
            else:
                del self.conditions[output.code]
        return self.effect

    def do(self, what, *args, **more):
        return self.take(getattr(self.machine, what)(self.now, *args, **more))

    def join(self, writer=STATE, *, delayed_events=True, max_delay_ms=None):
        return self.do(
            "join", writer, txn_prefix="t", delayed_events=delayed_events, max_delay_ms=max_delay_ms
        )

    def answer(self, result=None, after_s=0.0):
        """Answer the effect under way, well unless told otherwise."""
        effect, self.effect = self.effect, None
        self.s += after_s
        if result is None:
            match effect:
                case ListDelayed():
                    result = Listed(events=())
                case ScheduleLeave():
                    self.delays += 1
                    result = Scheduled(delay_id=f"{SECRET}{self.delays}")
                case SendMembership() | SendLeave():
                    self.events += 1
                    result = Sent(event_id=f"${self.events}")
                case _:
                    result = Done()
        return self.take(self.machine.result(self.now, effect.id, result))

    def fail(self, outcome, after_s=0.0, **more):
        return self.answer(Failure(outcome=outcome, cause="why", **more), after_s)

    def tick(self):
        """Sleep until the machine's own timer."""
        assert self.effect is None
        assert self.machine.next_timer_s >= self.s
        self.s = self.machine.next_timer_s
        return self.do("timer")

    def until(self, kind):
        """Answer well and sleep until an effect of this kind is under way."""
        for _ in range(30):
            if isinstance(self.effect, kind):
                return self.effect
            if self.effect is None:
                self.tick()
            else:
                self.answer()
        raise AssertionError(f"no {kind.__name__}")

    def settle(self):
        while self.effect is not None:
            self.answer()
        return self.machine.state


def joined(writer=STATE, config=None, **support):
    play = Play(**(config or {}))
    play.join(writer, **support)
    assert play.settle() is State.JOINED
    play.do("seen", f"${play.events}", created_ts_ms=play.now.ts_ms)
    assert play.machine.joined
    assert not set(play.conditions) - {"no_dead_mans_switch"}
    play.s += 1
    return play


# The tables.


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


def snapshot(play):
    return repr(sorted((k, v) for k, v in vars(play.machine).items() if "writer" not in k))


def test_results_must_match():
    play = Play()
    with pytest.raises(LocalProtocolError):
        play.do("result", 1, Done())
    play.join()
    before = snapshot(play)
    with pytest.raises(LocalProtocolError):
        play.do("result", play.effect.id + 1, Listed(events=()))
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


@pytest.mark.parametrize(
    "times",
    [
        {"leave_delay_ms": 2_000},
        {"restart_every_s": 10.0},
        {"restart_every_s": 0.5},
        {"lifetime_ms": 0},
        {"leave_timeout_s": 0.0},
    ],
)
def test_times_that_cannot_hold_are_refused(times):
    with pytest.raises(UsageError):
        LifecycleConfig(**times)


# Joining.


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


def error(status, errcode, **body):
    return Failure.of(ClientError("no", status=status, errcode=errcode, body=body))


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


MAXIMUM = {"org.matrix.msc4140.max_delay": 9_000}


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
            [18_000, 9_000, 4_500],
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
    assert play.answer(error(400, "M_MAX_DELAY_EXCEEDED", **MAXIMUM)).delay_ms == 9_000
    play.settle()
    assert play.machine.next_timer_s == play.s + 2
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


def test_the_join_time_is_the_servers_even_when_its_echo_comes_first():
    play = Play()
    play.join()
    play.until(SendMembership)
    play.do("seen", "$1", created_ts_ms=77)
    play.answer()
    play.do("update", replace(STATE, data="new"))
    assert play.until(SendMembership).event.content["created"] == 77


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
    play.until(RestartLeave)
    assert play.events == 1


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
