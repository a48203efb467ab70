"""The negotiation of one pair as a machine without input or output of its own.

In: the table of states and what each input does there. Out: the inputs and effects (`steps`), engines
and descriptions (`engine`), how signals look (`wire`), who runs the effects (`peer`).

One side offers, always the same one: the lower `Member.order`. The other asks for an offer with a
`Want`. So two offers can never cross, which the engine could not repair. Every connection is an
*attempt* with an id of its own; when one fails, both sides drop it and the offerer begins the next.
Whatever belongs to no attempt of ours, comes twice or comes late is dropped and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

from rtcfoci.errors import RemoteProtocolError
from rtcfoci_mesh.steps import (
    Applied,
    Apply,
    Begin,
    Close,
    Connected,
    Described,
    Effect,
    Failed,
    Input,
    MakeAnswer,
    MakeOffer,
    Open,
    Received,
    Restarted,
    Send,
    Tick,
    TracksChanged,
    Unreachable,
)
from rtcfoci_mesh.wire import Answer, Lines, Offer, Want, read_signal

__all__ = ["TABLE", "Negotiation", "State"]

_FIRST_BACKOFF_S = 1.0
_LAST_BACKOFF_S = 30.0
_HELLO_S = 1.5
"""How long an answerer waits for an offer before it asks for one."""
_RESTART_GRACE_S = 3.0
_INSISTS_S = 1.0
"""An offer that comes again after this time was repeated by its sender, not on its way."""
_SIGNALS_PER_WINDOW = 30
_ATTEMPTS_PER_WINDOW = 6
_WINDOW_S = 10.0
"""A member gets this many signals and attempts handled in this time; the rest is dropped."""


class State(Enum):
    """Where a pair stands."""

    IDLE = "idle"
    """No attempt: before the first, or between two."""
    DESCRIBING = "describing"
    """The engine makes our description."""
    WAITING = "waiting"
    """Our offer is out (offerer only)."""
    APPLYING = "applying"
    """The engine takes the answer in (offerer only)."""
    STABLE = "stable"
    """Nothing is being negotiated."""


class Negotiation:
    """One pair's negotiation.

    :param instance: unique to this object's life, random, without dots.
    :param offerer: whether our side is the one that offers.
    :param need: the media sections our side needs at first.
    """

    def __init__(
        self,
        instance: str,
        *,
        offerer: bool,
        need: Lines,
        connect_timeout_s: float = 12.0,
        resend_s: float = 2.0,
    ) -> None:
        self.instance: str = instance
        self._base = instance
        self._lives = 0
        self.offerer = offerer
        self.state: State = State.IDLE
        self.attempt: str = ""
        self.connected: bool = False
        self.dropped: Counter[str] = Counter()
        """Signals dropped, by reason."""
        self._timeout_s = connect_timeout_s
        self._resend_s = resend_s
        self._need = need
        self._lines = Lines()
        self._number = 0
        self._seq = 0
        self._peer_instance = ""
        self._peer_past: deque[str] = deque(maxlen=16)
        self._late_offer = "", 0
        self._late_s = 0.0
        self._peer_number = 0
        self._peer_seq = -1
        self._peer_want = -1
        self._sent: Offer | Answer | None = None
        self._dirty = False
        self._failures = 0
        self._timers: dict[str, float] = {}
        self._signals: deque[float] = deque(maxlen=_SIGNALS_PER_WINDOW)
        self._attempts: deque[float] = deque(maxlen=_ATTEMPTS_PER_WINDOW)
        self._now_s = 0.0
        self._out: list[Effect] = []

    @property
    def timer(self) -> float | None:
        """When a `Tick` is due, monotonic seconds."""
        return min(self._timers.values(), default=None)

    def handle(self, event: Input, now_s: float) -> list[Effect]:
        """Take an input; give back what to do, in order. Never raises for what a member sent."""
        self._now_s = now_s
        self._out = []
        if isinstance(event, Described | Applied | Connected | Failed) and (
            event.attempt != self.attempt or not self.attempt
        ):
            return []  # of an attempt given up meanwhile
        handler = TABLE.get((self.state, type(event)))
        if handler is not None:
            handler(self, event)
        return self._out

    # Attempts

    def _begin(self, event: Input) -> None:
        if self.offerer:
            self._new_attempt()
        else:
            self._timers["hello"] = self._now_s + _HELLO_S

    def _restarted(self, event: Input) -> None:
        # Signals may overtake the news: an attempt begun just now is already with the new life. The
        # answerer has nothing to do, since an offer of a new instance speaks for itself.
        if self.offerer and self._now_s - max(self._attempts, default=0.0) > _RESTART_GRACE_S:
            self._failures = 0
            self._new_attempt()

    def _new_attempt(self) -> None:
        self._number += 1
        self._open(f"{self.instance}.{self._number}")
        self._describe()

    def _open(self, attempt: str) -> None:
        self._drop()
        self._timers.clear()
        self.attempt, self.state = attempt, State.DESCRIBING
        self._attempts.append(self._now_s)
        self._timers["deadline"] = self._now_s + self._timeout_s
        self._out.append(Open(attempt))

    def _drop(self) -> None:
        if self.attempt:
            self._out.append(Close(self.attempt))
        self.attempt, self.state, self.connected = "", State.IDLE, False
        self._sent, self._lines, self._dirty = None, Lines(), False
        self._peer_seq = -1
        self._timers.clear()

    def _failed(self, event: Input) -> None:
        if isinstance(event, Failed):
            self._give_up(event.cause, event.patience_s)

    def _give_up(self, cause: str, patience_s: float = 0.0) -> None:
        was_connected, attempt = self.connected, self.attempt
        self._drop()
        self._out.append(Unreachable(cause))
        if was_connected:
            self._failures = 0
        else:
            self._fail()
        wait_s = min(_LAST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self._failures - 1, 8))
        wait_s = max(patience_s, wait_s if self._failures else 0.0)
        if wait_s:
            self._timers["retry"] = self._now_s + wait_s
        elif self.offerer:
            self._new_attempt()
        else:
            self._want(attempt, rebuild=True)

    def _fail(self) -> None:
        # A late signal of an earlier life of ours can make the member take this one for the past: so
        # whoever gets nowhere goes on under another name.
        self._failures += 1
        self._lives += 1
        self.instance = f"{self._base}-{self._lives}"

    def _connected(self, event: Input) -> None:
        self.connected, self._failures = True, 0
        if self.state is State.STABLE:
            self._timers.pop("deadline", None)

    def _tick(self, event: Input) -> None:
        due = {name for name, at_s in self._timers.items() if at_s <= self._now_s}
        for name in due:
            del self._timers[name]
        if "deadline" in due:
            self._give_up(
                f"no answer within {self._timeout_s:g} s"
                if self.state is State.WAITING
                else f"no connection within {self._timeout_s:g} s"
            )
        elif "retry" in due and self.offerer:
            self._new_attempt()
        elif due & {"retry", "hello"} and not self.offerer:
            self._fail()
            self._want("", rebuild=True)
        elif "resend" in due:
            if self.state is State.WAITING and self._sent is not None:
                self._send(self._sent)
            elif not self.offerer:
                self._want(self.attempt, rebuild=False)

    # Descriptions

    def _describe(self) -> None:
        self._dirty, self.state = False, State.DESCRIBING
        self._out.append(MakeOffer(self.attempt, self._need))

    def _described(self, event: Input) -> None:
        if not isinstance(event, Described):
            return
        self._seq += 1
        if self.offerer:
            self._lines = event.lines
            offer = Offer(
                instance=self.instance,
                attempt=self.attempt,
                seq=self._seq,
                sdp=event.sdp,
                tracks=event.tracks,
            )
            self.state = State.WAITING
            # While media flows only the signalling is slow: it is asked again, nothing is given up.
            if not self.connected:
                self._timers.setdefault("deadline", self._now_s + self._timeout_s)
            self._send(offer)
            return
        answer = Answer(
            instance=self.instance,
            attempt=self.attempt,
            seq=self._peer_seq,
            sdp=event.sdp,
            tracks=event.tracks,
            need=event.lines,
        )
        self._settle()
        self._sent = answer
        self._out.append(Send(answer))
        if self._dirty:
            self._want(self.attempt, rebuild=False)

    def _send(self, offer: Offer | Answer) -> None:
        self._sent = offer
        self._timers["resend"] = self._now_s + self._resend_s
        self._out.append(Send(offer))

    def _settle(self) -> None:
        self.state = State.STABLE
        self._timers.pop("resend", None)
        if self.connected:
            self._timers.pop("deadline", None)

    def _applied(self, event: Input) -> None:
        self._settle()
        if self._dirty or not self._lines.covers(self._need):
            self._describe()

    def _tracks_changed(self, event: Input) -> None:
        if not isinstance(event, TracksChanged):
            return
        if self.offerer:
            self._need |= event.need
            if self.state is State.STABLE:
                self._describe()
            else:
                self._dirty = True
            return
        self._need = event.need
        if self.state is State.STABLE:
            self._want(self.attempt, rebuild=False)
        else:
            self._dirty = True

    def _want(self, attempt: str, *, rebuild: bool) -> None:
        self._seq += 1
        self._out.append(
            Send(
                Want(
                    instance=self.instance,
                    attempt=attempt,
                    seq=self._seq,
                    need=self._need,
                    rebuild=rebuild,
                )
            )
        )
        if rebuild:
            backoff_s = _FIRST_BACKOFF_S * 2 ** min(self._failures, 8)
            self._timers["retry"] = self._now_s + min(_LAST_BACKOFF_S, backoff_s)
        else:
            self._dirty = False
            self._timers["resend"] = self._now_s + self._resend_s

    # Signals

    def _received(self, event: Input) -> None:
        if not isinstance(event, Received):
            return
        if self._too_many(self._signals):
            self._ignore("too_many")
            return
        self._signals.append(self._now_s)
        try:
            signal = read_signal(event.payload)
        except RemoteProtocolError:
            self._ignore("malformed")
            return
        # Who names the attempt that we are making is no past, whatever overtook it.
        present = not isinstance(signal, Offer) and signal.attempt == self.attempt != ""
        if signal.instance in self._peer_past and not present and not self._insists(signal):
            self._ignore("late")
        elif isinstance(signal, Offer) is self.offerer:
            self._ignore("unexpected")
        elif isinstance(signal, Offer):
            self._offered(signal)
        elif isinstance(signal, Answer):
            self._answered(signal)
        else:
            self._wanted(signal)

    def _insists(self, signal: Offer | Answer | Want) -> bool:
        """Tell whether the past is the present: signals of two lives came in the wrong order.

        Only who lives repeats an offer. While we are connected, the life we are connected to is the present.
        """
        if self.connected or not isinstance(signal, Offer):
            return False
        named = signal.attempt, signal.seq
        if self._late_offer != named:
            self._late_offer, self._late_s = named, self._now_s
        return self._now_s - self._late_s > _INSISTS_S

    def _ignore(self, reason: str) -> None:
        self.dropped[reason] += 1

    def _too_many(self, times: deque[float]) -> bool:
        return len(times) == times.maxlen and times[0] > self._now_s - _WINDOW_S

    def _peer_is(self, instance: str) -> None:
        """Note which life of the member we talk to; what an earlier one sent is late."""
        if instance == self._peer_instance:
            return
        if self._peer_instance:
            self._peer_past.append(self._peer_instance)
        if instance in self._peer_past:
            self._peer_past.remove(instance)
        self._peer_instance, self._peer_number, self._peer_want = instance, 0, -1

    def _offered(self, offer: Offer) -> None:
        number = int(offer.attempt.rpartition(".")[2])
        known = offer.instance == self._peer_instance
        if known and number < self._peer_number:
            self._ignore("late")
            return
        if known and number == self._peer_number and offer.attempt != self.attempt:
            self._ignore("late")  # an attempt that we gave up
            return
        if offer.attempt != self.attempt:
            if self._too_many(self._attempts):
                self._ignore("too_many")
                return
            self._peer_is(offer.instance)
            self._peer_number = number
            self._open(offer.attempt)
        elif offer.seq <= self._peer_seq:
            if self._sent is not None and self._sent.seq == offer.seq:
                self._out.append(Send(self._sent))  # our answer seems to be lost
            self._ignore("duplicate")
            return
        elif self.state is not State.STABLE:
            self._ignore("unexpected")  # it is sent again
            return
        self._peer_seq, self.state = offer.seq, State.DESCRIBING
        self._timers.pop("resend", None)
        self._timers.setdefault("deadline", self._now_s + self._timeout_s)
        self._out.append(MakeAnswer(offer.attempt, offer.sdp, offer.tracks))

    def _answered(self, answer: Answer) -> None:
        if answer.attempt != self.attempt:
            self._ignore("foreign_attempt")
            return
        if self.state is not State.WAITING or self._sent is None or answer.seq != self._sent.seq:
            self._ignore("duplicate" if answer.seq <= self._seq else "unexpected")
            return
        self._peer_is(answer.instance)
        self._need |= answer.need
        self.state = State.APPLYING
        self._timers.pop("resend", None)
        self._timers.setdefault("deadline", self._now_s + self._timeout_s)
        self._out.append(Apply(answer.attempt, answer.sdp, answer.tracks))

    def _wanted(self, want: Want) -> None:
        known = want.instance == self._peer_instance
        if known and want.seq <= self._peer_want:
            self._ignore("duplicate")
            return
        if want.attempt and want.attempt != self.attempt:
            self._ignore("foreign_attempt")
            return
        restarted = not known and self._peer_instance != ""
        self._peer_is(want.instance)
        self._peer_want = want.seq
        self._need |= want.need
        if not want.rebuild:
            if self.state is State.STABLE:
                self._describe()
            else:
                self._dirty = True
        elif not want.attempt and not restarted and self.attempt:
            if self.state is State.WAITING and self._sent is not None:
                self._send(self._sent)  # our offer is still on its way, or lost
            else:
                self._ignore("late")  # asked before our offer came
        elif self._too_many(self._attempts):
            self._ignore("too_many")
        else:
            self._new_attempt()


_Handler: TypeAlias = Callable[[Negotiation, Input], None]
_N = Negotiation
_ALWAYS: dict[type, _Handler] = {
    Received: _N._received,
    Tick: _N._tick,
    TracksChanged: _N._tracks_changed,
    Restarted: _N._restarted,
}
_ATTEMPT: dict[type, _Handler] = {**_ALWAYS, Failed: _N._failed, Connected: _N._connected}
TABLE: Mapping[tuple[State, type], _Handler] = MappingProxyType(
    {
        (state, kind): handler
        for state, row in {
            State.IDLE: {**_ALWAYS, Begin: _N._begin},
            State.DESCRIBING: {**_ATTEMPT, Described: _N._described},
            State.WAITING: _ATTEMPT,
            State.APPLYING: {**_ATTEMPT, Applied: _N._applied},
            State.STABLE: _ATTEMPT,
        }.items()
        for kind, handler in row.items()
    }
)
"""Which input means something in which state; what is not in it changes nothing."""
