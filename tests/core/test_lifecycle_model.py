"""The lifecycle machine against a small model of a homeserver that fails in every way Hypothesis finds.

The model has one room, state and sticky memberships and delayed events; it goes down, loses requests or
only their answers, limits, and lets moderators wipe our membership. Processes crash and come back.
"""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rtcfoci.core.dialects import OwnEvent
from rtcfoci.core.effects import (
    CancelLeave,
    ClearCondition,
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
from rtcfoci.core.lifecycle import Goal, Lifecycle, LifecycleConfig, State
from rtcfoci.core.model import Now
from tests.core.playing import Writer

LATENCY_S = 0.05
GUARD_S = 18.0
# Shorter lives than usual: the same happens in less time.
CONFIG = LifecycleConfig(lifetime_ms=600_000, unguarded_lifetime_ms=120_000)


def key_of(event):
    return event.state_key or event.content["sticky_key"]


def is_leave(event):
    return "data" not in event.content


@dataclass
class Held:
    delay_id: str
    event: OwnEvent
    delay_s: float
    fires_s: float
    owner: int
    mine: bool = True
    """As its writer judges by its content; there is but one user here."""

    @property
    def type(self):
        return self.event.type

    @property
    def state_key(self):
        return self.event.state_key

    @property
    def content(self):
        return self.event.content


@dataclass
class Homeserver:
    delayed: bool
    lists: bool
    up: bool = True
    limits: dict = field(default_factory=dict)
    """Kind of effect -> until when it is limited."""
    members: dict = field(default_factory=dict)
    """Key -> the process that is a member by it."""
    expiry_s: dict = field(default_factory=dict)
    held: dict = field(default_factory=dict)
    log: deque = field(default_factory=deque)
    """What sync has not told yet: (key, event id, is leave, time)."""
    answers: dict = field(default_factory=dict)
    count: int = 0
    harmed: list = field(default_factory=list)
    """Keys of memberships that the leave of an earlier process removed."""

    def fire(self, now_s):
        for held in sorted(self.held.values(), key=lambda held: held.fires_s):
            if self.up and held.fires_s <= now_s:
                del self.held[held.delay_id]
                self.put(held.event, held.owner, now_s)
        for key in [key for key in self.members if self.expiry_s[key] <= now_s]:
            del self.members[key]

    def put(self, event, owner, now_s, txn_id=None):
        if txn_id in self.answers:
            return self.answers[txn_id]
        key = key_of(event)
        self.count += 1
        if is_leave(event):
            if self.members.pop(key, owner) > owner:
                self.harmed.append(key)
        else:
            self.members[key] = owner
            created_s = event.content.get("created", now_s * 1000) / 1000
            sticky = event.sticky_duration_ms
            expires_s = created_s + event.content["expires"] / 1000
            self.expiry_s[key] = expires_s if sticky is None else now_s + sticky / 1000
        self.log.append((key, f"${self.count}", is_leave(event), now_s))
        if txn_id:
            self.answers[txn_id] = f"${self.count}"
        return f"${self.count}"

    def wipe(self, key, now_s):
        """Do what another sender's state event does, at Synapse 1.163.2."""
        if self.members.pop(key, None) is not None:
            self.count += 1
            self.log.append((key, f"${self.count}", True, now_s))
            self.held = {i: held for i, held in self.held.items() if held.state_key != key}

    def handle(self, effect, owner, now_s):
        self.fire(now_s)
        until_s = self.limits.get(type(effect), 0.0)
        if now_s < until_s:
            return Failure(
                outcome=Outcome.RATE_LIMITED, cause="limited", retry_after_s=until_s - now_s
            )
        match effect:
            case ListDelayed():
                if not self.lists:
                    return Failure(outcome=Outcome.UNRECOGNIZED, cause="no list")
                return Listed(events=tuple(self.held.values()))
            case ScheduleLeave():
                if not self.delayed:
                    return Failure(outcome=Outcome.FORBIDDEN, cause="off")
                if effect.event.state_key is None and effect.txn_id in self.answers:
                    return Scheduled(delay_id=self.answers[effect.txn_id])
                self.count += 1
                delay_id = self.answers[effect.txn_id] = f"d{self.count}"
                delay_s = effect.delay_ms / 1000
                self.held[delay_id] = Held(delay_id, effect.event, delay_s, now_s + delay_s, owner)
                return Scheduled(delay_id=delay_id)
            case SendMembership():
                return Sent(event_id=self.put(effect.event, owner, now_s, effect.txn_id))
            case SendLeave():
                return Sent(event_id=self.put(effect.event, owner, now_s, effect.txn_id))
        if (held := self.held.get(effect.delay_id)) is None:
            return Failure(outcome=Outcome.GONE, cause="gone")
        match effect:
            case RestartLeave():
                held.fires_s = now_s + held.delay_s
            case CancelLeave():
                del self.held[effect.delay_id]
            case SendHeldLeave():
                del self.held[effect.delay_id]
                self.put(held.event, held.owner, now_s)
        return Done()


mostly = st.sampled_from([True, True, True, False])


class World(RuleBasedStateMachine):
    """Any order of calm, outages, limits, wipes, crashes, joins, updates and leaves."""

    @initialize(sticky=st.booleans(), delayed=mostly, lists=mostly)
    def begin(self, sticky, delayed, lists):
        self.s = 1000.0
        self.sticky = sticky
        self.hs = Homeserver(delayed, lists)
        self.network = "good"
        self.processes = 0
        self.wiped_s = -1000.0
        self.emitted = deque()
        self.orphans = False
        self.start()

    def start(self):
        self.processes += 1
        self.machine = Lifecycle(CONFIG)
        self.flying = None
        self.joins = 0
        self.writer = None
        self.conditions = set()

    @property
    def now(self):
        return Now(self.s, int(self.s * 1000))

    # Running.

    def take(self, outputs):
        for output in outputs:
            match output:
                case RaiseCondition():
                    self.conditions.add(output.code)
                case ClearCondition():
                    self.conditions.remove(output.code)
                case Effect():
                    assert self.flying is None
                    if isinstance(output, SendMembership) and self.hs.delayed:
                        assert self.machine.guarded, "a membership is sent without a delayed leave"
                        # What cannot be listed may have fired before its id is known; a restart follows.
                        told = self.really_guarded or self.orphans
                        assert told, "it was not asked whether it is still held"
                    self.emitted.append(self.s)
                    self.launch(output)

    def launch(self, effect):
        """Decide the fate of a request now; its answer comes later."""
        owner = self.processes
        lost = Failure(outcome=Outcome.UNREACHABLE, cause="silence")
        match self.network:
            case "good":
                result, after_s = self.hs.handle(effect, owner, self.s), LATENCY_S
            case "refused":
                result, after_s = lost, 0.01
            case "hangs":
                result, after_s = lost, effect.timeout_s
            case _:
                answer = self.hs.handle(effect, owner, self.s)
                if isinstance(effect, ScheduleLeave) and isinstance(answer, Scheduled):
                    # Nobody knows its id; where it can be listed it will be found.
                    self.orphans |= not self.hs.lists
                result, after_s = lost, effect.timeout_s
        self.flying = (effect, result, self.s + after_s)

    def run(self, for_s):
        until_s = self.s + for_s
        for _ in range(20_000):
            due = [until_s]
            if self.flying is not None:
                due.append(self.flying[2])
            elif self.machine.next_timer_s is not None:
                due.append(self.machine.next_timer_s)
            if self.hs.log and self.network == "good":
                due.append(self.hs.log[0][3] + LATENCY_S)
            if self.hs.up and self.hs.held:
                due.append(min(held.fires_s for held in self.hs.held.values()))
            self.s = max(self.s, min(due))
            if self.s >= until_s:
                return
            self.step()
        raise AssertionError("never comes to rest")

    def step(self):
        self.hs.fire(self.s)
        if self.hs.log and self.network == "good" and self.hs.log[0][3] + LATENCY_S <= self.s:
            key, event_id, leave, ts_s = self.hs.log.popleft()
            if self.writer is not None and key == self.writer.key:
                if leave:
                    self.take(self.machine.gone(self.now))
                else:
                    ts_ms = int(ts_s * 1000)
                    self.take(self.machine.seen(self.now, event_id, created_ts_ms=ts_ms))
        elif self.flying is not None and self.flying[2] <= self.s:
            effect, result, _ = self.flying
            self.flying = None
            self.take(self.machine.result(self.now, effect.id, result))
        else:
            self.take(self.machine.timer(self.now))
        while self.emitted and self.emitted[0] < self.s - 1:
            self.emitted.popleft()
        # Not hot: the most that a second sees is a join with its clearing and the restart that follows.
        assert len(self.emitted) <= 8 + 2 * self.processes, "hot loop"

    @property
    def present(self):
        return self.writer is not None and self.writer.key in self.hs.members

    @property
    def really_guarded(self):
        """Whether our leave is held, or sync has yet to tell us what took it away."""
        self.hs.fire(self.s)
        held = [h for h in self.hs.held.values() if h.owner == self.processes]
        untold = [key for key, _, leave, _ in self.hs.log if leave]
        return self.writer.key in [key_of(h.event) for h in held] + untold

    @property
    def limited(self):
        waiting = any(until_s > self.s for until_s in self.hs.limits.values())
        return waiting or "rate_limited" in self.conditions

    @property
    def troubled(self):
        """Whether we may still be answering a moderator ever more slowly."""
        return self.s - self.wiped_s < 150

    # Rules.

    @property
    def may_join(self):
        """Not by a new sticky key while the one before may be there."""
        barred = self.sticky and self.machine.state is State.LEAVE_FAILED
        return self.machine.goal in (Goal.NONE, Goal.ENDED) and not barred

    @rule(data=st.integers(0, 3))
    @precondition(lambda self: self.may_join)
    def join(self, data):
        self.joins += 1
        key = f"member{self.processes}.{self.joins}" if self.sticky else "_@u:hs_DEV"
        self.writer = Writer(key, self.sticky, data)
        self.take(
            self.machine.join(
                self.now,
                self.writer,
                txn_prefix=f"{self.processes}.{self.joins}",
                delayed_events=self.hs.delayed,
            )
        )

    @rule(data=st.integers(0, 3))
    @precondition(lambda self: self.machine.goal is Goal.IN)
    def update(self, data):
        self.writer = Writer(self.writer.key, self.sticky, data)
        self.take(self.machine.update(self.now, self.writer))

    @rule()
    @precondition(lambda self: self.machine.goal is Goal.IN)
    def leave(self):
        self.take(self.machine.leave(self.now))

    @rule(for_s=st.sampled_from([0.01, 0.06, 0.11, 0.2, 1.0, 10.0, 40.0]))
    def calm(self, for_s):
        self.run(for_s)

    @rule()
    @precondition(lambda self: self.machine.goal is Goal.IN)
    def stay(self):
        """Several refreshes later we are still a member, and guarded."""
        self.run(200.0)
        for _ in range(2):
            self.run(350.0)
            assert self.machine.joined
            assert self.present
            assert self.machine.guarded is self.hs.delayed
            assert len(self.hs.held) == self.hs.delayed
            assert not self.conditions - {"no_dead_mans_switch"}

    @rule(
        kind=st.sampled_from(["refused", "hangs", "half"]),
        for_s=st.sampled_from([0.1, 1.0, 4.0, 15.0, 25.0, 100.0]),
        told=st.booleans(),
    )
    def outage(self, kind, for_s, told):
        self.network, self.hs.up = kind, kind == "half"
        if told:
            self.take(self.machine.offline(self.now, "no sync"))
        self.run(for_s)
        self.network, self.hs.up = "good", True
        self.hs.fire(self.s)
        if told:
            self.take(self.machine.online(self.now))
        if self.machine.goal is Goal.IN and not (self.limited or self.orphans or self.troubled):
            # What hangs is given up after 5 s at most, and 2 s when we know that nobody is there.
            self.run(5.0 if for_s >= 4 else 7.0)
            assert self.machine.joined
            assert self.present

    @rule(
        kind=st.sampled_from(
            [ScheduleLeave, SendMembership, RestartLeave, ListDelayed, SendHeldLeave]
        ),
        for_s=st.sampled_from([1.0, 6.0, 30.0]),
    )
    def limit(self, kind, for_s):
        self.hs.limits[kind] = self.s + for_s

    @rule()
    def wipe(self):
        if self.present and not self.sticky:
            self.wiped_s = self.s
            self.hs.wipe(self.writer.key, self.s)

    @rule(back=mostly, data=st.integers(0, 3))
    def crash(self, back, data):
        """Die at any point, and perhaps be back at once; a request under way has had its fate."""
        self.start()
        self.hs.log.clear()
        if back:
            self.join(data)

    @rule()
    @precondition(lambda self: self.hs.delayed)
    def crash_for_good(self):
        """Once things were calm, nobody who dies stays for longer than the delay."""
        self.run(100.0)
        self.start()
        self.run(GUARD_S + 1)
        assert not self.hs.members
        assert not self.hs.held

    @rule()
    @precondition(lambda self: not (self.limited or self.orphans))
    def leave_for_good(self):
        """Leave at any point, with the homeserver well: soon nothing is left, also no delayed leave."""
        self.take(self.machine.leave(self.now))
        self.run(9.0)
        if self.machine.state is State.LEAVE_FAILED:  # its time ran out in an outage before
            self.take(self.machine.leave(self.now))
            self.run(9.0)
        assert self.machine.state is State.LEFT
        assert self.processes not in self.hs.members.values()
        assert self.processes not in {held.owner for held in self.hs.held.values()}

    # Invariants.

    @invariant()
    def left_means_left(self):
        if getattr(self, "machine", None) and self.machine.state is State.LEFT:
            assert self.processes not in self.hs.members.values()

    @invariant()
    def stale_leaves_harm_nobody(self):
        if not getattr(self, "orphans", True) and self.hs.lists:
            assert not self.hs.harmed

    @invariant()
    def a_calm_member_is_guarded_and_present(self):
        if not getattr(self, "machine", None) or self.flying is not None:
            return
        if self.machine.state is State.JOINED and self.machine.joined and self.hs.delayed:
            assert self.machine.guarded


World.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWorld = pytest.mark.timeout(300)(World.TestCase)
