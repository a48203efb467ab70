"""The lifecycle machine against a homeserver that answers anything to anything, and tells anything by sync.

What it still promises: nothing raises, one request at a time, no hot loop, no secret in what it shows, and
that leaving ends, whatever is answered. (What it achieves with honest servers is in `test_lifecycle_model`.)
"""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtcfoci.core.conditions import KINDS
from rtcfoci.core.effects import (
    ANSWERS,
    ClearCondition,
    Done,
    Effect,
    Failure,
    Listed,
    Outcome,
    RaiseCondition,
    Scheduled,
    SendMembership,
    Sent,
)
from rtcfoci.core.lifecycle import Goal, Lifecycle, State
from rtcfoci.core.model import Now
from tests.core.playing import SECRET, STATE, STICKY, Held, Writer

FAILURES = [outcome for outcome in Outcome if outcome is not Outcome.OK]
TERMINAL = (State.LEFT, State.LEAVE_FAILED, State.REVOKED, State.IDLE)
event_ids = st.sampled_from(["$1", "$2", "$3", ""])
stamps_ms = st.sampled_from([0, 1, 1_700_000_000_000, -(2**53), 2**53])
delay_ids = st.sampled_from([f"{SECRET}{n}" for n in range(3)] + [""])
held_events = st.builds(
    Held,
    delay_id=delay_ids,
    type=st.sampled_from(["call.member", "rtc.member", "else"]),
    state_key=st.sampled_from([None, "", STATE.key]),
    content=st.sampled_from([{}, {"sticky_key": STICKY.key}, {"x": [1]}]),
    mine=st.booleans(),
)
failures = st.builds(
    Failure,
    outcome=st.sampled_from(FAILURES),
    cause=st.just("why"),
    # The client layer lets through what is an integer of milliseconds, however large.
    retry_after_s=st.none() | st.sampled_from([0.0, 0.001, 1.0, 60.0, 2.0**53]),
    max_delay_ms=st.none() | st.sampled_from([1, 2999, 3000, 17_999, 2**63]),
)
successes = {
    Done: st.just(Done()),
    Sent: st.builds(Sent, event_id=event_ids),
    Scheduled: st.builds(Scheduled, delay_id=delay_ids),
    Listed: st.builds(Listed, events=st.lists(held_events, max_size=4).map(tuple)),
}


