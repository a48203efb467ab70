"""The job machine against a model of a homeserver, an SFU and a store, in every order Hypothesis finds.

Sessions come and go and reconnect, webhooks are lost, late and repeated, either server goes silent, the
wall clock is set, and the process is killed and comes back from its record.
"""

from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rtcfoci_livekit_auth.delegation.job import Finished, Job, Keep, Look, Restart
from rtcfoci_livekit_auth.delegation.model import Answer, DelegationSettings, Leave, Verdict
from rtcfoci_livekit_auth.delegation.rules import CONFIRM_S, FINAL, Rules

from rtcfoci.core.model import Now

DELAY_S = 60.0
LATENCY_S = 0.05
GRACE_S = 10.0
REASONS = ("CLIENT_INITIATED", "DUPLICATE_IDENTITY", "SIGNAL_CLOSE", "PARTICIPANT_REMOVED")
"""The last one's participants do not come back."""


@dataclass
class Homeserver:
    """Holds one delayed event."""

    fires_s: float
    up: bool = True
    ended_s: float | None = None
    sent_by_us: bool = False

    def settle(self, now_s):
        if self.ended_s is None and now_s >= self.fires_s:
            self.ended_s = self.fires_s

    def handle(self, effect, now_s):
        self.settle(now_s)
        if not self.up:
            return Answer(Verdict.LATER)
        if self.ended_s is not None:
            return Answer(Verdict.MISSING)
        if isinstance(effect, Restart):
            self.fires_s = now_s + DELAY_S
        else:
            self.ended_s, self.sent_by_us = now_s, True
        return Answer(Verdict.DONE)


