"""The machine of one delegated leave: keep it from firing while its participant is there, then send it.

In: inputs (`joined`, `left`, `looked`, `answered`, `timer`...), each with the time, that give back what to
do; which state follows which is in `rules`. Out: IO, clocks, randomness: all are inputs. MSC4140 (text of
2026-07-10) has the delayed events, MSC4195 (text of 2026-09) the delegation.

Three things go on beside each other, each with at most one request under way: the participant is looked
up, the delayed event is restarted, and in the end sent. A change of state forgets the requests that no
longer matter: a late result changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from rtcfoci.core.model import Now
from rtcfoci_livekit_auth.delegation.model import Answer, Leave, Phase, Record, Verdict
from rtcfoci_livekit_auth.delegation.rules import (
    CONFIRM_S,
    FINAL,
    INTENT_GRACE_S,
    LONGEST_S,
    RESTART_AT,
    URGENT_AT,
    Given,
    Rules,
    State,
    backoff_s,
)

__all__ = ["Effect", "Finished", "Job", "Keep", "Look", "Restart", "Send"]

CERTAIN = frozenset({"PARTICIPANT_REMOVED", "ROOM_CLOSED", "ROOM_DELETED"})
"""LiveKit's reasons after which nobody comes back by itself. All others mean: check. A session also ends
with DUPLICATE_IDENTITY and MIGRATION while its successor is connecting."""
INTENT = "CLIENT_INITIATED"


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the SFU whether the participant is there; `looked` takes the answer."""

    id: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Set the homeserver's timer to the whole delay again; `answered` takes the answer."""

    id: int
    urgent_s: float
    """From when on this goes before every leave."""


@dataclass(frozen=True, slots=True)
class Send:
    """Have the homeserver send the leave now; `answered` takes the answer."""

    id: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Write `Job.record` to the store."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Drop the job; delete its record too, unless it was replaced."""

    state: State


Effect = Look | Restart | Send | Keep | Finished