class Hostile(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.machine = Lifecycle()
        self.s = 1000.0
        self.flying = None
        self.conditions = set()
        self.writer = STATE
        self.joins = 0
        self.began_s = []
        """When requests were made."""

    @property
    def now(self):
        return Now(self.s, int(self.s * 1000))

    def take(self, outputs):
        assert SECRET not in repr((self.machine, outputs))
        for output in outputs:
            match output:
                case RaiseCondition():
                    assert output.code in KINDS
                    self.conditions.add(output.code)
                case ClearCondition():
                    self.conditions.remove(output.code)
                case Effect():
                    assert self.flying is None
                    assert 0 < output.timeout_s < inf
                    self.flying = output
                    self.began_s.append(self.s)

    # Rules.

    @rule(writer=st.sampled_from([STATE, STICKY]), delayed=st.booleans(), most=stamps_ms)
    @precondition(lambda self: self.machine.goal in (Goal.NONE, Goal.ENDED))
    def join(self, writer, delayed, most):
        if self.machine.state is State.LEAVE_FAILED:
            writer = self.writer
        self.writer = writer
        self.joins += 1
        self.take(
            self.machine.join(
                self.now,
                writer,
                txn_prefix=f"t{self.joins}",
                delayed_events=delayed,
                max_delay_ms=most if most > 1 else None,
            )
        )

    @rule(data=st.integers(0, 3))
    @precondition(lambda self: self.machine.goal is Goal.IN)
    def update(self, data):
        writer = Writer(self.writer.key, self.writer.sticky, data)
        self.take(self.machine.update(self.now, writer))

    @rule()
    def leave(self):
        self.take(self.machine.leave(self.now))

    @rule()
    @precondition(lambda self: self.machine.goal is Goal.IN)
    def evict(self):
        self.take(self.machine.evicted(self.now))

    @rule(event_id=event_ids, ts_ms=stamps_ms)
    def see(self, event_id, ts_ms):
        self.take(self.machine.seen(self.now, event_id, created_ts_ms=ts_ms))

    @rule()
    def be_gone(self):
        self.take(self.machine.gone(self.now))

    @rule(back=st.booleans())
    def connect(self, back):
        if back:
            self.take(self.machine.online(self.now))
        else:
            self.take(self.machine.offline(self.now, "no sync"))

    @rule(data=st.data(), after_s=st.sampled_from([0.0, 0.05, 5.0, 40.0]))
    @precondition(lambda self: self.flying is not None)
    def answer(self, data, after_s):
        self.reply(data.draw(failures | successes[ANSWERS[type(self.flying)]]), after_s)

    def reply(self, result, after_s=0.0):
        effect, self.flying = self.flying, None
        self.s += after_s
        self.take(self.machine.result(self.now, effect.id, result))

    @rule(data=st.data())
    @precondition(lambda self: self.flying is not None)
    def answer_the_same_for_long(self, data):
        """Whatever is answered at once, again and again, it is not asked hot."""
        answers = {
            kind: data.draw(failures | successes[ANSWERS[kind]], label=kind.__name__)
            for kind in ANSWERS
        }
        begin, until_s = len(self.began_s), self.s + 10
        while self.flying is not None or self.sleeps_until(until_s):
            if self.flying is not None:
                self.reply(answers[type(self.flying)])
            assert len(self.began_s) - begin < 150, "hot loop"

    def sleeps_until(self, until_s):
        timer_s = self.machine.next_timer_s
        if timer_s is None or timer_s > until_s:
            return False
        assert self.flying is None
        self.s = max(self.s, timer_s)
        self.take(self.machine.timer(self.now))
        return True

    @rule()
    @precondition(lambda self: self.flying is None)
    def sleep(self):
        timer_s = self.machine.next_timer_s
        if timer_s is not None and timer_s < inf:
            self.s = max(self.s, timer_s)
        self.take(self.machine.timer(self.now))

    @rule(data=st.data())
    def leave_and_be_done(self, data):
        """It ends, by whatever is answered, within the time that it has and one request."""
        self.take(self.machine.leave(self.now))
        until_s = self.s + 10 + 5
        while self.machine.state not in TERMINAL:
            if self.flying is not None:
                answer = data.draw(failures | successes[ANSWERS[type(self.flying)]])
                self.reply(answer, min(5.0, self.flying.timeout_s))
            else:
                assert self.sleeps_until(until_s), "it sleeps for longer than it has"
        assert self.s <= until_s
        assert self.machine.next_timer_s is None

    @rule()
    def revoke(self):
        self.take(self.machine.token_revoked(self.now, "logged out"))

    # What holds always.

    @invariant()
    def somebody_moves_it(self):
        """It waits for an answer, for a time, or for us; never for a time that does not come."""
        timer_s = self.machine.next_timer_s
        if self.flying is not None:
            assert timer_s is None
        elif self.machine.goal in (Goal.IN, Goal.OUT):
            assert timer_s is not None
        else:
            assert timer_s is None
            assert self.machine.state in TERMINAL

    @invariant()
    def what_is_over_is_said(self):
        if self.machine.state is State.LEAVE_FAILED:
            assert "leave_failed" in self.conditions
        if self.machine.state is State.REVOKED:
            # The first reason for which it ended stays.
            assert self.conditions & {"token_revoked", "membership_refused"}
        if self.machine.state is State.LEFT:
            assert not self.conditions - {"membership_refused", "homeserver_unreachable"}
        if isinstance(self.flying, SendMembership):
            assert self.machine.goal in (Goal.IN, Goal.OUT, Goal.REVOKED)


TestHostile = Hostile.TestCase
TestHostile.settings = settings(max_examples=150, stateful_step_count=40)
