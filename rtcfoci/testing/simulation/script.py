"""What is done to one call: a list of steps, drawn from a seed and replayed without it.

In: steps, scripts, their JSON, drawing them. Out: what each step does (`faults`).

A run follows from its script alone, and every step brings its own end and what chance decided of it: so
any steps may be left out, and the rest still means the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from rtcfoci.errors import UsageError

__all__ = ["REPEATS_S", "Script", "Step", "draw"]

REPEATS_S = (0.0, 0.3, 3.0, 12.0)
"""When a repeated to-device message comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens. What a kind of step does not use is left at its default."""

    at_s: float
    """Seconds from the start."""
    do: str
    """Name of the kind, as `faults.FAULTS` lists them."""
    who: int = 0
    """Number of a device."""
    to: int = 0
    """Number of another device."""
    for_s: float = 0.0
    """How long it lasts."""
    count: int = 0
    """How many messages or requests it meets."""
    amount: float = 0.0
    """Seconds by which something is late, or a clock is wrong."""
    how: str = ""
    """Which variant."""

    @property
    def end_s(self) -> float:
        """When it is over, with all that follows from it by itself."""
        after_s = {"delay to-device": self.amount, "repeat to-device": REPEATS_S[-1]}
        return self.at_s + self.for_s + after_s.get(self.do, 0.0)

    def __str__(self) -> str:
        said = [f"{self.at_s:.2f} s", self.do]
        for name in ("who", "to", "for_s", "count", "amount", "how"):
            value = getattr(self, name)
            if value or name == "who":
                said.append(f"{name}={value}")
        return " ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One run."""

    salt: int
    """From which ids and the delays of paths follow; nothing else is left to chance."""
    devices: int
    """How many devices there are."""
    steps: tuple[Step, ...]
    seats: int = 16
    """How many members fit."""
    dialect: str = ""
    """The dialect that everybody writes; empty: as the house decides."""
    limits: bool = False
    """Whether the homeserver limits requests as Synapse does by default."""

    def without(self, steps: Sequence[Step]) -> Script:
        """Leave steps out."""
        gone = set(map(id, steps))
        return replace(self, steps=tuple(s for s in self.steps if id(s) not in gone))

    @property
    def end_s(self) -> float:
        """When everything that is done to the call is over."""
        return max((step.end_s for step in self.steps), default=0.0)

    def to_json(self) -> str:
        """Write it as one line."""
        told = asdict(self)
        told["steps"] = [_short(step) for step in self.steps]
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Script:
        """Read what `to_json` wrote. :raises UsageError: when it is something else."""
        try:
            told = json.loads(text)
            told["steps"] = tuple(Step(**step) for step in told["steps"])
            return cls(**told)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                "this is no script of a run",
                why=f"{type(error).__name__}: {error}",
                do="give the whole line that a failing run printed",
            ) from None


def _short(step: Step) -> Mapping[str, object]:
    told = {f.name: getattr(step, f.name) for f in fields(step)}
    defaults = {f.name: f.default for f in fields(step)}
    return {k: v for k, v in told.items() if v != defaults[k]}


# Drawing. Times are rounded, so that a script reads well.


class _Dice:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.devices = 2
        self.length_s = 30.0

    def time_s(self, low_s: float = 0.0, high_s: float | None = None) -> float:
        return round(self.random.uniform(low_s, self.length_s if high_s is None else high_s), 2)

    def device(self) -> int:
        return self.random.randrange(self.devices)

    def pair(self) -> tuple[int, int]:
        one, other = self.random.sample(range(self.devices), 2)
        return one, other

    def short_s(self, most_s: float) -> float:
        """Mostly short, sometimes long."""
        return round(min(most_s, 0.2 + self.random.expovariate(3 / most_s)), 2)


def _leave(dice: _Dice) -> list[Step]:
    who, at_s = dice.device(), dice.time_s(3)
    back = dice.random.random() < 0.6
    steps = [Step(at_s=at_s, do="leave", who=who)]
    return steps + ([_join(dice, who, at_s, 8)] if back else [])


def _kill(dice: _Dice) -> list[Step]:
    who, at_s = dice.device(), dice.time_s(1)
    back = dice.random.random() < 0.6
    steps = [Step(at_s=at_s, do="kill", who=who)]
    return steps + ([_join(dice, who, at_s, 25)] if back else [])


def _join(dice: _Dice, who: int, at_s: float, most_s: float) -> Step:
    return Step(at_s=round(at_s + dice.short_s(most_s), 2), do="join", who=who)


def _cut_pair(dice: _Dice) -> list[Step]:
    who, to = dice.pair()
    how = dice.random.choice(("both", "one way"))
    return [
        Step(at_s=dice.time_s(), do="cut pair", who=who, to=to, how=how, for_s=dice.short_s(20))
    ]


