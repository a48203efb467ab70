"""What the lifecycle machine believes about the homeserver, and how every result changes it.

In: the beliefs, the conditions of duties, the reactions to outcomes, and the two tables made of them.
Out: choosing and making the next request, and what the application and sync say (`lifecycle`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import TypeAlias

from rtcfoci.core.effects import (
    ClearCondition,
    Effect,
    Event,
    Failure,
    HeldEvent,
    Listed,
    MembershipWriter,
    Outcome,
    Output,
    RaiseCondition,
    Result,
    Scheduled,
    SendMembership,
    Sent,
)
from rtcfoci.core.model import Now
from rtcfoci.core.phases import (
    BUDGETS,
    MIN_DELAY_MS,
    MIN_RESTART_S,
    Budget,
    Goal,
    LifecycleConfig,
    State,
)

__all__ = ["DOUBT_S", "DUTIES", "MIN_GAP_S", "OUTCOMES", "Beliefs", "nth", "same_event"]

MIN_GAP_S = 0.002
"""Two sends never share a millisecond: js-sdk orders sticky events of one key by `origin_server_ts` alone,
and by MSC4354 the higher event id wins, so that a leave could lose to the membership it follows."""
_OFFLINE_BACKOFF_S = (0.25, 0.5, 1.0, 2.0)
"""The last repeats: we must be back within 5 s of the homeserver's return, even if sync is slow to see it."""
_LIMIT_BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
"""Only where a 429 does not say how long."""
_MIN_LIMIT_WAIT_S = 0.1
"""A 429 that says 0 does not make us hot."""
_GUARD_RETRY_S = 300.0
"""How often a homeserver that refused a delayed leave is asked again."""
DOUBT_S = (5.0, 10.0, 20.0, 40.0)
"""How long a send may take to show up in sync, when sync says that we are out."""
_CALM_S = 60.0
"""Memberships lost closer together than this are sent again ever more slowly (a fight we do not want)."""
_LOSS_BACKOFF_S = (MIN_GAP_S, 2.0, 4.0, 8.0, 16.0, 30.0)


