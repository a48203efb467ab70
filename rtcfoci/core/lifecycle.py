"""One's own membership: be in the slot, stay in it, and always be withdrawn from it.

In: the machine that turns "be a member, like this" and "leave" into requests to the homeserver, one at a
time, and learns from their results and from sync. Out: the requests as values (`effects`), the content
of the events (`dialects`), asyncio, HTTP, and kicks, bans and tombstones, which the driver sees.

How it works. The machine holds a *goal* and a few *beliefs* about the homeserver (may our membership be
in the room, which delayed leave is held, what of a crashed process is left over). Four tables are all
the logic; the fourth says where the rate limits lie:

- `INPUTS`    goal -> input -> goal: what may be asked when; anything else raises and changes nothing.
- `DUTIES`    goal -> ordered (state, condition): the first condition that holds is the next thing to do.
- `OUTCOMES`  state -> outcome -> reaction: how a result changes beliefs; then duties are looked up again.
- `BUDGETS`   state -> the rate limit that its request counts against.

So every state but the resting ones is "this one request is wanted or under way". Its request waits while
the homeserver is silent or its budget is exhausted, and meanwhile an earlier duty may come due.

The order of the duties is the promise (MSC4140; design, invariant 1): the delayed leave is kept alive
before all else, a membership is only sent while one is held or the homeserver has none, and a leave ends
only when the homeserver has confirmed it.

Windows that the protocol leaves open, all closed by the next restart or by sync: another sender's event
under our state key cancels our delayed leave (Synapse 1.163.2), a schedule whose answer was lost may fire
once if the homeserver cannot list, and between the firing of a leave and our next request we are out.
"""

from __future__ import annotations

from math import inf

from rtcfoci.core.beliefs import (
    DOUBT_S,
    DUTIES,
    MIN_GAP_S,
    OUTCOMES,
    Beliefs,
    nth,
    same_event,
)
from rtcfoci.core.effects import (
    ANSWERS,
    CancelLeave,
    Effect,
    Event,
    Failure,
    ListDelayed,
    MembershipWriter,
    Outcome,
    Output,
    RestartLeave,
    Result,
    ScheduleLeave,
    SendHeldLeave,
    SendLeave,
    SendMembership,
)
from rtcfoci.core.model import Now
from rtcfoci.core.phases import BUDGETS, INPUTS, MIN_DELAY_MS, Goal, Input, LifecycleConfig, State
from rtcfoci.errors import LocalProtocolError

__all__ = ["Goal", "Lifecycle", "LifecycleConfig", "State"]

_RESEND_S = 30.0
"""A membership unanswered for longer is written anew: its `expires` would be stale."""


