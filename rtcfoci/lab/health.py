"""How a recorded call was, besides its session: our delayed leave, outages of the homeserver, conditions.

In: the inputs and effects of a recording; out come lanes and their legend.
Out: the session of the call, and the picture (`timeline`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rtcfoci.lab.lanes import Lane, Legend, Section, Span, from_to
from rtcfoci.lab.tracefile import Record

__all__ = ["Health"]

_MOST_CONDITIONS = 40
_LONGEST_MS = 2**53 - 1
_HELD = Legend("#5a6270", "~", "our delayed leave is held")
_OFFLINE = Legend("#f1dcd5", "/", "homeserver out of reach")
_CONDITION = Legend("#b3452c", "!", "condition")


@dataclass(slots=True)
class _Held:
    """A delayed leave of ours that the homeserver holds."""

    delay_id: object
    delay_s: float
    start_s: float
    due_s: float
    restarts: int = 0


class Health:
    """What a recording has said so far."""

    def __init__(self) -> None:
        self.offline: list[Span] = []
        self._offline_s: float | None = None
        self._asked: tuple[Mapping[str, object], float] = ({}, 0.0)
        self._held: _Held | None = None
        self._guard = Lane(name="our delayed leave")
        self._conditions: dict[tuple[str, str], Lane] = {}
        self._raised: dict[tuple[str, str], tuple[float, str]] = {}

    def input(self, record: Record, at_s: float) -> None:
        """Take what went into a machine."""
        fields = record.fields
        match record.named:
            case "lifecycle.offline":
                self._offline_s = at_s if self._offline_s is None else self._offline_s
            case "lifecycle.online":
                self._online(at_s)
            case "lifecycle.result":
                result = fields.get("result")
                if isinstance(result, dict) and fields.get("effect_id") == self._asked[0].get("id"):
                    self._answer(result, at_s)
            case "conditions.raise_":
                self._raised.setdefault(_condition(fields), (at_s, str(fields.get("cause", ""))))
            case "conditions.clear":
                self._clear(_condition(fields), at_s)

    def effect(self, effect: Mapping[str, object], at_s: float) -> None:
        """Take what came out of a machine: what the homeserver is asked for."""
        if "id" in effect:
            self._asked = effect, at_s

    def end(self, at_s: float) -> None:
        """End everything that still holds."""
        self._online(at_s)
        if self._held is not None:
            fired = self._held.due_s < at_s
            self._let_go(min(at_s, self._held.due_s), "fired" if fired else "")
        for key in [*self._raised]:
            self._clear(key, at_s)

    def sections(self) -> list[Section]:
        """Give what there is to see."""
        lanes = [*([self._guard] if self._guard.spans else []), *self._conditions.values()]
        return [Section(title="This call", lanes=lanes)] if lanes else []

    def legend(self) -> list[Legend]:
        """Give what it means."""
        shown = (
            (_HELD, self._guard.spans),
            (_OFFLINE, self.offline),
            (_CONDITION, self._conditions),
        )
        return [legend for legend, there in shown if there]

    def _online(self, at_s: float) -> None:
        if self._offline_s is not None:
            said = f"{_OFFLINE.words}\n{from_to(self._offline_s, at_s)}"
            self.offline.append(_OFFLINE.span(self._offline_s, at_s, said))
            self._offline_s = None

    def _answer(self, result: Mapping[str, object], at_s: float) -> None:
        """Take the answer of the homeserver: what it holds, and until when."""
        effect, asked_s = self._asked
        held, delay_ms = self._held, effect.get("delay_ms")
        done, gone = result.get("is") != "Failure", result.get("outcome") == "gone"
        if effect.get("is") == "ScheduleLeave" and done and isinstance(delay_ms, int):
            if held is not None:
                self._let_go(min(asked_s, held.due_s), "")
            delay_s = min(delay_ms, _LONGEST_MS) / 1000
            self._held = _Held(result.get("delay_id"), delay_s, asked_s, asked_s + delay_s)
        elif held is None or effect.get("delay_id") != held.delay_id:
            pass
        elif gone:
            self._let_go(min(at_s, held.due_s), "fired")
        elif done and effect.get("is") == "RestartLeave":
            held.due_s = asked_s + held.delay_s
            held.restarts += 1
        elif done:
            sent = effect.get("is") == "SendHeldLeave"
            self._let_go(at_s, "sent" if sent else "dropped")

    def _let_go(self, at_s: float, why: str) -> None:
        held, self._held = self._held, None
        assert held is not None
        said = (
            f"our leave, delayed by {held.delay_s:g} s, {held.restarts} times anew\n"
            f"{from_to(held.start_s, at_s)}\n{why}"
        )
        self._guard.spans.append(_HELD.span(held.start_s, at_s, said.strip(), why))

    def _clear(self, key: tuple[str, str], at_s: float) -> None:
        since = self._raised.pop(key, None)
        if since is None:
            return
        if key not in self._conditions and len(self._conditions) == _MOST_CONDITIONS:
            key = ("other conditions", "")
        start_s, cause = since
        name = " ".join(filter(None, key))
        said = f"{name}\n{cause}\n{from_to(start_s, at_s)}"
        self._conditions.setdefault(key, Lane(name=name)).spans.append(
            _CONDITION.span(start_s, at_s, said)
        )


def _condition(fields: Mapping[str, object]) -> tuple[str, str]:
    return str(fields.get("code", "")), str(fields.get("subject", ""))
