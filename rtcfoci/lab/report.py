"""What a session is, folded from the events of a file: its members, and why everything else is none.

In: folding, and the report as JSON values. Out: reading the file (`roomfile`), the rules (`rtcfoci.core`),
showing the report (`rtcfoci.cli.session`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rtcfoci.core.dialects import Dialect
from rtcfoci.core.diffs import (
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SessionDiff,
)
from rtcfoci.core.identity import backend_identity
from rtcfoci.core.model import Membership, Now, RoomEvent, Slot
from rtcfoci.core.policies import ReadingPolicy
from rtcfoci.core.session import Session
from rtcfoci.core.slots import SLOT_EVENT_TYPES
from rtcfoci.errors import Problem
from rtcfoci.lab.roomfile import FileEvent, RoomFile, finite

__all__ = ["Fold", "Step", "assumed_joins", "codes"]

_ENCRYPTED = Problem("encrypted", "it is encrypted and was not decrypted")
_ASSUMED = Problem(
    "membership_assumed", "the file has no m.room.member: every sender counts as joined"
)
_ROOM_TYPES = frozenset(
    {"m.room.member", "m.room.encryption", "m.room.redaction", *SLOT_EVENT_TYPES}
)


@dataclass(frozen=True, slots=True)
class Step:
    """What one event changed."""

    entry: FileEvent
    diffs: Sequence[SessionDiff]
    count: int
    """How many members there are now."""


class Fold:
    """One session, folded from a file at one time.

    :param dialects: every generation to be read.
    """

    def __init__(
        self,
        file: RoomFile,
        slot: Slot,
        dialects: Sequence[Dialect],
        policy: ReadingPolicy,
        now_ts_ms: int,
    ) -> None:
        self._file = file
        self._now = Now(now_ts_ms / 1000, now_ts_ms)
        self._types = {kind for dialect in dialects for kind in dialect.event_types}
        self._sticky: dict[str, bool] = {}
        """Whether the event of an id is sticky."""
        self.session: Session = Session(slot, dialects, policy=policy)
        self.warnings: list[Problem] = []

    def steps(self) -> Iterator[Step]:
        """Fold one event after the other; the report is right at the end."""
        assumed = assumed_joins(self._file)
        if assumed is not None:
            self.warnings.append(_ASSUMED)
            for event in assumed:
                self.session.receive(event, self._now)
        for entry in self._file.events:
            diffs: Sequence[SessionDiff] = ()
            if entry.event is not None:
                self._sticky[entry.event.event_id] = entry.event.state_key is None
                diffs = self.session.receive(entry.event, self._now)
            yield Step(entry, diffs, len(self.session))

    def report(self) -> dict[str, object]:
        """Give the whole as JSON values."""
        session = self.session
        return {
            "policy": session.policy.name,
            "slot": {"id": session.slot.slot_id, "status": session.slot_status.value},
            "now_ms": self._now.ts_ms,
            "warnings": [_words(problem) for problem in self.warnings],
            "members": [self.member(membership) for membership in session.members],
            "ignored": [
                {
                    **({} if entry.event_id is None else {"event_id": entry.event_id}),
                    "index": entry.index,
                    "problems": [_words(problem) for problem in problems],
                }
                for entry, problems in self.ignored()
            ],
        }

    def step(self, step: Step) -> dict[str, object]:
        """Give what one event changed as JSON values."""
        joined, updated, left = [], [], []
        for diff in step.diffs:
            match diff:
                case MemberJoined(membership):
                    joined.append(self.member(membership))
                case MemberChanged(_, new) | MemberRefreshed(_, new):
                    updated.append(self.member(new))
                case MemberLeft(membership, _):
                    who = membership.member
                    left.append([who.user_id, who.device_id, who.member_id])
        return {
            "index": step.entry.index,
            "event_id": step.entry.event_id,
            "joined": joined,
            "updated": updated,
            "left": left,
            "count": step.count,
        }

    def member(self, membership: Membership) -> dict[str, object]:
        """Give a member as JSON values."""
        who = membership.member
        return {
            "user_id": who.user_id,
            "device_id": who.device_id,
            "member_id": who.member_id,
            "created_ts_ms": membership.created_ts_ms,
            "backend_identity": backend_identity(
                who, sticky=self._sticky.get(membership.event_id, False)
            ),
            "transports": [finite(transport.raw) for transport in membership.published],
            "dialect": membership.dialect,
            "event_id": membership.event_id,
        }

    def ignored(self) -> Iterator[tuple[FileEvent, Sequence[Problem]]]:
        """Go through the membership events that are not behind a member, each once, with the reasons."""
        # A copy of an event is not another, nor is the text of one that came encrypted.
        seen = {membership.event_id for membership in self.session.members}
        opened = {
            e.event_id for e in self._file.events if e.event is not None and e.event.encrypted
        }
        for entry in self._file.events:
            if entry.event_id in seen or (entry.event_id in opened and _is_sealed(entry)):
                continue
            problems = self._why(entry)
            if problems:
                yield entry, problems
                if entry.event_id is not None:
                    seen.add(entry.event_id)

    def _why(self, entry: FileEvent) -> Sequence[Problem]:
        event = entry.event
        if event is None:
            ours = entry.type is None or entry.type in self._types or entry.type in _ROOM_TYPES
            return entry.problems if ours else ()
        if _is_sealed(entry):
            return (_ENCRYPTED,) if event.sticky_duration_ms is not None else ()
        if event.type not in self._types:
            return ()
        return self.session.explain(event, self._now)


def assumed_joins(file: RoomFile) -> Sequence[RoomEvent] | None:
    """Have every sender join a room whose file has no `m.room.member`; None where it has one."""
    if any(entry.type == "m.room.member" for entry in file.events):
        return None
    senders = dict.fromkeys(entry.event.sender for entry in file.events if entry.event)
    return [_joined(user_id) for user_id in senders]


def _is_sealed(entry: FileEvent) -> bool:
    return entry.event is not None and entry.event.type == "m.room.encrypted"


def _joined(user_id: str) -> RoomEvent:
    return RoomEvent(
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content={"membership": "join"},
        event_id=f"$assumed:{user_id}",
        origin_server_ts_ms=0,
        received_ts_ms=0,
    )


def _words(problem: Problem) -> dict[str, str]:
    return {"code": problem.code, "message": problem.message}


def codes(problems: Iterable[Problem]) -> str:
    """Give the codes, for people."""
    return ", ".join(dict.fromkeys(problem.code for problem in problems))