class World(RuleBasedStateMachine):
    """One participant, as careful as we can be."""

    @initialize(sanity=st.booleans(), connects=st.sampled_from([True, True, False]))
    def begin(self, sanity, connects):
        self.s, self.wall_ahead_s = 1000.0, 0.0
        self.rules = Rules(DelegationSettings.careful(sanity_interval_s=20.0 if sanity else 0.0))
        self.sanity = sanity
        self.hs = Homeserver(self.s + DELAY_S)
        self.sfu_up = True
        self.trouble_s = self.s
        """When the homeserver or we were last away."""
        self.session = 0
        self.there = False
        """Also in the moment that a reconnection takes."""
        self.between_sessions = False
        self.hooks = []
        self.in_flight = []
        self.alive = True
        self.over = None
        leave = Leave(
            room="r", identity="i", delay_id="d", delay_ms=int(DELAY_S * 1000), server_name="hs"
        )
        self.job = Job(self.rules, leave, self.now)
        self.record = self.job.record
        self.take(self.job.timer(self.now))
        if connects:
            self.connect(True)

    @property
    def now(self):
        return Now(self.s, int((self.s + 1e9 + self.wall_ahead_s) * 1000))

    # Running.

    def take(self, effects):
        for effect in effects:
            match effect:
                case Keep():
                    self.record = self.job.record
                case Finished(state):
                    self.over = state
                case _:
                    self.in_flight.append((self.s + LATENCY_S, effect))

    def step(self, until_s):
        """Let time pass, with everything that happens on the way, in its order."""
        while True:
            self.in_flight.sort(key=lambda pair: pair[0])
            due = [until_s, self.hs.fires_s if self.hs.ended_s is None else until_s]
            if self.alive:
                due.append(self.job.next_timer_s)
                due += [at for at, _ in self.in_flight[:1]]
            next_s = min(due)
            self.s = max(self.s, next_s)
            if not (self.alive and self.hs.up):
                self.trouble_s = self.s
            self.watch(self.hs.settle, self.s)
            if self.alive:
                while self.in_flight and self.in_flight[0][0] <= self.s:
                    self.answer(self.in_flight.pop(0)[1])
                self.take(self.job.timer(self.now))
                assert self.job.next_timer_s > self.s
            if self.s >= until_s:
                return

    def watch(self, act, *arguments):
        """Let the homeserver do something, and object to an early leave."""
        before_s = self.hs.ended_s
        result = act(*arguments)
        if before_s is None and self.hs.ended_s is not None and self.there:
            assert not self.hs.sent_by_us, "we sent the leave of somebody who is there"
            assert self.s - self.trouble_s <= DELAY_S, "nobody was away, and the leave fired"
        return result

    def answer(self, effect):
        if not self.job.wants(effect.id):
            return
        if isinstance(effect, Look):
            found = self.there and not self.between_sessions if self.sfu_up else None
            sid = f"PA_{self.session}" if found else ""
            self.take(self.job.looked(self.now, effect.id, found, sid=sid))
        else:
            answer = self.watch(self.hs.handle, effect, self.s)
            self.take(self.job.answered(self.now, effect.id, answer))

    # What happens.

    @rule(s=st.sampled_from([0.0, 0.5, 3.0, 9.0, 20.0, 45.0]))
    def pass_time(self, s):
        self.step(self.s + s)

    @precondition(lambda self: not self.session)
    @rule(heard=st.booleans())
    def connect(self, heard):
        self.there = True
        self.session += 1
        self.hook("joined", "", heard)

    @precondition(lambda self: self.there)
    @rule(reason=st.sampled_from(REASONS), heard=st.booleans())
    def leave(self, reason, heard):
        self.there = False
        self.hook("left", reason, heard)

    @precondition(lambda self: self.there)
    @rule(
        reason=st.sampled_from(REASONS[:3]),
        gap_s=st.sampled_from([0.0, 0.5, 1.0]),
        heard=st.booleans(),
    )
    def reconnect(self, reason, gap_s, heard):
        self.step(self.s + 25.0)  # What another one left open is settled.
        self.between_sessions = True
        self.hook("left", reason, heard)
        self.step(self.s + gap_s)
        self.between_sessions = False
        self.session += 1
        self.hook("joined", "", heard)

    def hook(self, kind, reason, heard):
        event = kind, f"PA_{self.session}", reason
        self.hooks.append(event)
        if heard:
            self.deliver(event)

    def deliver(self, event):
        if not self.alive or self.over:
            return
        kind, sid, reason = event
        if kind == "joined":
            self.take(self.job.joined(self.now, sid))
        else:
            self.take(self.job.left(self.now, sid=sid, reason=reason))

    @precondition(lambda self: self.hooks)
    @rule(data=st.data())
    def deliver_late_or_again(self, data):
        """Deliver any webhook at any time; the SFU that does answers questions too."""
        up, self.sfu_up = self.sfu_up, True
        self.deliver(data.draw(st.sampled_from(self.hooks)))
        self.step(self.s + 25.0)
        self.sfu_up = up

    @rule(up=st.booleans())
    def switch_homeserver(self, up):
        self.hs.up = up

    @rule(up=st.booleans())
    def switch_sfu(self, up):
        self.sfu_up = up

    @rule(by_s=st.sampled_from([-7200.0, -3.0, 3.0, 7200.0]))
    def set_the_wall_clock(self, by_s):
        self.wall_ahead_s += by_s
        if self.alive and not self.over:
            self.take(self.job.clock_jumped(self.now))

    @precondition(lambda self: self.alive)
    @rule(down_s=st.sampled_from([0.0, 2.0, 20.0, 100.0]))
    def kill_and_restart(self, down_s):
        self.alive = False
        self.in_flight = []
        self.step(self.s + down_s)
        self.alive = True
        if self.over:
            return
        self.job = Job.restored(self.rules, self.record, self.now)
        self.take(self.job.timer(self.now))
        self.step(self.s + 0.2)

    # What must hold.

    @invariant()
    def an_end_is_an_end(self):
        if self.over:
            assert self.job.state in FINAL
            assert self.job.next_timer_s > 1e300

    def teardown(self):
        """Let everything work again: then whoever is gone is made to leave, and whoever is there stays."""
        if not hasattr(self, "job"):
            return
        self.hs.up = self.sfu_up = True
        if self.there:
            self.step(self.s + 3 * DELAY_S)
            return
        self.step(self.s + 2 * DELAY_S + GRACE_S + CONFIRM_S + 60.0)
        if self.sanity or self.over or not self.session:
            assert self.hs.ended_s is not None, "a ghost stays"


World.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWorld = World.TestCase
