"""A recording of a call read line by line, whatever is in the file.

In: the lines as values, their number, where the recording breaks off, and the arguments of an input as the
core takes them. Out: writing one (`rtcfoci.call.trace`), feeding it through the core (`replay`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtcfoci.call.presence import Writer
from rtcfoci.call.sessions import installed_dialects
from rtcfoci.call.trace import VERSION
from rtcfoci.core import effects as fx
from rtcfoci.core.dialects import Dialect, OwnMembership, WritableDialect
from rtcfoci.core.keys import KeyConfig
from rtcfoci.core.lifecycle import LifecycleConfig
from rtcfoci.core.model import (
    FocusSelection,
    Member,
    Membership,
    Now,
    RoomEvent,
    Slot,
    Transport,
)
from rtcfoci.errors import UsageError
from rtcfoci.matrix.client import DelayedEvent
from rtcfoci.plugin.manager import PluginManager

__all__ = ["Record", "TraceFile", "is_trace", "read_trace"]

_LINES = ("machine", "input", "effect", "raised", "end")


@dataclass(frozen=True, slots=True)
class Record:
    """One line."""

    number: int
    """Counted from 1."""
    kind: str
    """`machine`, `input`, `effect`, `raised` or `end`."""
    fields: Mapping[str, object]
    text: str
    """As it stands in the file."""

    @property
    def named(self) -> str:
        """What the line says in the first place: of an input, `machine.method`."""
        said = self.fields[self.kind]
        return said if isinstance(said, str) else ""

    @property
    def effect(self) -> Mapping[str, object]:
        """The effect of this line."""
        said = self.fields[self.kind]
        return said if isinstance(said, dict) else {}


@dataclass(slots=True)
class TraceFile:
    """A recording."""

    made_by: str
    """The version of rtcfoci that recorded it."""
    dialects: Sequence[Dialect]
    """What the session of the call read."""
    records: Sequence[Record]
    complete: bool
    """Whether the call was recorded to its end."""

    def arguments(self, record: Record) -> dict[str, Any]:
        """Give the arguments of an input. :raises UsageError: when they are none."""
        try:
            return {
                name: self._argument(name, value)
                for name, value in record.fields.items()
                if name != "input"
            }
        except _WRONG as error:
            raise _damaged(record.number, f"{type(error).__name__}: {error}") from error

    def part(self, record: Record, name: str) -> Any:  # noqa: ANN401 - of any kind
        """Give a part that a machine was made of; None where it was made without."""
        try:
            value = record.fields[name]
            return None if value is None else _value(value)
        except _WRONG as error:
            raise _damaged(record.number, f"{type(error).__name__}: {error}") from error

    def _argument(self, name: str, value: Any) -> object:  # noqa: ANN401 - checked as it is taken apart
        if name == "now":
            s, ts_ms = value
            return Now(s, ts_ms)
        if name == "writer":
            written = [self._writable(each) for each in value["written"]]
            return Writer(self._writable(value["dialect"]), _value(value["own"]), written)
        if name in ("members", "lingering"):
            return [_joined(_value(member), since_ts_ms) for member, since_ts_ms in value]
        return _value(value) if name in _VALUES else value

    def _writable(self, name: str) -> WritableDialect:
        found: Any = {dialect.name: dialect for dialect in self.dialects}[name]
        dialect: WritableDialect = found
        return dialect


def is_trace(text: str) -> bool:
    """Tell a recording from everything else by its beginning."""
    return text.startswith('{"rtcfoci_trace":')


def read_trace(path: str, text: str, plugins: PluginManager) -> TraceFile:
    """Read a recording.

    :param path: what the file is called, for errors.
    :raises UsageError: when it is none, of another version, or damaged elsewhere than at its end.
    """
    lines = text.split("\n")[:-1]  # what ends without a line's end was cut off while it was written
    records: list[Record] = []
    head = _object(lines[0]) if lines else None
    if head is None or "rtcfoci_trace" not in head:
        raise UsageError(
            f"{path} is no recording of a call",
            why="its first line does not say so",
            do="name a file that rtcfoci join --trace wrote",
        )
    if head["rtcfoci_trace"] != VERSION:
        raise UsageError(
            f"{path} is a recording of another version",
            why=f"it says {str(head['rtcfoci_trace'])[:20]}, and this rtcfoci reads {VERSION}",
            do="replay it with the rtcfoci that made it",
        )
    for number, text_of in enumerate(lines[1:], 2):
        fields = _object(text_of)
        kind = next((kind for kind in _LINES if fields and kind in fields), "")
        if fields is None or not kind:
            raise _damaged(number, "it is nothing that a recording holds")
        records.append(Record(number, kind, fields, text_of))
    return TraceFile(
        str(head.get("rtcfoci", "?"))[:40],
        _dialects(path, head.get("dialects"), plugins),
        records,
        bool(records) and records[-1].kind == "end",
    )


def _dialects(path: str, names: object, plugins: PluginManager) -> Sequence[Dialect]:
    installed = {dialect.name: dialect for dialect in installed_dialects(plugins)}
    if not isinstance(names, list):
        names = []
    missing = [str(name)[:40] for name in names if name not in installed]
    if missing:
        raise UsageError(
            f"{path} cannot be read here",
            why=f"its call read dialects that are not installed: {', '.join(missing)}",
            do="install the plugins that bring them",
        )
    return [installed[name] for name in names]


def _object(text: str) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _damaged(number: int, why: str) -> UsageError:
    return UsageError(
        f"line {number} of the recording is damaged", why=why, do="record the call again"
    )


def _value(given: Any) -> Any:  # noqa: ANN401 - checked as it is taken apart
    """Make a value of the core; what events and members contain stays JSON."""
    found = {name: value for name, value in given.items() if name != "is"}
    for name, make in _FIELDS.items():
        if name in found:
            found[name] = make(found[name])
    return _KINDS[given["is"]](**found)


def _joined(member: Member, created_ts_ms: int) -> Membership:
    """Make a membership that says who and since when, which is all that was recorded of it."""
    return Membership(
        member=member,
        slot_id="",
        transports=(),
        can_subscribe=None,
        focus_selection=FocusSelection.OWN,
        application={},
        created_ts_ms=created_ts_ms,
        expires_ts_ms=created_ts_ms,
        dialect="",
        event_id="",
        room_id="",
    )


_KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        RoomEvent, Member, Slot, OwnMembership, Transport, LifecycleConfig, KeyConfig, DelayedEvent, fx.Done,
        fx.Listed, fx.Scheduled, fx.Sent, fx.Failure,
    )
}  # fmt: skip
_VALUES = ("event", "member", "result")
"""Arguments that are such values; all others are what they are in JSON."""
_FIELDS: Mapping[str, Callable[[Any], object]] = {
    "slot": _value,
    "member": _value,
    "transports": lambda all_: tuple(map(_value, all_)),
    "events": lambda all_: tuple(map(_value, all_)),
    "can_subscribe": tuple,
    "outcome": fx.Outcome,
}
_WRONG = (LookupError, TypeError, ValueError, AttributeError)
"""What a value raises that was damaged."""