class Lifecycle(Beliefs):
    """The machine of one membership, for one device in one slot.

    Every input takes the time and gives back what to do: effects to run and conditions to raise or
    clear. At most one effect is under way; its one result goes into `result`, also when the caller
    was cancelled meanwhile. `next_timer_s` says when to call `timer`.
    """

    def __init__(self, config: LifecycleConfig | None = None) -> None:
        super().__init__(config or LifecycleConfig())

    def __repr__(self) -> str:
        return f"<Lifecycle {self._state.value}{' joined' if self.joined else ''}>"

    @property
    def state(self) -> State:
        """What it is about."""
        return self._state

    @property
    def goal(self) -> Goal:
        """What it was asked for."""
        return self._goal

    @property
    def joined(self) -> bool:
        """Whether the homeserver accepted our membership and nothing has said since that it is gone."""
        return self._goal is Goal.IN and self._member

    @property
    def guarded(self) -> bool:
        """Whether the homeserver holds our delayed leave, as far as we know."""
        return self._guard is not None

    @property
    def reason(self) -> str:
        """The code of the terminal condition that ended the membership; empty while there is none."""
        return self._reason

    @property
    def next_timer_s(self) -> float | None:
        """Monotonic time at which `timer` is due; None while a result or an input is awaited."""
        if self._flying is not None or self._goal not in (Goal.IN, Goal.OUT):
            return None
        if self._goal is Goal.OUT:
            return min(self._wait_until_s(), self._deadline_s)
        restart_s = self._restart_due_s if self._guard is not None else inf
        if self._state is State.RESTARTING:
            return self._wait_until_s()
        if self._state is not State.JOINED:
            return min(self._wait_until_s(), restart_s)
        guard_s = self._guard_retry_s if self._supported and self._guard is None else inf
        return min(restart_s, self._send_due_s, self._doubt_at_s, guard_s)

    # What the application asks.

    def join(
        self,
        now: Now,
        writer: MembershipWriter,
        *,
        txn_prefix: str,
        delayed_events: bool,
        max_delay_ms: int | None = None,
    ) -> tuple[Output, ...]:
        """Become a member; after a leave that failed, only by the key of the one that may be left.

        :param writer: with a fresh member id: a join after a leave is another join.
        :param txn_prefix: unique to this join, such as the member id.
        :param delayed_events: what `ServerSupport` says, with the longest delay if it says.
        """
        goal = self._next_goal(Input.JOIN)
        left_over = self._may_be_there
        if left_over and not same_event(self._own_writer.leave(), writer.leave()):
            raise LocalProtocolError(
                "the membership before this one may still be there",
                why="leaving failed, and the new one has another key, so two of us would show",
                do="leave again, then join",
            )
        self._forget()
        self._may_be_there = left_over
        self._goal, self._reason = goal, ""
        self._settle_conditions()
        self._writer, self._txn_prefix = writer, txn_prefix
        self._supported = self._unlisted = delayed_events
        self._max_delay_ms = max_delay_ms
        if max_delay_ms is not None:
            self._delay_ms = min(self._delay_ms, max_delay_ms)
        if not delayed_events:
            self._raise("no_dead_mans_switch", "the homeserver offers no delayed events")
        elif self._delay_ms < MIN_DELAY_MS:
            self._give_up_guard(now, f"it holds events for at most {self._delay_ms} ms", inf)
        return self._advance(now)

    def update(self, now: Now, writer: MembershipWriter) -> tuple[Output, ...]:
        """Publish other transports or application data, as the same member.

        :param writer: of the same identity: its leave must be the one that is already scheduled.
        """
        goal = self._next_goal(Input.UPDATE)
        if not same_event(self._own_writer.leave(), writer.leave()):
            raise LocalProtocolError(
                "an update cannot change who we are",
                why="the new membership has another key, so two of us would show",
                do="leave, and join with the new one",
            )
        self._goal, self._writer, self._outgoing = goal, writer, None
        self._send_due_s = now.s
        return self._advance(now)

    def leave(self, now: Now) -> tuple[Output, ...]:
        """Be withdrawn; allowed always, also when it is done or under way."""
        goal = self._next_goal(Input.LEAVE)
        if goal is Goal.OUT:
            self._turn_out(now)
        return self._advance(now)

    # What the driver sees.

    def evicted(self, now: Now) -> tuple[Output, ...]:
        """Learn that we are no longer in the room (kicked, banned): only clean up."""
        goal = self._next_goal(Input.EVICTED)
        if goal is Goal.OUT:
            self._turn_out(now)
            self._member = self._may_be_there = self._was_there = False
        return self._advance(now)

    def token_revoked(self, now: Now, cause: str) -> tuple[Output, ...]:
        """Learn that the access token is no longer valid."""
        self._next_goal(Input.TOKEN_REVOKED)
        self._revoke(cause)
        return self._advance(now)

    def seen(self, now: Now, event_id: str, *, created_ts_ms: int) -> tuple[Output, ...]:
        """Learn that sync shows our membership; call it and `gone` in the order of the sync.

        :param created_ts_ms: the event's `origin_server_ts`.
        """
        self._seen_id, self._seen_ts_ms = event_id, created_ts_ms
        if event_id == self._event_id:
            self._doubt_at_s, self._doubts = inf, 0
        if event_id == self._first_event_id and self._created_ts_ms is not None:
            self._created_ts_ms = created_ts_ms
        return self._advance(now)

    def gone(self, now: Now) -> tuple[Output, ...]:
        """Learn that sync shows our membership withdrawn, whoever did it."""
        sending = isinstance(self._flying, SendMembership)
        if self.joined and self._seen_id == self._event_id and not sending:
            self._lose(now, "it was withdrawn by someone else or by the delayed leave")
        elif self._goal is Goal.IN:
            # Sync may be telling of the time before our last send. Wait for its echo, not for ever.
            self._doubt_at_s = min(self._doubt_at_s, now.s + nth(DOUBT_S, self._doubts))
        self._seen_id = ""
        return self._advance(now)

    def offline(self, now: Now, cause: str) -> tuple[Output, ...]:
        """Learn that sync gets no answer."""
        self._silent = True
        self._raise("homeserver_unreachable", cause)
        return self._advance(now)

    def online(self, now: Now) -> tuple[Output, ...]:
        """Learn that sync gets answers again: restart the delayed leave before anything else."""
        if self._silent:
            self._restart_due_s = self._silent_until_s = now.s
            self._hear()
        return self._advance(now)

    def timer(self, now: Now) -> tuple[Output, ...]:
        """Do what is due."""
        return self._advance(now)

    def result(self, now: Now, effect_id: int, result: Result) -> tuple[Output, ...]:
        """Take the result of the effect that is under way."""
        effect = self._flying
        if effect is None or effect.id != effect_id:
            raise LocalProtocolError("a result for an effect that is not under way")
        if not isinstance(result, (ANSWERS[type(effect)], Failure)):
            raise LocalProtocolError(
                f"{type(result).__name__} does not answer {type(effect).__name__}"
            )
        outcome = result.outcome if isinstance(result, Failure) else Outcome.OK
        self._flying, self._answered = None, effect
        if isinstance(result, Failure):
            self._cause = result.cause
        if outcome is not Outcome.UNREACHABLE:
            if self._silent:
                self._restart_due_s = now.s
            self._hear()
        if outcome not in (Outcome.UNREACHABLE, Outcome.RATE_LIMITED):
            self._limits.pop(BUDGETS[self._state], None)
            if not self._limits:
                self._clear("rate_limited")
        if self._goal is not Goal.REVOKED:
            OUTCOMES[self._state][outcome](self, now, result)
        return self._advance(now)

    # Choosing what to do.

    def _next_goal(self, given: Input) -> Goal:
        goal = INPUTS[self._goal].get(given)
        if goal is None:
            raise LocalProtocolError(
                f"{given.value} is not possible now",
                why=f"the membership is {self._state.value} (goal: {self._goal.value})",
            )
        return goal

    def _advance(self, now: Now) -> tuple[Output, ...]:
        if self._flying is None and self._goal in DUTIES:
            self._state = next(state for state, due in DUTIES[self._goal] if due(self, now.s))
            if self._state in (State.LEFT, State.LEAVE_FAILED):
                self._end()
            elif self._state in BUDGETS and now.s >= self._wait_until_s():
                self._flying = self._effect(now)
                self._outputs.append(self._flying)
        outputs, self._outputs = tuple(self._outputs), []
        return outputs

    def _wait_until_s(self) -> float:
        until_s = max(self._silent_until_s, self._limited_until_s.get(BUDGETS[self._state], -inf))
        if self._state in (State.FIRING, State.WITHDRAWING):
            return max(until_s, self._sent_s + MIN_GAP_S)
        return max(until_s, self._send_floor_s) if self._state is State.SENDING else until_s

    def _effect(self, now: Now) -> Effect:
        """Make the request of the present state."""
        self._ids += 1
        quick = self._silent or self._state is State.RESTARTING
        timeout_s = self._config.probe_timeout_s if quick else self._config.request_timeout_s
        self._effect_s = now.s
        match self._state:
            case State.LISTING:
                return ListDelayed(id=self._ids, timeout_s=timeout_s)
            case State.SCHEDULING:
                self._guard_txn = self._guard_txn or self._txn("d")
                return ScheduleLeave(
                    id=self._ids,
                    timeout_s=timeout_s,
                    event=self._own_writer.leave(),
                    delay_ms=self._delay_ms,
                    txn_id=self._guard_txn,
                )
            case State.CLEARING:
                delay_id, send = self._stale[0]
                make = SendHeldLeave if send else CancelLeave
                return make(id=self._ids, timeout_s=timeout_s, delay_id=delay_id)
            case State.SENDING:
                return self._send(now, timeout_s)
            case State.WITHDRAWING:
                self._leave_txn = self._leave_txn or self._txn("l")
                return SendLeave(
                    id=self._ids,
                    timeout_s=timeout_s,
                    event=self._own_writer.leave(),
                    txn_id=self._leave_txn,
                )
        # What remains manages the delayed leave that is held.
        managing = {
            State.RESTARTING: RestartLeave,
            State.FIRING: SendHeldLeave,
            State.CANCELLING: CancelLeave,
        }
        return managing[self._state](id=self._ids, timeout_s=timeout_s, delay_id=self._guard or "")

    def _send(self, now: Now, timeout_s: float) -> SendMembership:
        """Write the membership, or repeat the one whose fate is unknown under the same transaction."""
        if self._outgoing is None or now.s - self._outgoing_s > _RESEND_S:
            self._outgoing, self._outgoing_s = None, now.s
            txn_id = self._txn("m")
        else:
            txn_id = self._outgoing.txn_id
        event = self._outgoing.event if self._outgoing else self._write(now)
        self._outgoing = SendMembership(
            id=self._ids, timeout_s=timeout_s, event=event, txn_id=txn_id
        )
        self._was_there, self._may_be_there = self._may_be_there, True
        self._doubts += now.s >= self._doubt_at_s
        self._doubt_at_s = inf
        return self._outgoing

    def _write(self, now: Now) -> Event:
        lifetime_ms = self._lifetime_ms
        if self._created_ts_ms is None:
            return self._own_writer.join(lifetime_ms=lifetime_ms)
        # Counted on our monotonic clock from the server's time of our first event: a wrong wall clock
        # here cannot shorten or lengthen what others believe.
        elapsed_ms = int((now.s - self._joined_s) * 1000)
        return self._own_writer.refresh(
            created_ts_ms=self._created_ts_ms,
            now_ts_ms=self._created_ts_ms + elapsed_ms,
            lifetime_ms=lifetime_ms,
        )

    def _txn(self, kind: str) -> str:
        return f"{self._txn_prefix}-{kind}{self._ids}"
