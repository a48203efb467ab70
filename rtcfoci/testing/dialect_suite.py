"""The suites for dialects and reading policies: what each must do, whoever wrote it.

In: `DialectConformance` and `ReadingPolicyConformance`, to be subclassed in a test module, and `received`,
which makes the events they are given. Out: focus types (`conformance`).

Hostile events are made from the author's own, every place in them left out or replaced by junk, so a run is
the same every time.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rtcfoci.core.dialects import (
    Dialect,
    Leave,
    Memberships,
    OwnEvent,
    OwnMembership,
    Parsed,
    Problems,
    WritableDialect,
    parse_event,
)
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.model import JsonObject, Member, Membership, RoomEvent, Slot, Transport
from rtcfoci.core.model import SlotStatus as Status
from rtcfoci.core.policies import ReadingPolicy, RoomView
from rtcfoci.core.problems import KINDS
from rtcfoci.core.sticky import read_sticky_key
from rtcfoci.errors import Problem
from rtcfoci.plugin import DialectInfo, ReadingPolicyInfo
from rtcfoci.plugin.builtin import rtcfoci_dialects
from rtcfoci.plugin.reference import resolve
from rtcfoci.testing.descriptors import failures_of

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction

__all__ = ["DialectConformance", "ReadingPolicyConformance", "received"]

_ROOM_ID = "!room:example.org"
_USER_ID = "@alice:example.org"
_TS_MS = 1_750_000_000_000
_JUNK: tuple[object, ...] = (
    None, True, -1, 2**60, 1.5, "", "x" * 100_000, "\ud800", "@mallory:example.org", [], [None], {},
    {"type": 1}, [{"type": 1}],
)  # fmt: skip
_OWN_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
_LIVEKIT: JsonObject = {
    "type": "livekit",
    "livekit_service_url": "https://sfu.example.org",
    "livekit_alias": _ROOM_ID,
    "org.example.more": [1, {"a": None}],
}
_MESH: JsonObject = {"type": "rtcfoci.mesh", "org.example.more": True}


def received(
    event_type: str,
    content: JsonObject,
    *,
    sender: str = _USER_ID,
    state_key: str | None = None,
    sticky_duration_ms: int | None = None,
) -> RoomEvent:
    """Make an event as it comes in: state with a state key, sticky with a duration."""
    return RoomEvent(
        type=event_type,
        sender=sender,
        content=content,
        event_id="$event",
        origin_server_ts_ms=_TS_MS,
        received_ts_ms=_TS_MS,
        state_key=state_key,
        sticky_duration_ms=sticky_duration_ms,
    )


class DialectConformance:
    """What every dialect must do. Subclass it, and set the descriptor and some events."""

    dialect: ClassVar[DialectInfo]
    joins: ClassVar[Sequence[RoomEvent]]
    """Memberships of the dialect, for instance as a client sends them."""
    leaves: ClassVar[Sequence[RoomEvent]]
    """Events that say a device has left."""

    @property
    def made(self) -> WritableDialect:
        """The dialect itself; only one that is writable can write."""
        return _made(self.dialect)

    # What it is

    def test_the_descriptor_is_sound(self) -> None:
        assert not failures_of("rtcfoci_dialects", self.dialect)
        made = self.made
        assert made.name == self.dialect.name, "descriptor and class have different names"
        assert made.event_types == self.dialect.event_types, "... and read different events"
        assert isinstance(made.sticky, bool)
        writes = all(hasattr(made, name) for name in ("join", "refresh", "leave"))
        assert writes or not self.dialect.writable, "it is declared writable and writes nothing"
        assert self.joins, "the suite needs a membership to work with"
        assert self.leaves, "... and a leave"

    # What it reads

    def test_memberships_are_read(self) -> None:
        for event in self.joins:
            assert self.made.reads(event), f"reads() does not know {event.content}"
            parsed = self._parse(event)
            assert _memberships(parsed), f"not a membership: {parsed}"
            for membership in _memberships(parsed):
                assert membership.member.user_id == event.sender, "it speaks for somebody else"
                assert membership.event_id == event.event_id
                assert membership.room_id == _ROOM_ID
                assert membership.slot_id
                assert membership.created_ts_ms <= event.origin_server_ts_ms
                assert membership.expires_ts_ms > event.origin_server_ts_ms
                for transport in membership.transports:
                    assert transport.raw.get("type") == transport.type
                    assert transport.raw in _objects(event.content), "a transport was changed"

    def test_leaves_are_read(self) -> None:
        for event in self.leaves:
            assert self.made.reads(event), f"reads() does not know {event.content}"
            parsed = self._parse(event)
            assert isinstance(parsed, Leave), f"not a leave: {parsed}"

    def test_no_other_dialect_reads_its_memberships(self) -> None:
        for event in self.joins:
            rivals = [
                info.name
                for info in rtcfoci_dialects()
                if info.name != self.dialect.name and _made(info).reads(event)
            ]
            assert not rivals, f"{rivals} reads it first: {event.content}"

    def test_other_events_are_left_alone(self) -> None:
        event = self.joins[0]
        for other in ("m.room.message", "", event.type + "s"):
            assert not self.made.reads(replace(event, type=other))

    def test_what_was_read_is_not_changed(self) -> None:
        for event in (*self.joins, *self.leaves):
            before = copy.deepcopy(event.content)
            self._parse(event)
            assert event.content == before

    # What it makes of hostile events

    def test_nothing_raises_and_every_problem_has_a_published_code(self) -> None:
        for event in self._hostile():
            parsed = self._parse(event)
            assert isinstance(parsed, Membership | Memberships | Leave | Problems)
            if isinstance(parsed, Problems):
                assert parsed.problems, f"refused without a reason: {event.content}"
                _check_codes(parsed.problems)
            for membership in _memberships(parsed):
                assert membership.member.user_id == event.sender, event.content
                str(membership.member).encode(), membership.slot_id.encode()

    def test_somebody_else_s_state_is_not_believed(self) -> None:
        for event in self.joins:
            if event.state_key is None or event.sender not in event.state_key:
                continue
            for membership in _memberships(self._parse(replace(event, sender="@mallory:evil.org"))):
                raise AssertionError(f"under the key of {event.sender}: {membership.member}")

    def test_work_grows_no_faster_than_the_event(self) -> None:
        for event in self.joins:
            for grow in (_more_fields, _more_items):
                small, large = (replace(event, content=grow(event.content, n)) for n in (20, 160))
                more = len(json.dumps(large.content)) / len(json.dumps(small.content))
                lines = [_lines_run(partial(self._parse, e)) for e in (small, large)]
                assert lines[1] <= 1.5 * more * lines[0], f"{grow.__name__}: {lines} lines"

    # What it writes

    def test_what_is_written_is_read_back(self) -> None:
        if not self.dialect.writable:
            return
        own = _own(self.made.sticky)
        for written in (
            self.made.join(own),
            self.made.refresh(own, created_ts_ms=_TS_MS - 60_000, now_ts_ms=_TS_MS),
        ):
            (membership,) = _memberships(self._parse(_sent(written)))
            assert membership.member == own.member
            assert membership.slot_id == own.slot.slot_id
            assert membership.application["type"] == own.slot.application
            assert membership.application["org.example.mood"] == "good"
            assert [t.raw for t in membership.transports] == [_LIVEKIT, _MESH]
            # A dialect may have no word for what a member can receive.
            assert membership.can_subscribe in (None, own.can_subscribe)
        parsed = self._parse(_sent(self.made.leave(own)))
        assert isinstance(parsed, Leave), f"its own leave is no leave: {parsed}"

    def test_join_refresh_and_leave_share_one_key(self) -> None:
        if not self.dialect.writable:
            return
        own = _own(self.made.sticky)
        events = [
            self.made.join(own),
            self.made.refresh(own, created_ts_ms=_TS_MS - 60_000, now_ts_ms=_TS_MS),
            self.made.leave(own),
        ]
        assert len({_key(event, self.made.sticky) for event in events}) == 1
        assert {event.type for event in events} == {self.dialect.event_types[0]}
        other = replace(own, member=replace(own.member, device_id="OTHER", member_id="other"))
        assert _key(self.made.join(other), self.made.sticky) != _key(events[0], self.made.sticky)
        assert self.made.leave(own) == self.made.leave(own), "a leave changes from time to time"

    def test_what_is_written_crashes_nobody(self) -> None:
        if not self.dialect.writable:
            return
        own = _own(self.made.sticky)
        for transports in (own.transports, own.transports[:1], own.transports[1:]):
            event = self.made.join(replace(own, transports=transports))
            assert not (found := dangers(event.content, event.type)), found

    def test_unknown_fields_survive_a_round_trip(self) -> None:
        if not self.dialect.writable:
            return
        own = _own(self.made.sticky)
        content = {**self.made.join(own).content, "org.example.unknown": {"a": [1, None]}}
        sent = replace(_sent(self.made.join(own)), content=content)
        (membership,) = _memberships(self._parse(sent))
        again = replace(
            own,
            transports=membership.transports,
            application={k: v for k, v in membership.application.items() if k != "type"},
            more=membership.more,
        )
        assert self.made.join(again).content == content

    def _parse(self, event: RoomEvent) -> Parsed:
        return parse_event([self.made], event, _ROOM_ID)

    def _hostile(self) -> Iterator[RoomEvent]:
        for event in (*self.joins, *self.leaves):
            yield replace(event, content=json.loads("[]"))
            yield replace(event, content=_nested(10_000))
            for change in (
                {"state_key": None}, {"state_key": ""}, {"sticky_duration_ms": None},
                {"sticky_duration_ms": -1}, {"origin_server_ts_ms": 0}, {"received_ts_ms": 2**53},
                {"encrypted": True, "encrypted_by_device_id": "OTHER"},
            ):  # fmt: skip
                yield replace(event, **change)
            for content in _spoilt(event.content):
                yield replace(event, content=content)


class ReadingPolicyConformance:
    """What every reading policy must do. Subclass it, and set the descriptor."""

    policy: ClassVar[ReadingPolicyInfo]

    def test_the_descriptor_is_sound(self) -> None:
        assert not failures_of("rtcfoci_reading_policies", self.policy)
        assert isinstance(self._policy(), ReadingPolicy)

    def test_it_says_why_a_membership_does_not_count(self) -> None:
        for membership, event_type, room in _everything():
            refused = self._policy().refuses(membership, event_type, room)
            if refused is not None:
                assert isinstance(refused, Problem)
                _check_codes([refused])

    def test_it_says_the_same_every_time(self) -> None:
        policy = self._policy()
        said = [[policy.refuses(*given) for given in _everything()] for _ in range(2)]
        assert said[0] == said[1]

    def test_it_counts_somebody(self) -> None:
        policy = self._policy()
        assert any(policy.refuses(*given) is None for given in _everything())

    def _policy(self) -> ReadingPolicy:
        policy = resolve(self.policy.policy, plugin=self.policy.name)
        assert isinstance(policy, ReadingPolicy), f"{self.policy.policy} is no ReadingPolicy"
        return policy


def _made(info: DialectInfo) -> WritableDialect:
    found = resolve(info.dialect, plugin=info.name)
    dialect: WritableDialect = found() if isinstance(found, type) else found  # type: ignore[assignment]
    return dialect


def _check_codes(problems: Sequence[Problem]) -> None:
    for problem in problems:
        known = problem.code in KINDS or _OWN_CODE.fullmatch(problem.code)
        assert known, f"{problem.code} is neither published nor has a prefix of its own"
        assert problem.message, f"{problem.code} has no words"


def _memberships(parsed: Parsed) -> Sequence[Membership]:
    if isinstance(parsed, Memberships):
        return parsed.memberships
    return (parsed,) if isinstance(parsed, Membership) else ()


def _own(sticky: bool) -> OwnMembership:
    member_id = "0123456789abcdef" if sticky else f"{_USER_ID}:DEVICE"
    return OwnMembership(
        slot=Slot(room_id=_ROOM_ID),
        member=Member(user_id=_USER_ID, device_id="DEVICE", member_id=member_id),
        transports=(Transport("livekit", _LIVEKIT), Transport("rtcfoci.mesh", _MESH)),
        can_subscribe=("livekit", "rtcfoci.mesh"),
        application={"org.example.mood": "good"},
    )


def _sent(written: OwnEvent) -> RoomEvent:
    content = json.loads(json.dumps(written.content))
    return received(
        written.type,
        content,
        state_key=written.state_key,
        sticky_duration_ms=written.sticky_duration_ms,
    )


def _key(event: OwnEvent, sticky: bool) -> str:
    if not sticky:
        assert event.state_key is not None, "a state dialect writes state"
        assert event.sticky_duration_ms is None
        owner = event.state_key.removeprefix("_")
        assert f"{owner}_".startswith(f"{_USER_ID}_"), "servers refuse another's state key"
        return event.state_key
    assert event.state_key is None, "a sticky dialect writes no state"
    assert event.sticky_duration_ms
    key = read_sticky_key(event.content)
    assert isinstance(key, str), key
    assert "msc4354_sticky_key" in event.content, "deployed clients know only this key"
    return key


def _objects(value: object) -> list[object]:
    if isinstance(value, dict):
        return [value, *(found for inner in value.values() for found in _objects(inner))]
    return (
        [found for inner in value for found in _objects(inner)] if isinstance(value, list) else []
    )


def _nested(depth: int) -> JsonObject:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def _spoilt(content: JsonObject) -> Iterator[JsonObject]:
    """Leave out each value in turn, at every depth, or put junk in its place."""
    places: list[tuple[object, ...]] = [()]
    while places:
        path = places.pop()
        value: object = content
        for step in path:
            value = value[step]  # type: ignore[index]
        if isinstance(value, dict):
            places += [(*path, key) for key in value]
        elif isinstance(value, list):
            places += [(*path, index) for index in range(len(value))]
        if path:
            yield _changed(content, path, lambda holder, last: holder.__delitem__(last))
            for junk in _JUNK:
                yield _changed(
                    content, path, lambda holder, last, junk=junk: holder.__setitem__(last, junk)
                )


def _changed(
    content: JsonObject, path: tuple[object, ...], change: Callable[..., None]
) -> JsonObject:
    copied = copy.deepcopy(dict(content))
    holder: object = copied
    for step in path[:-1]:
        holder = holder[step]  # type: ignore[index]
    change(holder, path[-1])
    return copied


def _more_fields(content: JsonObject, number: int) -> JsonObject:
    copied = copy.deepcopy(dict(content))
    for found in _objects(copied):
        found.update({f"x{n}": n for n in range(number)})  # type: ignore[attr-defined]
    return copied


def _more_items(content: JsonObject, number: int) -> JsonObject:
    copied = copy.deepcopy(dict(content))
    copied.update(
        {key: value * number for key, value in content.items() if isinstance(value, list)}
    )
    return copied


def _lines_run(work: Callable[[], object]) -> int:
    """Count the lines of Python that run: unlike time, it is the same on a busy machine."""
    count = 0

    def trace(frame: FrameType, what: str, _: object) -> TraceFunction:
        nonlocal count
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def _everything() -> Iterator[tuple[Membership, str, RoomView]]:
    """Give memberships of every dialect, and of an unknown one, in every kind of room."""
    for info in rtcfoci_dialects():
        made: Dialect = _made(info)
        if not info.writable:
            continue
        written = _made(info).join(_own(made.sticky))
        parsed = made.parse(_sent(written), _ROOM_ID)
        for membership in _memberships(parsed):
            for name in ("D1", "D4", "D7", membership.dialect, "org.example.unknown"):
                for status in Status:
                    for flags in range(8):
                        room = RoomView(
                            slot_status=status,
                            slot_encrypted=bool(flags & 1),
                            room_encrypted=bool(flags & 2),
                        )
                        given = replace(membership, dialect=name, encrypted=bool(flags & 4))
                        yield given, written.type, room