class Beliefs:
    """What is believed, asked for and waited for; the machine (`lifecycle`) acts on it."""

    def __init__(self, config: LifecycleConfig) -> None:
        self._config = config
        self._goal = Goal.NONE
        self._state = State.IDLE
        self._outputs: list[Output] = []
        self._raised: set[str] = set()
        self._flying: Effect | None = None
        self._answered: Effect | None = None
        self._effect_s = -inf
        self._ids = 0
        self._reason = ""
        self._silent = False
        self._silences = 0
        self._silent_until_s = -inf
        self._limits: dict[Budget, int] = {}
        self._limited_until_s: dict[Budget, float] = {}
        self._forget()

    def _forget(self) -> None:
        """Believe nothing: of a membership that never was, or that is over."""
        self._writer: MembershipWriter | None = None
        self._txn_prefix = ""
        # Our membership in the room.
        self._member = False  # accepted, and nothing has said since that it is gone
        self._may_be_there = False  # or sent with an unknown outcome, or left by a crashed process
        self._was_there = False  # the same before the send that is under way
        self._outgoing: SendMembership | None = None
        self._outgoing_s = -inf
        self._send_due_s = -inf
        self._send_floor_s = -inf
        self._sent_s = -inf
        self._joined_s = -inf  # when the first accepted one was written
        self._created_ts_ms: int | None = None
        self._event_id = ""  # of our last accepted send
        self._first_event_id = ""
        self._seen_id = ""  # what sync showed last
        self._seen_ts_ms = 0
        self._doubt_at_s = inf
        self._doubts = 0
        self._losses = 0
        self._lost_s = -inf
        # The delayed leave.
        self._supported = False
        self._can_list = True
        self._max_delay_ms: int | None = None
        self._delay_ms = self._config.leave_delay_ms
        self._guard: str | None = None  # its delay id
        self._guard_since_s = -inf
        self._guard_retry_s = -inf
        self._guard_txn = ""
        self._restart_due_s = inf
        # What may be left over at the homeserver.
        self._unlisted = False
        self._orphan = False  # a schedule of ours whose answer was lost
        self._stale: list[tuple[str, bool]] = []  # delay id, whether to send it
        # Leaving.
        self._deadline_s = inf
        self._leave_txn = ""
        self._withdraw_refused = False
        self._cause = ""

    # Conditions of duties.

    def _always(self, _now_s: float) -> bool:
        return True

    def _is_unlisted(self, _now_s: float) -> bool:
        return self._unlisted

    def _restart_is_due(self, now_s: float) -> bool:
        return self._guard is not None and now_s >= self._restart_due_s

    def _guard_is_due(self, now_s: float) -> bool:
        return self._supported and self._guard is None and now_s >= self._guard_retry_s

    def _has_stale(self, _now_s: float) -> bool:
        return bool(self._stale)

    def _send_is_due(self, now_s: float) -> bool:
        return now_s >= min(self._send_due_s, self._doubt_at_s)

    def _leave_has_failed(self, now_s: float) -> bool:
        return self._may_be_there and (self._withdraw_refused or now_s >= self._deadline_s)

    def _time_is_up(self, now_s: float) -> bool:
        return now_s >= self._deadline_s

    def _guard_can_fire(self, now_s: float) -> bool:
        """Whether the delayed leave is the quicker way out: not if managing is limited for longer."""
        manage_s = max(now_s, self._limited_until_s.get(Budget.MANAGE, now_s))
        message_s = max(now_s, self._limited_until_s.get(Budget.MESSAGE, now_s))
        return self._may_be_there and self._guard is not None and manage_s <= message_s

    def _is_there(self, _now_s: float) -> bool:
        return self._may_be_there

    def _may_be_orphaned(self, _now_s: float) -> bool:
        return self._orphan

    def _has_guard(self, _now_s: float) -> bool:
        return self._guard is not None

    # Reactions to outcomes.

    def _silence(self, now: Now, result: Result) -> None:
        """Wait a little; whatever follows, the delayed leave is restarted first."""
        self._silent = True
        self._silent_until_s = now.s + nth(_OFFLINE_BACKOFF_S, self._silences)
        self._silences += 1
        self._restart_due_s = now.s
        self._raise("homeserver_unreachable", self._cause, self._silent_until_s)

    def _limit(self, now: Now, result: Result) -> None:
        """Wait as long as we are told."""
        assert isinstance(result, Failure)
        budget = BUDGETS[self._state]
        times = self._limits.get(budget, 0)
        wait_s = result.retry_after_s
        wait_s = nth(_LIMIT_BACKOFF_S, times) if wait_s is None else max(wait_s, _MIN_LIMIT_WAIT_S)
        self._limits[budget] = times + 1
        self._limited_until_s[budget] = now.s + wait_s
        if self._state is State.SENDING:
            self._may_be_there = self._was_there
        self._raise("rate_limited", self._cause, now.s + wait_s)

    def _token_refused(self, now: Now, result: Result) -> None:
        """Stop: nothing can be asked any more."""
        self._revoke(self._cause)

    def _listed(self, now: Now, result: Result) -> None:
        """Note what must be cleared: what would hit the membership we write is cancelled, else sent."""
        assert isinstance(result, Listed)
        leave = self._own_writer.leave()
        self._stale = []
        for held in result.events:
            if held.delay_id != self._guard and self._own_writer.owns(held):
                same_state = leave.state_key is not None and _key(held) == _key(leave)
                same_sticky = leave.state_key is None and same_event(held, leave)
                self._stale.append((held.delay_id, not (same_state or same_sticky)))
                # Once its leave is cancelled, the ghost of a crashed process is ours to withdraw.
                self._may_be_there |= same_state and not self._orphan
        self._unlisted = self._orphan = False
        self._guard_txn = ""

    def _cannot_list(self, now: Now, result: Result) -> None:
        """Do without: a repeat of a lost schedule is told by its transaction, and sync shows the rest."""
        self._unlisted = self._orphan = self._can_list = False

    def _hold(self, now: Now, result: Result) -> None:
        """Hold the delayed leave."""
        assert isinstance(result, Scheduled)
        self._guard, self._guard_txn = result.delay_id, ""
        self._clear("no_dead_mans_switch")
        self._guard_runs(now)

    def _restarted(self, now: Now, result: Result) -> None:
        """Come back before it fires."""
        self._guard_runs(now)

    def _lost_schedule(self, now: Now, result: Result) -> None:
        """Find out by listing whether a delayed leave is held whose id we never got."""
        self._unlisted = self._orphan = self._can_list
        self._silence(now, result)

    def _shorten(self, now: Now, result: Result) -> None:
        """Take the homeserver's maximum, else half: never the same again."""
        assert isinstance(result, Failure)
        named = result.max_delay_ms
        shorter = named is not None and named < self._delay_ms
        self._delay_ms = named if named is not None and shorter else self._delay_ms // 2
        self._guard_txn = ""
        if self._delay_ms < MIN_DELAY_MS:
            self._delay_ms = min(self._config.leave_delay_ms, self._max_delay_ms or MIN_DELAY_MS)
            self._give_up_guard(now, self._cause, inf)

    def _shorten_or_do_without(self, now: Now, result: Result) -> None:
        """Try a shorter delay where the maximum is unknown, else do without.

        The MSC says "too long" as 403 M_FORBIDDEN, which a homeserver says too that has the feature off.
        """
        if self._max_delay_ms is None:
            self._shorten(now, result)
        else:
            self._do_without(now, result)

    def _do_without(self, now: Now, result: Result) -> None:
        """Go on without a delayed leave, and ask again later."""
        self._guard_txn = ""
        self._give_up_guard(now, self._cause, now.s + _GUARD_RETRY_S)

    def _never_guard(self, now: Now, result: Result) -> None:
        """Go on without for good: who does not know delays may send the leave at every attempt."""
        self._guard_txn = ""
        self._give_up_guard(now, self._cause, inf)

    def _fired(self, now: Now, result: Result) -> None:
        """Schedule again; send the membership again unless the leave can only have been cancelled.

        Some homeservers cancel on our own state change: there a repeated membership would cancel again.
        """
        fires_s = self._guard_since_s + self._delay_ms / 1000
        self._guard = None
        if self._member and now.s >= fires_s:
            self._lose(now, "the delayed leave was sent, because no restart came through in time")

    def _drop_guard(self, now: Now, result: Result) -> None:
        """Cancel a delayed leave that cannot be restarted, and do without."""
        assert self._guard is not None
        self._stale.append((self._guard, False))
        self._guard = None
        self._do_without(now, result)

    def _cleared(self, now: Now, result: Result) -> None:
        """Go on to the next; what refuses to go fires by itself, and sync shows it."""
        self._stale.pop(0)

    def _accepted(self, now: Now, result: Result) -> None:
        """Be a member; restart at once, to learn whether our own event cancelled the delayed leave."""
        assert isinstance(result, Sent)
        assert isinstance(self._answered, SendMembership)
        duration_ms = self._answered.event.sticky_duration_ms
        lifetime_ms = self._lifetime_ms if duration_ms is None else duration_ms
        self._member, self._event_id = True, result.event_id
        echoed = self._seen_id == result.event_id
        if echoed:
            self._doubt_at_s = inf
        if self._created_ts_ms is None:
            self._joined_s = self._outgoing_s
            self._created_ts_ms = self._seen_ts_ms if echoed else now.ts_ms
            self._first_event_id = result.event_id
        self._sent_s = now.s
        self._send_floor_s = now.s + MIN_GAP_S
        if self._outgoing is self._answered:  # else an update came meanwhile, and is due
            self._outgoing = None
            self._send_due_s = now.s + lifetime_ms / 2000
        self._restart_due_s = min(self._restart_due_s, now.s)
        self._clear("membership_lost")

    def _refused(self, now: Now, result: Result) -> None:
        """Give up and clean up: no power to send it, or an event the homeserver does not take."""
        self._may_be_there = self._was_there
        self._outgoing = None
        self._end_with("membership_refused", self._cause)
        self._turn_out(now)

    def _withdrawn(self, now: Now, result: Result) -> None:
        """Be out."""
        if self._state is State.FIRING:
            self._guard = None
        self._member = self._may_be_there = False

    def _cannot_fire(self, now: Now, result: Result) -> None:
        """Send the leave instead: the delayed one is gone, and may have been cancelled."""
        self._guard = None

    def _cannot_withdraw(self, now: Now, result: Result) -> None:
        """Say so; a delayed leave that is held stays, and fires by itself."""
        self._withdraw_refused = True

    def _cancelled(self, now: Now, result: Result) -> None:
        """Forget the delayed leave: it is gone, or harmless now."""
        self._guard = None

    # Small steps that several share.

    def _guard_runs(self, now: Now) -> None:
        # Counted from the request: the homeserver cannot have begun the delay earlier.
        self._guard_since_s = self._effect_s
        # What was asked before we were withdrawn says nothing about afterwards: it is asked again.
        lost_since = self._lost_s > self._effect_s
        self._restart_due_s = now.s if lost_since else self._effect_s + self._restart_every_s

    def _give_up_guard(self, now: Now, cause: str, retry_s: float) -> None:
        self._guard_retry_s = retry_s
        if self._member:
            self._send_due_s = now.s  # with the shorter lifetime
        self._raise("no_dead_mans_switch", cause)

    def _lose(self, now: Now, cause: str) -> None:
        self._losses = self._losses + 1 if now.s - self._lost_s < _CALM_S else 0
        self._lost_s = now.s
        self._member = False
        self._outgoing = None
        self._send_due_s = now.s
        # What withdrew us may have cancelled the delayed leave: find out before we are there again.
        self._restart_due_s = now.s
        self._send_floor_s = self._sent_s + nth(_LOSS_BACKOFF_S, self._losses)
        self._raise("membership_lost", cause)

    def _turn_out(self, now: Now) -> None:
        if self._goal is not Goal.OUT:
            self._goal = Goal.OUT
            self._silent_until_s = min(self._silent_until_s, now.s)
            self._deadline_s = now.s + self._config.leave_timeout_s
            self._withdraw_refused = False
            self._clear("leave_failed")

    def _revoke(self, cause: str) -> None:
        self._goal, self._member = Goal.REVOKED, False
        self._end_with("token_revoked", cause)

    def _end(self) -> None:
        """Rest. After a failed leave the beliefs stay: it can be tried again."""
        self._goal = Goal.ENDED
        self._settle_conditions()
        if self._state is State.LEAVE_FAILED:
            self._raise("leave_failed", self._cause or "there was no time")
        else:
            self._forget()

    def _end_with(self, code: str, cause: str) -> None:
        if not self._reason:
            self._reason = code
            self._raise(code, cause)

    def _hear(self) -> None:
        self._silent, self._silences = False, 0
        self._clear("homeserver_unreachable")

    def _raise(self, code: str, cause: str, retry_at_s: float | None = None) -> None:
        self._raised.add(code)
        self._outputs.append(RaiseCondition(code=code, cause=cause, retry_at_s=retry_at_s))

    def _clear(self, code: str) -> None:
        if code in self._raised:
            self._raised.remove(code)
            self._outputs.append(ClearCondition(code=code))

    def _settle_conditions(self) -> None:
        for code in sorted(self._raised - {self._reason, "homeserver_unreachable"}):
            self._clear(code)

    @property
    def _lifetime_ms(self) -> int:
        guarded = self._guard is not None
        return self._config.lifetime_ms if guarded else self._config.unguarded_lifetime_ms

    @property
    def _own_writer(self) -> MembershipWriter:
        assert self._writer is not None, "a goal without a writer"
        return self._writer

    @property
    def _restart_every_s(self) -> float:
        scale = self._delay_ms / self._config.leave_delay_ms
        return max(MIN_RESTART_S, self._config.restart_every_s * scale)