class Job:
    """One leave. Every input gives back effects; `next_timer_s` says when to call `timer`."""

    __slots__ = (
        "_call_due_s",
        "_calling",
        "_check_until_s",
        "_confirm_until_s",
        "_created_ts_ms",
        "_deadline_s",
        "_ended_sid",
        "_ids",
        "_look_due_s",
        "_look_tries",
        "_looking",
        "_outputs",
        "_phase",
        "_restarted_s",
        "_restarted_ts_ms",
        "_rules",
        "_sid",
        "_state",
        "_tries",
        "_wait_until_s",
        "armed_s",
        "leave",
    )

    def __init__(self, rules: Rules, leave: Leave, now: Now) -> None:
        """Wait for the participant; call `timer` at once for the first effects."""
        self._rules = rules
        self.leave: Leave = leave
        self.armed_s: float = inf
        """When the driver's clock will come to this job; the driver's own note."""
        self._state, self._phase = State.WAITING, Phase.WAITING
        self._created_ts_ms = self._restarted_ts_ms = now.ts_ms
        self._ids = self._looking = self._calling = self._tries = self._look_tries = 0
        self._sid = self._ended_sid = ""
        self._restarted_s = self._look_due_s = now.s
        self._deadline_s = now.s + leave.delay_s
        self._call_due_s = now.s + RESTART_AT * leave.delay_s
        self._wait_until_s = now.s + min(LONGEST_S, leave.delay_s)
        self._check_until_s = self._confirm_until_s = inf
        self._outputs: tuple[Effect, ...] = ()

    @classmethod
    def restored(cls, rules: Rules, record: Record, now: Now) -> Job | None:
        """Take up a job of an earlier process; None if it is invalid, or expired by the original's rules."""
        leave = record.leave
        if leave.delay_ms <= 0 or not leave.delay_id or not leave.server_name:
            return None
        left_ms = record.restarted_ts_ms + leave.delay_ms - now.ts_ms
        if not rules.settings.remember:
            if left_ms <= 0:
                return None
            job = cls(rules, leave, now)
            job._restarted_ts_ms = record.restarted_ts_ms
            return job
        job = cls(rules, leave, now)
        job._created_ts_ms, job._restarted_ts_ms = record.created_ts_ms, record.restarted_ts_ms
        job._phase = record.phase
        waited_s = max(0, now.ts_ms - record.created_ts_ms) / 1000
        job._wait_until_s = max(now.s, job._wait_until_s - waited_s)
        if 0 < left_ms <= leave.delay_ms:
            job._restarted_s = now.s + left_ms / 1000 - leave.delay_s
            job._deadline_s = now.s + left_ms / 1000
            job._call_due_s = job._restarted_s + RESTART_AT * leave.delay_s
        else:
            # Overdue, or set in the future: the clock was changed, or we were away for long. Only the
            # homeserver knows whether the leave has fired.
            job._restarted_s = now.s - leave.delay_s
            job._deadline_s = now.s + min(leave.delay_s, CONFIRM_S)
            job._call_due_s = now.s
        if record.phase is Phase.CONNECTED:
            job._state = State.CONNECTED
        elif record.phase is Phase.LEAVING:
            if rules.settings.confirm_leaves:
                # What the SFU said while we were away is lost: they may be back.
                job._state = State.CHECKING
                job._look_due_s = job._check_until_s = now.s + INTENT_GRACE_S
                job._confirm_until_s = job._check_until_s + CONFIRM_S
            else:
                job._enter(State.LEAVING, now)
        return job

    def __repr__(self) -> str:
        return f"<Job {self._state.value} {self.leave.room} {self.leave.identity}>"

    @property
    def state(self) -> State:
        """What it is about."""
        return self._state

    @property
    def record(self) -> Record:
        """What to keep of it."""
        return Record(
            leave=self.leave,
            restarted_ts_ms=self._restarted_ts_ms,
            created_ts_ms=self._created_ts_ms,
            phase=self._phase,
        )

    @property
    def next_timer_s(self) -> float:
        """Monotonic time at which `timer` is due; infinite while only an answer is awaited."""
        if self._state in FINAL:
            return inf
        due_s = inf if self._looking else self._look_due_s
        if not self._calling and (self._guarding or self._state is State.LEAVING):
            due_s = min(due_s, self._call_due_s)
            if self._guarding:
                due_s = min(due_s, self._deadline_s)
        if self._state is State.WAITING:
            due_s = min(due_s, self._wait_until_s)
        return due_s

    def wants(self, request_id: int) -> bool:
        """Tell whether the answer to this look-up, restart or send still matters."""
        return request_id in (self._calling, self._looking)

    @property
    def settling(self) -> bool:
        """Whether the participant is gone for sure, as far as we know, and the leave not yet sent."""
        return self._state not in FINAL and self._phase is Phase.LEAVING

    # What the SFU says.

    def joined(self, now: Now, sid: str) -> tuple[Effect, ...]:
        """Learn that a session of the participant is there."""
        if not sid or sid != self._ended_sid:  # Webhooks may come late and out of order.
            self._sid = sid
            self._take(Given.SEEN, now)
        return self._advance(now)

    def left(
        self, now: Now, *, sid: str, reason: str, created_ts_ms: int = 0
    ) -> tuple[Effect, ...]:
        """Learn that a session of the participant ended.

        :param reason: LiveKit's name of it.
        :param created_ts_ms: when it was reported, by the SFU's clock in whole seconds; 0 if unknown.
        """
        intent = reason == INTENT
        before_us = 0 < created_ts_ms < self._created_ts_ms - 1000
        if intent and before_us and self._state is State.WAITING:
            return self._advance(now)  # The participant of an earlier job: ours is yet to connect.
        if self._rules.settings.confirm_leaves:
            superseded = sid and self._sid and sid != self._sid
            if superseded and self._state is State.CONNECTED:
                # Another session is there, or was: that is no leave, but a reason to look.
                self._look_due_s = now.s
                return self._advance(now)
            if sid != self._ended_sid:  # The end of yet another session: its grace begins now.
                self._check_until_s = self._confirm_until_s = inf
            if reason != "MIGRATION":
                self._ended_sid = sid  # A session that migrates goes on under its id.
        given = Given.LEFT_BY_INTENT if intent else Given.LOST
        self._accuse(given, now, sure=intent or reason in CERTAIN)
        return self._advance(now)

    def room_finished(self, now: Now) -> tuple[Effect, ...]:
        """Learn that the room is gone from the SFU, with whoever was in it."""
        if self._state in (State.CONNECTED, State.CHECKING):
            self._accuse(Given.LOST, now, sure=True)
        return self._advance(now)

    def looked(
        self, now: Now, look_id: int, found: bool | None, *, sid: str = "", chance: float = 0.5
    ) -> tuple[Effect, ...]:
        """Take the SFU's answer to a look-up.

        :param found: None if there was no answer.
        :param chance: from 0 to 1; spreads the next try.
        """
        if look_id != self._looking:
            return ()
        self._looking = 0
        self._look_tries += 1
        interval_s = self._rules.settings.sanity_interval_s or inf
        if found and sid and sid == self._ended_sid:
            found = None  # It still shows the session whose end it reported.
            if now.s >= self._confirm_until_s:
                self._ended_sid, found = "", True
        if self._state is State.CHECKING:
            self._checked(now, found, sid, chance)
        elif found:
            self._look_tries, self._sid = 0, sid
            self._look_due_s = now.s + interval_s
            self._take(Given.SEEN, now)
        elif found is None or self._state is State.WAITING:
            self._look_due_s = now.s + min(interval_s, backoff_s(self._look_tries, chance))
        else:
            self._look_due_s = inf
            self._accuse(Given.ABSENT, now, sure=False)
        return self._advance(now)

    # What the homeserver says.

    def answered(
        self, now: Now, call_id: int, answer: Answer, *, chance: float = 0.5
    ) -> tuple[Effect, ...]:
        """Take the homeserver's answer to a restart or a send."""
        if call_id != self._calling:
            return ()
        self._calling = 0
        if self._state is State.LEAVING:
            if answer.verdict in (Verdict.DONE, Verdict.MISSING):
                self._take(Given.SENT, now)
            elif not self._again(now, answer, chance):
                self._take(Given.SPENT, now)
        elif answer.verdict is Verdict.DONE:
            self._tries = 0
            self._restarted_s, self._restarted_ts_ms = now.s, now.ts_ms
            self._deadline_s = now.s + self.leave.delay_s
            self._call_due_s = now.s + RESTART_AT * self.leave.delay_s
            self._outputs += (Keep(),)
        elif answer.verdict is Verdict.MISSING:
            self._take(Given.MISSING, now)
        elif not (
            (answer.verdict is Verdict.NOWHERE and self._take(Given.NOWHERE, now))
            or self._again(now, answer, chance)
        ):
            self._take(Given.LATE, now)
        return self._advance(now)

    # What the driver says.

    def timer(self, now: Now) -> tuple[Effect, ...]:
        """Do what is due."""
        return self._advance(now)

    def clock_jumped(self, now: Now) -> tuple[Effect, ...]:
        """Learn that the clocks disagree about how much time has passed: restart to be sure."""
        self._call_due_s = min(self._call_due_s, now.s)
        return self._advance(now)

    def replace(self, now: Now) -> tuple[Effect, ...]:
        """Learn that somebody else sees to the participant."""
        if self._state not in FINAL:
            self._enter(State.REPLACED, now)
        return self._advance(now)

    # How it goes on.

    @property
    def _guarding(self) -> bool:
        """Whether the delayed event is kept from firing."""
        return self._state in (State.CONNECTED, State.CHECKING) or (
            self._state is State.WAITING and self._rules.settings.restart_while_waiting
        )

    def _take(self, given: Given, now: Now) -> bool:
        target = self._rules.table.get(self._state, {}).get(given)
        if target is None:
            return False
        if target is not self._state:
            self._enter(target, now)
        return True

    def _enter(self, target: State, now: Now) -> None:
        source, self._state = self._state, target
        self._looking = self._look_tries = 0
        settings = self._rules.settings
        match target:
            case State.CONNECTED:
                self._look_due_s = now.s + (settings.sanity_interval_s or inf)
                self._mark(Phase.CONNECTED)
                if source is not State.CHECKING:
                    self._deadline_s = now.s + self.leave.delay_s
                    self._call_due_s = now.s
                if source is State.LEAVING:  # The send may have been late; the restart will tell.
                    self._calling = self._tries = 0
            case State.CHECKING:
                self._look_due_s = self._check_until_s = self._confirm_until_s = inf
            case State.LEAVING:
                self._mark(Phase.LEAVING)
                self._look_due_s = inf
                self._calling = self._tries = 0
                self._call_due_s = now.s
                budget_s = min(LONGEST_S, max(1.0, self._deadline_s - now.s))
                self._deadline_s = now.s + budget_s
            case State.LEFT | State.LAPSED | State.REPLACED:
                self._looking = self._calling = 0
                self._outputs += (Finished(target),)

    def _accuse(self, given: Given, now: Now, *, sure: bool, told: bool = True) -> None:
        """Take that a session ended; where it is to be confirmed, say when.

        :param sure: whether its participant does not come back by itself.
        :param told: whether the SFU said so; if not, its silence proves nothing.
        """
        grace_s = self._rules.settings.reconnect_grace_s
        if self._state is State.WAITING:
            grace_s = 0.0
        elif sure:
            grace_s = INTENT_GRACE_S if given is Given.LEFT_BY_INTENT else 0.0
        if self._take(given, now) and self._state is State.CHECKING:
            self._check_until_s = min(self._check_until_s, now.s + grace_s)
            patience_s = CONFIRM_S if told else LONGEST_S
            self._confirm_until_s = min(self._confirm_until_s, self._check_until_s + patience_s)
            if not self._looking:
                self._look_due_s = self._check_until_s
            if sure and told:
                self._mark(Phase.LEAVING)

    def _checked(self, now: Now, found: bool | None, sid: str, chance: float) -> None:
        """Weigh what the SFU says about a participant who is said to be gone."""
        wait_s = min(CONFIRM_S, backoff_s(self._look_tries, chance))
        if found:
            self._sid = sid
            self._take(Given.SEEN, now)
        elif now.s < self._check_until_s:
            self._look_due_s = self._check_until_s
        elif found is None and now.s < self._confirm_until_s:
            self._look_due_s = now.s + wait_s
        else:
            self._take(Given.CONFIRMED, now)

    def _again(self, now: Now, answer: Answer, chance: float) -> bool:
        """Plan the next try of a restart or send; false if it would come too late."""
        self._tries += 1
        wait_s = answer.retry_after_s
        if wait_s is None:
            wait_s = backoff_s(self._tries, chance)
        if self._rules.settings.doubt_answers:
            wait_s = min(wait_s, max(1.0, (self._deadline_s - now.s) / 2))
        self._call_due_s = now.s + max(0.1, wait_s)
        return self._call_due_s < self._deadline_s

    def _mark(self, phase: Phase) -> None:
        if self._phase is not phase:
            self._phase = phase
            if self._rules.settings.remember:
                self._outputs += (Keep(),)

    def _advance(self, now: Now) -> tuple[Effect, ...]:
        if self._state is State.WAITING and now.s >= self._wait_until_s:
            self._accuse(Given.WAITED, now, sure=True, told=False)
        if self._guarding and not self._calling and now.s >= self._deadline_s:
            self._take(Given.LATE, now)
        if self._state not in FINAL:
            if not self._calling and now.s >= self._call_due_s:
                self._call()
            if not self._looking and now.s >= self._look_due_s:
                self._ids += 1
                self._looking = self._ids
                self._outputs += (Look(self._ids),)
        outputs, self._outputs = self._outputs, ()
        return outputs

    def _call(self) -> None:
        if self._guarding:
            self._ids += 1
            self._calling = self._ids
            urgent_s = self._restarted_s + URGENT_AT * self.leave.delay_s
            self._outputs += (Restart(self._ids, urgent_s),)
        elif self._state is State.LEAVING:
            self._ids += 1
            self._calling = self._ids
            self._outputs += (Send(self._ids),)
