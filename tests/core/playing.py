"""What the tests of the lifecycle play with: a writer of events, a machine with a clock, answers.

In: the writer of both kinds of dialect, the machine under a script. Out: the scripts (`test_lifecycle_*`).
"""

from dataclasses import dataclass

import pytest

from rtcfoci.core.conditions import KINDS
from rtcfoci.core.dialects import OwnEvent
from rtcfoci.core.effects import (
    Done,
    Effect,
    Failure,
    ListDelayed,
    Listed,
    RaiseCondition,
    Scheduled,
    ScheduleLeave,
    SendLeave,
    SendMembership,
    Sent,
)
from rtcfoci.core.lifecycle import Lifecycle, LifecycleConfig
from rtcfoci.core.model import Now
from rtcfoci.core.phases import State
from rtcfoci.errors import ClientError

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
    data: object = ""

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
        self.s = -1000.0  # monotonic time begins anywhere
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


def error(status, errcode, **body):
    return Failure.of(ClientError("no", status=status, errcode=errcode, body=body))


def snapshot(play):
    return repr(sorted((k, v) for k, v in vars(play.machine).items() if "writer" not in k))