def _key(event: Event | HeldEvent) -> tuple[str, str | None]:
    return event.type, event.state_key


def same_event(one: Event | HeldEvent, other: Event | HeldEvent) -> bool:
    """Tell whether both are the same event."""
    return _key(one) == _key(other) and one.content == other.content


def nth(steps: tuple[float, ...], n: int) -> float:
    """Take the n-th step; the last one repeats."""
    return steps[min(n, len(steps) - 1)]


_Duty: TypeAlias = tuple[State, Callable[[Beliefs, float], bool]]

DUTIES: Mapping[Goal, tuple[_Duty, ...]] = MappingProxyType(
    {
        Goal.IN: (
            (State.LISTING, Beliefs._is_unlisted),
            (State.RESTARTING, Beliefs._restart_is_due),
            (State.SCHEDULING, Beliefs._guard_is_due),
            # After scheduling, so that the ghost whose leave we cancel is never without one.
            (State.CLEARING, Beliefs._has_stale),
            (State.SENDING, Beliefs._send_is_due),
            (State.JOINED, Beliefs._always),
        ),
        Goal.OUT: (
            (State.LEAVE_FAILED, Beliefs._leave_has_failed),
            (State.LEFT, Beliefs._time_is_up),
            (State.FIRING, Beliefs._guard_can_fire),
            (State.WITHDRAWING, Beliefs._is_there),
            (State.LISTING, Beliefs._may_be_orphaned),
            (State.CLEARING, Beliefs._has_stale),
            (State.CANCELLING, Beliefs._has_guard),
            (State.LEFT, Beliefs._always),
        ),
        Goal.REVOKED: ((State.REVOKED, Beliefs._always),),
    }
)
"""What is to be done for a goal: the first whose condition holds."""