def _cut_member(dice: _Dice) -> list[Step]:
    how = dice.random.choice(("both", "in", "out"))
    return [
        Step(
            at_s=dice.time_s(), do="cut member", who=dice.device(), how=how, for_s=dice.short_s(20)
        )
    ]


def _cut_server(dice: _Dice) -> list[Step]:
    how = dice.random.choice(("refused", "silent"))
    return [
        Step(
            at_s=dice.time_s(), do="cut server", who=dice.device(), how=how, for_s=dice.short_s(40)
        )
    ]


def _outage(dice: _Dice) -> list[Step]:
    long = dice.random.random() < 0.4
    for_s = dice.time_s(12, 40) if long else dice.short_s(15)
    return [Step(at_s=dice.time_s(), do="outage", for_s=for_s)]


def _to_device(how: str) -> Callable[[_Dice], list[Step]]:
    def draw(dice: _Dice) -> list[Step]:
        return [
            Step(
                at_s=dice.time_s(),
                do=f"{how} to-device",
                who=dice.device(),
                count=dice.random.randint(1, 6),
                amount=dice.short_s(40) if how == "delay" else 0.0,
                for_s=dice.short_s(10),
            )
        ]

    return draw


def _limit(dice: _Dice) -> list[Step]:
    return [
        Step(
            at_s=dice.time_s(),
            do="rate limit",
            who=dice.device(),
            count=dice.random.randint(1, 8),
            amount=dice.random.choice((0.0, 0.5, 2.0, 6.0)),
            how=dice.random.choice(("says when", "says nothing")),
            for_s=dice.short_s(10),
        )
    ]


def _lose_answers(dice: _Dice) -> list[Step]:
    return [
        Step(
            at_s=dice.time_s(),
            do="lose answers",
            who=dice.device(),
            count=dice.random.randint(1, 5),
            how=dice.random.choice(("reset", "silent")),
            for_s=dice.short_s(10),
        )
    ]


def _slow(dice: _Dice) -> list[Step]:
    return [
        Step(
            at_s=dice.time_s(),
            do="slow answers",
            who=dice.device(),
            amount=round(dice.random.uniform(0.2, 6), 2),
            for_s=dice.short_s(15),
        )
    ]


def _clock_jump(dice: _Dice) -> list[Step]:
    by_s = round(dice.random.choice((-1, 1)) * dice.random.choice((0.5, 5, 40, 150)), 2)
    return [Step(at_s=dice.time_s(), do="clock jump", who=dice.device(), amount=by_s)]


def _media(do: str) -> Callable[[_Dice], list[Step]]:
    def draw(dice: _Dice) -> list[Step]:
        how = dice.random.choice(("audio", "video"))
        return [Step(at_s=dice.time_s(), do=do, who=dice.device(), how=how)]

    return draw


def _send(dice: _Dice) -> list[Step]:
    count = dice.random.randint(1, 12)
    for_s = dice.short_s(15)
    return [Step(at_s=dice.time_s(), do="send data", who=dice.device(), count=count, for_s=for_s)]


_WEIGHTS: Mapping[Callable[[_Dice], list[Step]], int] = {
    _leave: 5,
    _kill: 6,
    _cut_pair: 6,
    _cut_member: 4,
    _cut_server: 4,
    _outage: 3,
    _to_device("lose"): 5,
    _to_device("repeat"): 4,
    _to_device("reorder"): 4,
    _to_device("delay"): 4,
    _limit: 5,
    _lose_answers: 5,
    _slow: 3,
    _clock_jump: 3,
    _media("publish"): 5,
    _media("unpublish"): 2,
    _media("mute"): 3,
    _media("unmute"): 2,
    _send: 5,
}


def draw(seed: int) -> Script:
    """Draw a run."""
    dice = _Dice(seed)
    chance = dice.random
    dice.devices = chance.choice((2, 2, 3, 3, 3, 4, 4, 5, 6))
    dice.length_s = chance.choice((10.0, 20.0, 30.0, 45.0))
    steps: list[Step] = []
    for who in range(dice.devices):
        if chance.random() < 0.3:
            by_s = round(chance.gauss(0, 25), 2)
            steps.append(Step(at_s=0.0, do="clock jump", who=who, amount=by_s))
        # Some at once: that is when everybody meets everybody.
        at_s = 0.1 if chance.random() < 0.4 else dice.time_s(0.1, dice.length_s / 2)
        steps.append(Step(at_s=at_s, do="join", who=who))
        for how in ("audio", "video"):
            if chance.random() < (0.7 if how == "audio" else 0.35):
                steps.append(Step(at_s=at_s, do="publish", who=who, how=how))
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    for kind in chance.choices(kinds, weights, k=chance.randint(1, 10)):
        steps += kind(dice)
    return Script(
        salt=chance.getrandbits(32),
        devices=dice.devices,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
        seats=chance.choice((16, 16, 16, 3, 2)) if dice.devices > 2 else 16,
        dialect=chance.choice(("", "", "D3")),
        limits=chance.random() < 0.1,
    )
