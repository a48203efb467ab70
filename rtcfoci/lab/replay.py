"""A recording fed through the core again: the same inputs must have the same effects, byte for byte.

In: making the machines, giving them their inputs, comparing. Out: the file (`tracefile`), and which machines
are recorded (`rtcfoci.call.trace`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rtcfoci.call.handles import handle_of, own_keys
from rtcfoci.call.sessions import reading_policies
from rtcfoci.call.trace import INPUTS, effects_of, line, plain
from rtcfoci.core.conditions import Conditions
from rtcfoci.core.key_messages import Key
from rtcfoci.core.keys import KeyMachine
from rtcfoci.core.lifecycle import Lifecycle
from rtcfoci.core.notifications import Notifications
from rtcfoci.core.session import Session, SessionDiff
from rtcfoci.core.signals import SignalInbox
from rtcfoci.errors import UsageError
from rtcfoci.lab.tracefile import Record, TraceFile
from rtcfoci.plugin.manager import PluginManager

__all__ = ["Difference", "Replay", "replay"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay first did something else."""

    number: int
    """The line of the input."""
    input: str
    recorded: Sequence[str]
    """The lines of its effects."""
    replayed: Sequence[str]


@dataclass(slots=True)
class Replay:
    """What became of a replay."""

    inputs: int = 0
    effects: int = 0
    difference: Difference | None = None


def replay(trace: TraceFile, plugins: PluginManager) -> Replay:
    """Feed a recording through the core, up to the first difference.

    :raises UsageError: when a line cannot be what it says.
    """
    machines = _Machines(trace, plugins)
    done = Replay()
    records = list(trace.records)
    for place, record in enumerate(records):
        if record.kind == "machine":
            machines.make(record)
        if record.kind != "input":
            continue
        recorded = []
        for effect in records[place + 1 :]:
            if effect.kind not in ("effect", "raised"):
                break
            recorded.append(effect.text)
        replayed = machines.give(record)
        cut = not trace.complete and place + 1 + len(recorded) == len(records)
        if recorded != (replayed[: len(recorded)] if cut else replayed):
            done.difference = Difference(record.number, record.named, recorded, replayed)
            return done
        done.inputs += 1
        done.effects += len(recorded)
    return done


@dataclass(slots=True)
class _Machines:
    """The machines of the call, made again."""

    trace: TraceFile
    plugins: PluginManager
    made: dict[str, Any] = field(default_factory=dict)
    taken: Mapping[str, object] = field(default_factory=dict)
    """What the session was given last."""
    found: Sequence[SessionDiff] = ()
    """And what changed by it."""

    def make(self, record: Record) -> None:
        """Make the machine that a line names."""
        try:
            self.made[record.named] = self._made(record)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._unknown(record) from error

    def _made(self, record: Record) -> object:
        part = self.trace.part
        match record.named:
            case "conditions":
                return Conditions()
            case "session":
                policies = {p.name: p for p in reading_policies(self.plugins)}
                policy = policies.get(str(record.fields.get("policy")))
                if policy is None:
                    raise self._unknown(record)
                return Session(part(record, "slot"), self.trace.dialects, policy=policy)
            case "signals" if "session" in self.made:
                has = self.made["session"].has
                return SignalInbox(part(record, "slot"), part(record, "own"), has)
            case "notifications" if "session" in self.made:
                own = part(record, "own")
                return Notifications(
                    self.made["session"], user_id=own.user_id, device_id=own.device_id or ""
                )
            case "keys" if "session" in self.made:
                return KeyMachine(
                    part(record, "slot"),
                    part(record, "own"),
                    random_bytes=own_keys(),
                    config=part(record, "config"),
                )
            case "lifecycle":
                return Lifecycle(part(record, "config"))
        raise self._unknown(record)

    def give(self, record: Record) -> list[str]:
        """Give a machine its input; what comes out, as lines."""
        name, _, method = record.named.partition(".")
        if name not in self.made or method not in INPUTS[name]:
            raise self._unknown(record)
        given = self.trace.arguments(record)
        match name, method:
            case "notifications", _:
                given["changes"] = self.found
                if method == "receive":
                    given.setdefault("event", self.taken.get("event"))
            case "keys", "set_members":
                given.setdefault("members", self.made["session"].members)
        try:
            result = getattr(self.made[name], method)(**given)
        except Exception as error:
            return [line({"raised": type(error).__name__})]
        if name == "session":
            self.taken, self.found = given, result
        return [line({"effect": plain(effect, _as_is)}) for effect in effects_of(result)]

    def _unknown(self, record: Record) -> UsageError:
        return UsageError(
            f"line {record.number} of the recording cannot be replayed",
            why=f"nothing here is called {record.named[:60]!r}",
            do=f"replay it with rtcfoci {self.trace.made_by}, which made it",
        )


def _as_is(_name: str, handle: object) -> object:
    """Secrets of a recording are handles already."""
    return handle_of(handle) if isinstance(handle, Key) else handle