_Reaction: TypeAlias = Callable[[Beliefs, Now, Result], None]


def _outcomes(
    ok: _Reaction, refused: _Reaction, **others: _Reaction
) -> Mapping[Outcome, _Reaction]:
    common = {
        Outcome.RATE_LIMITED: Beliefs._limit,
        Outcome.UNREACHABLE: Beliefs._silence,
        Outcome.REVOKED: Beliefs._token_refused,
    }
    named = {Outcome[name.upper()]: reaction for name, reaction in others.items()}
    rest = dict.fromkeys(Outcome, refused)
    return MappingProxyType({**rest, Outcome.OK: ok, **common, **named})


OUTCOMES: Mapping[State, Mapping[Outcome, _Reaction]] = MappingProxyType(
    {
        State.LISTING: _outcomes(Beliefs._listed, Beliefs._cannot_list),
        State.SCHEDULING: _outcomes(
            Beliefs._hold,
            Beliefs._do_without,
            too_long=Beliefs._shorten,
            forbidden=Beliefs._shorten_or_do_without,
            unrecognized=Beliefs._never_guard,
            unreachable=Beliefs._lost_schedule,
        ),
        State.RESTARTING: _outcomes(Beliefs._restarted, Beliefs._drop_guard, gone=Beliefs._fired),
        State.CLEARING: _outcomes(Beliefs._cleared, Beliefs._cleared),
        State.SENDING: _outcomes(Beliefs._accepted, Beliefs._refused),
        State.FIRING: _outcomes(Beliefs._withdrawn, Beliefs._cannot_fire),
        State.WITHDRAWING: _outcomes(Beliefs._withdrawn, Beliefs._cannot_withdraw),
        State.CANCELLING: _outcomes(Beliefs._cancelled, Beliefs._cancelled),
    }
)
"""How each result of each request changes what we believe; then the duties are looked up again."""
