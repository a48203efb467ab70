"""A verdict on membership events: which dialect each is, what is wrong with it, and who would see the member.

In: the verdict on one event, and on all that was given. Out: the clients' rules (`readers`), completing what
was given (`given`), showing it (`rtcfoci.cli.lint`).

Each event is judged for itself, as the current one of its key: what a later event does to it is for
`rtcfoci session`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rtcfoci.core.dialects import Dialect, Leave, Memberships, Parsed, Problems, parse_event
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.model import Membership, RoomEvent, Slot, SlotStatus
from rtcfoci.core.policies import RoomView
from rtcfoci.core.slots import SLOT_EVENT_TYPES, asks_encryption, read_slot
from rtcfoci.errors import Problem
from rtcfoci.lab.given import Given, GivenEvent
from rtcfoci.lab.readers import READERS, Opinion, Reader, Setting
from rtcfoci.lab.roomfile import FileEvent, finite

__all__ = ["Finding", "lint"]

_MAX_REASONS = 16
"""More reasons of one reader than these are not told."""
_ENCRYPTED = Problem("encrypted", "it is encrypted and was not decrypted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one event."""

    entry: FileEvent
    assumed: Sequence[str]
    dialects: Sequence[str]
    """The generation it is of; several where its form is the same in all; none when no known one."""
    says: str
    """`membership`, `leave`, or empty when nothing can be made of it."""
    members: Sequence[Membership]
    problems: Sequence[Problem]
    """What is wrong with it."""
    dangers: Sequence[Problem]
    """What about it crashes other people's clients."""
    opinions: Sequence[tuple[Reader, Opinion]]

    @property
    def harmless(self) -> bool:
        """Whether it is valid, and crashes nobody's client."""
        return not self.problems and not self.dangers

    def as_json(self) -> dict[str, object]:
        """Give all of it as JSON values."""
        entry = self.entry
        return {
            **({} if entry.event_id is None else {"event_id": entry.event_id}),
            "index": entry.index,
            "type": entry.type,
            "assumed": list(self.assumed),
            "dialects": list(self.dialects),
            "says": self.says,
            "members": [
                {
                    "user_id": m.member.user_id,
                    "device_id": m.member.device_id,
                    "member_id": m.member.member_id,
                    "slot_id": m.slot_id,
                }
                for m in self.members
            ],
            "problems": _words(self.problems),
            "dangers": _words(self.dangers),
            "readers": [
                {
                    "reader": reader.name,
                    "verdict": opinion.verdict.value,
                    "focus": finite(opinion.focus),
                    "why": list(opinion.why),
                    "evidence": reader.evidence,
                }
                for reader, opinion in self.opinions
            ],
        }


def lint(
    given: Given,
    dialects: Sequence[Dialect],
    slot: Slot,
    *,
    now_ts_ms: int | None = None,
    encrypted: bool = False,
    readers: Sequence[Reader] = READERS,
) -> Iterator[Finding]:
    """Judge every membership event that was given.

    :param dialects: every generation to be told.
    :param now_ts_ms: when to judge; None for the moment at which each event was sent.
    :param encrypted: whether the room is, where no file says so.
    """
    types = {kind for dialect in dialects for kind in dialect.event_types}
    room = _room(given, slot, encrypted)
    joined = given.joined() if given.is_file else None
    for item in given.events:
        event = item.entry.event
        if given.is_file and not _is_of(item.entry, types):
            continue
        if event is None:
            yield _unread(item)
            continue
        setting = Setting(
            slot=slot,
            now_ts_ms=event.origin_server_ts_ms if now_ts_ms is None else now_ts_ms,
            room=room,
            joined=joined is None or event.sender in joined,
        )
        if now_ts_ms is None:
            event = replace(event, received_ts_ms=event.origin_server_ts_ms)
        yield _judged(item, event, setting, dialects, readers)


def _room(given: Given, slot: Slot, encrypted: bool) -> RoomView:
    """Take from a file what it tells of the room; else the slot is open, and as encrypted as the room."""
    if not given.is_file:
        return RoomView(
            slot_status=SlotStatus.OPEN, slot_encrypted=encrypted, room_encrypted=encrypted
        )
    found = given.state(*SLOT_EVENT_TYPES, state_key=slot.slot_id)
    return RoomView(
        slot_status=SlotStatus.ABSENT if found is None else read_slot(found, slot.application),
        slot_encrypted=asks_encryption(found),
        room_encrypted=given.state("m.room.encryption", state_key="") is not None,
    )


def _is_of(entry: FileEvent, types: set[str]) -> bool:
    """Tell whether an entry of a file is for us to judge: a membership, or what may have been one."""
    event = entry.event
    if event is None or event.type != "m.room.encrypted":
        return entry.type is None or entry.type in types
    return event.sticky_duration_ms is not None


def _unread(item: GivenEvent) -> Finding:
    """Tell of what is no event at all."""
    return Finding(
        entry=item.entry,
        assumed=item.assumed,
        dialects=(),
        says="",
        members=(),
        problems=item.entry.problems,
        dangers=(),
        opinions=(),
    )


def _judged(
    item: GivenEvent,
    event: RoomEvent,
    setting: Setting,
    dialects: Sequence[Dialect],
    readers: Sequence[Reader],
) -> Finding:
    parsed = parse_event(dialects, event, setting.slot.room_id)
    members, problems = _said(parsed)
    return Finding(
        entry=item.entry,
        assumed=item.assumed,
        dialects=_names(parsed, dialects, event, members),
        says="leave" if isinstance(parsed, Leave) else "membership" if members else "",
        members=members,
        problems=(_ENCRYPTED,) if event.type == "m.room.encrypted" else problems,
        dangers=tuple(dangers(event.content, event.type, sent_ts_ms=event.origin_server_ts_ms)),
        opinions=tuple((reader, _short(reader.read(event, setting))) for reader in readers),
    )


def _said(parsed: Parsed) -> tuple[Sequence[Membership], Sequence[Problem]]:
    if isinstance(parsed, Membership):
        return (parsed,), ()
    if isinstance(parsed, Memberships):
        return parsed.memberships, parsed.problems
    return (), parsed.problems if isinstance(parsed, Problems) else ()


def _names(
    parsed: Parsed, dialects: Sequence[Dialect], event: RoomEvent, members: Sequence[Membership]
) -> Sequence[str]:
    if members:
        return tuple(dict.fromkeys(member.dialect for member in members))
    if isinstance(parsed, Leave) and parsed.dialect == "D7":
        return (parsed.dialect,)
    return tuple(dialect.name for dialect in dialects if dialect.reads(event))


def _short(opinion: Opinion) -> Opinion:
    left = len(opinion.why) - _MAX_REASONS
    if left <= 0:
        return opinion
    return replace(opinion, why=(*opinion.why[:_MAX_REASONS], f"and {left} more"))


def _words(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"code": problem.code, "message": problem.message} for problem in problems]
