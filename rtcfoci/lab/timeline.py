"""Who was in which slot on which focus when: the picture of a room file, or of the recording of a call.

In: folding events into lanes, with the timers between them, for each slot. Out: what else a recording tells
of its call (`health`), drawing (`lanes`), the files (`roomfile`, `tracefile`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from rtcfoci.core.dialects import Dialect, Memberships, parse_event
from rtcfoci.core.diffs import (
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SessionDiff,
    SlotChanged,
)
from rtcfoci.core.model import (
    FocusSelection,
    Member,
    Membership,
    Now,
    RoomEvent,
    Slot,
    SlotStatus,
)
from rtcfoci.core.policies import ReadingPolicy
from rtcfoci.core.session import Session
from rtcfoci.core.slots import SLOT_EVENT_TYPES
from rtcfoci.errors import UsageError
from rtcfoci.lab.health import Health
from rtcfoci.lab.lanes import Axis, Lane, Legend, Picture, Section, from_to, moment
from rtcfoci.lab.report import assumed_joins
from rtcfoci.lab.roomfile import RoomFile
from rtcfoci.lab.tracefile import Record, TraceFile

__all__ = ["of_room", "of_trace"]

_MOST_SLOTS, _MOST_LANES = 16, 200
_LATEST_TS_MS = 2**53 - 1
_DAY_S = 86400
_FOCUS_COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#d37295",
)  # fmt: skip
_LETTERS = "ABCDEFGH"
_WHY = {LeftReason.NOT_IN_ROOM: "not in the room", LeftReason.SLOT: "no longer counts"}
_OTHER_FOCI = Legend("#8d9199", "Z", "other foci")
_OPEN, _CLOSED = Legend("#c9d8c5", "-", "slot open"), Legend("#d9b3a8", "x", "slot closed")


def of_room(file: RoomFile, dialects: Sequence[Dialect], policy: ReadingPolicy) -> Picture:
    """Draw a room's events: one session per slot, up to the moment until which the room was followed.

    :param dialects: every generation to be read.
    """
    types = {kind for dialect in dialects for kind in dialect.event_types}
    events = list(_in_time(file))
    slots = list(_slots(events, dialects, file.room_id)) or [Slot(room_id=file.room_id)]
    foci = _Foci()
    drawn = [_Drawn(Session(slot, dialects, policy=policy), foci) for slot in slots[:_MOST_SLOTS]]
    assumed = assumed_joins(file)
    starts = [now.ts_ms for event, now in events if event.type in types]
    start = Now(0, starts[0] if starts else events[0][1].ts_ms if events else 0)
    for each in drawn:
        for event in assumed or ():
            each.session.receive(event, start)
        for event, now in events:
            each.receive(event, now)
    last_ts_ms = events[-1][1].ts_ms if events else start.ts_ms
    end_ts_ms = max(last_ts_ms, min(file.saved_ts_ms or 0, _LATEST_TS_MS))
    remarks = [f"policy {policy.name}"]
    if assumed is not None:
        remarks.append("every sender counts as joined to the room")
    if len(slots) > _MOST_SLOTS:
        remarks.append(f"{len(slots) - _MOST_SLOTS} more slots")
    return _picture(
        file.room_id,
        Axis(start_s=start.ts_ms / 1000, end_s=max(end_ts_ms, start.ts_ms + 1000) / 1000),
        [each.section(end_ts_ms) for each in drawn],
        foci,
        remarks,
    )


def of_trace(trace: TraceFile, policies: Mapping[str, ReadingPolicy]) -> Picture:
    """Draw the recording of a call as the call saw it, and what became of its own membership.

    :raises UsageError: when there is no call in it, or a line cannot be what it says.
    """
    foci, call, drawn = _Foci(), Health(), None
    now: Now | None = None
    first: Now | None = None
    for record in trace.records:
        if record.kind == "machine" and record.named == "session" and drawn is None:
            slot = trace.part(record, "slot")
            policy = policies.get(str(record.fields.get("policy")))
            if not isinstance(slot, Slot) or policy is None:
                raise _damaged(record)
            drawn = _Drawn(Session(slot, trace.dialects, policy=policy), foci)
        elif record.kind == "machine" and record.named == "signals" and drawn is not None:
            own = trace.part(record, "own")
            drawn.own = own if isinstance(own, Member) else None
        elif record.kind == "input":
            given = trace.arguments(record)
            now = _checked(record, given["now"], now) if "now" in given else now
            if now is None:
                continue
            first = first or now
            call.input(record, now.ts_ms / 1000)
            if drawn is not None and record.named == "session.receive":
                # What raised in the call raises again, and the call went on.
                with suppress(Exception):
                    drawn.receive(given["event"], now)
            elif drawn is not None and record.named == "session.handle_timer":
                drawn.until(now.ts_ms)
        elif record.kind == "effect" and now is not None:
            call.effect(record.effect, now.ts_ms / 1000)
    if drawn is None or first is None or now is None:
        raise UsageError(
            "the recording cannot be drawn",
            why="no call begins in it",
            do="record a call with rtcfoci join --trace",
        )
    end_s = now.ts_ms / 1000
    call.end(end_s)
    picture = _picture(
        drawn.session.slot.room_id,
        Axis(start_s=first.ts_ms / 1000, end_s=max(now.ts_ms, first.ts_ms + 1000) / 1000),
        [drawn.section(now.ts_ms), *call.sections()],
        foci,
        [f"policy {drawn.session.policy.name}"]
        + ([] if trace.complete else ["the recording breaks off here"]),
    )
    picture.shades = call.offline
    picture.legend += call.legend()
    return picture


def _picture(
    room_id: str, axis: Axis, sections: list[Section], foci: _Foci, remarks: Iterable[str]
) -> Picture:
    end = "%H:%M:%S" if axis.end_s - axis.start_s < _DAY_S else "%d %b %Y, %H:%M:%S"
    when = f"{moment(axis.start_s, '%d %b %Y, %H:%M:%S')} to {moment(axis.end_s, end)} UTC"
    letters = {span.letter for s in sections for lane in s.lanes for span in lane.spans}
    legend = [*foci.legend(), *(each for each in (_OPEN, _CLOSED) if each.letter in letters)]
    return Picture(
        title=room_id,
        subtitle="; ".join([when, *remarks]),
        axis=axis,
        sections=sections,
        legend=legend,
    )


# Time, and the slots of a file.


def _in_time(file: RoomFile) -> Iterator[tuple[RoomEvent, Now]]:
    """Give the events with the time of each, which never goes back."""
    ts_ms = 0
    for entry in file.events:
        event = entry.event
        if event is None:
            continue
        said = isinstance(entry.raw, dict) and "received_ts_ms" in entry.raw
        received_ts_ms = event.received_ts_ms if said else event.origin_server_ts_ms
        received_ts_ms = max(0, min(received_ts_ms, _LATEST_TS_MS))
        ts_ms = max(ts_ms, received_ts_ms)
        yield replace(event, received_ts_ms=received_ts_ms), Now(ts_ms / 1000, ts_ms)


def _slots(
    events: Iterable[tuple[RoomEvent, Now]], dialects: Sequence[Dialect], room_id: str
) -> Iterator[Slot]:
    """Find the slots that events speak of, in the order of their appearance."""
    seen: set[str] = set()
    for event, _ in events:
        for slot_id in _slot_ids(event, dialects, room_id):
            application, _hash_sign, name = slot_id.partition("#")
            slot = Slot(room_id=room_id, application=application, name=name)
            if slot_id not in seen and slot.slot_id == slot_id:
                seen.add(slot_id)
                yield slot


def _slot_ids(event: RoomEvent, dialects: Sequence[Dialect], room_id: str) -> Iterator[str]:
    if event.type in SLOT_EVENT_TYPES:
        if event.state_key is not None:
            yield event.state_key
        return
    readers = [dialect for dialect in dialects if event.type in dialect.event_types]
    if readers:
        parsed = parse_event(readers, event, room_id)
        said = parsed.memberships if isinstance(parsed, Memberships) else (parsed,)
        for each in said:
            membership = each if isinstance(each, Membership) else each.otherwise
            if membership is not None:
                yield membership.slot_id


# One slot.


@dataclass(slots=True)
class _Foci:
    """Every focus with a colour and a letter of its own, as far as they go."""

    _names: dict[str, Legend] = field(default_factory=dict)
    _others: bool = False

    def of(self, name: str) -> Legend:
        found = self._names.get(name)
        if found is None and len(self._names) < len(_FOCUS_COLOURS):
            number = len(self._names)
            found = Legend(_FOCUS_COLOURS[number], _LETTERS[number], name)
            self._names[name] = found
        self._others |= found is None
        return found or _OTHER_FOCI

    def legend(self) -> list[Legend]:
        return [*self._names.values(), *([_OTHER_FOCI] if self._others else [])]


@dataclass(slots=True)
class _Stay:
    """A member that is in the session, on one focus."""

    membership: Membership
    focus: str
    start_s: float
    place: int
    """Which of the lanes of its device: several memberships of one may count, each in its own."""
    refreshed_s: list[float] = field(default_factory=list)


class _Drawn:
    """One session as it goes on, and what has become of it so far."""

    def __init__(self, session: Session, foci: _Foci) -> None:
        self.session = session
        self.own: Member | None = None
        self._foci = foci
        self._lanes: dict[tuple[str, str, int], Lane] = {}
        self._places: dict[tuple[str, str], set[int]] = {}
        """Which lanes of a device are taken now."""
        self._stays: dict[Member, _Stay] = {}
        self._members: dict[tuple[str, str, str], Membership] = {}
        self._ages: list[tuple[int, tuple[str, str, str]]] = []
        """A heap: who joined when, with some who are gone."""
        self._oldest = ""
        """The focus of the oldest member."""
        self._slot: tuple[Legend, float] | None = None
        self._slot_lane = Lane(name="slot")

    def receive(self, event: RoomEvent, now: Now) -> None:
        """Take an event, after all that is due before it."""
        self.until(now.ts_ms)
        self._take(self.session.receive(event, now), now.ts_ms / 1000)

    def until(self, ts_ms: int) -> None:
        """Let time go on."""
        while (due := self.session.next_timer_ts_ms) is not None and due <= ts_ms:
            self._take(self.session.handle_timer(Now(due / 1000, due)), due / 1000)

    def section(self, end_ts_ms: int) -> Section:
        """End here, and give what there is to see."""
        self.until(end_ts_ms)
        end_s = end_ts_ms / 1000
        for stay in [*self._stays.values()]:
            until_s = stay.membership.expires_ts_ms / 1000
            soon = until_s - end_s < _DAY_S
            self._close(stay, end_s, f"expires {moment(until_s, '%H:%M')}" if soon else "")
        self._show_slot(SlotStatus.ABSENT, end_s)
        lanes = [*([self._slot_lane] if self._slot_lane.spans else []), *self._lanes.values()]
        title = self.session.slot.slot_id
        if not self._lanes:
            title += ": nobody"
        if len(lanes) > _MOST_LANES:
            title += f": the first {_MOST_LANES} of {len(lanes)}"
        return Section(title=title, lanes=lanes[:_MOST_LANES])

    def _take(self, diffs: Sequence[SessionDiff], at_s: float) -> None:
        if not diffs:
            return
        before = self._oldest
        self._look_for_the_oldest(diffs)
        for diff in diffs:
            match diff:
                case MemberJoined(membership) | MemberChanged(_, membership):
                    self._stay(membership, at_s)
                case MemberRefreshed(_, membership):
                    self._stay(membership, at_s)
                    self._stays[membership.member].refreshed_s.append(at_s)
                case MemberLeft(membership, reason):
                    stay = self._stays.get(membership.member)
                    if stay is not None and not self.session.has(membership.member):
                        self._close(stay, at_s, _WHY.get(reason, reason.value))
                case SlotChanged(status):
                    self._show_slot(status, at_s)
        if self._oldest != before:
            for stay in [*self._stays.values()]:
                self._stay(stay.membership, at_s)

    def _look_for_the_oldest(self, diffs: Sequence[SessionDiff]) -> None:
        # Of the session itself every question costs all its members.
        for diff in diffs:
            match diff:
                case MemberJoined(new) | MemberChanged(_, new) | MemberRefreshed(_, new):
                    self._members[new.member.order] = new
                    heappush(self._ages, (new.created_ts_ms, new.member.order))
                case MemberLeft(old) if not self.session.has(old.member):
                    self._members.pop(old.member.order, None)
        while self._ages:
            created_ts_ms, order = self._ages[0]
            membership = self._members.get(order)
            if membership is not None and membership.created_ts_ms == created_ts_ms:
                self._oldest = _used(membership)
                return
            heappop(self._ages)

    def _stay(self, membership: Membership, at_s: float) -> None:
        follows = membership.focus_selection is FocusSelection.OLDEST_MEMBERSHIP
        focus = self._oldest if follows else _used(membership)
        stay = self._stays.get(membership.member)
        if stay is not None and stay.focus == focus:
            stay.membership = membership
            return
        if stay is not None:
            self._close(stay, at_s, "")
        taken = self._places.setdefault(_device(membership.member), set())
        place = next(number for number in range(len(taken) + 1) if number not in taken)
        taken.add(place)
        self._stays[membership.member] = _Stay(membership, focus, at_s, place)
        self._foci.of(focus)  # in the order of their appearance
        self._lane(membership.member, place)

    def _lane(self, member: Member, place: int) -> Lane:
        """Give a lane of a device, whatever its member id."""
        ours = self.own is not None and self.own.order[:2] == member.order[:2]
        name = f"{member} ({place + 1})" if place else str(member)
        lane = Lane(name=f"{name} (us)" if ours else name)
        return self._lanes.setdefault((*_device(member), place), lane)

    def _close(self, stay: _Stay, at_s: float, why: str) -> None:
        membership = stay.membership
        member = membership.member
        del self._stays[member]
        self._places[_device(member)].remove(stay.place)
        legend = self._foci.of(stay.focus)
        said = f"{member}, {membership.dialect}\n{stay.focus}\n{from_to(stay.start_s, at_s)}\n{why}"
        self._lane(member, stay.place).spans.append(
            legend.span(stay.start_s, at_s, said.strip(), why, notches_s=stay.refreshed_s)
        )

    def _show_slot(self, status: SlotStatus, at_s: float) -> None:
        if self._slot is not None:
            legend, start_s = self._slot
            said = f"{legend.words}\n{from_to(start_s, at_s)}"
            self._slot_lane.spans.append(legend.span(start_s, at_s, said))
        absent = status is SlotStatus.ABSENT
        self._slot = None if absent else (_OPEN if status is SlotStatus.OPEN else _CLOSED, at_s)


def _device(member: Member) -> tuple[str, str]:
    return member.user_id, member.device_id or member.member_id


def _used(membership: Membership) -> str:
    """Name the focus that a member publishes on: the first of its transports."""
    if not membership.transports:
        return "no transport"
    # Where it is, only its type knows: a URL says it to people.
    found = membership.transports[0]
    urls = (value for value in found.raw.values() if isinstance(value, str) and "://" in value)
    return f"{found.type} {next(urls, '')}".strip()


def _checked(record: Record, now: Now, last: Now | None) -> Now:
    """Check the time of an input, which never goes back."""
    if type(now.ts_ms) is not int or not 0 <= now.ts_ms <= _LATEST_TS_MS:
        raise _damaged(record)
    return now if last is None or now.ts_ms >= last.ts_ms else last


def _damaged(record: Record) -> UsageError:
    return UsageError(
        f"line {record.number} of the recording is damaged",
        why="it holds nothing that a call could have seen",
        do="record the call again",
    )
