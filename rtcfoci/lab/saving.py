"""Keeping what a session goes by of a live room in a file that `rtcfoci session` reads.

In: choosing what is kept, and writing the file: always whole, under another name first, so that whoever reads
it, and whoever is left with it after a kill, has all that was known at one moment. Out: the form
(`roomfile`), other names for everybody (`pseudonyms`), following the room (`rtcfoci.call.sessions`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from rtcfoci.core.essence import essence
from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.errors import UsageError
from rtcfoci.lab.pseudonyms import Pseudonyms
from rtcfoci.lab.roomfile import write_event

__all__ = ["RoomSaver", "cannot_write", "require_new_file"]

_CONTEXT = {
    "m.room.create": ("room_version", "additional_creators"),
    "m.room.power_levels": None,
}
"""State that no session goes by, and that says who may take part: which fields, or all."""
_SEALED = "m.room.encrypted"
_MAX_WAITING = 256
"""How many redactions wait for the event that they are for."""


def require_new_file(path: Path) -> None:
    """Find out whether a file can be made. :raises UsageError: when it exists or cannot be."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as error:
        raise UsageError(
            f"the file {path} exists", why="it is not written over", do="name another, or remove it"
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    path.unlink()


def cannot_write(path: Path, error: OSError) -> UsageError:
    """Make the error of a file that cannot be written."""
    return UsageError(
        f"the file {path} cannot be written",
        why=error.strerror or str(error),
        do="name another place, or make room in this one",
    )


class RoomSaver:
    """The file of one room, as it grows.

    :param membership_types: the event types of all dialects that are read.
    """

    def __init__(
        self,
        path: Path,
        room_id: str,
        membership_types: Collection[str],
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._path = path
        self._types = membership_types
        self._pseudonyms = pseudonyms
        self._room_id = room_id if pseudonyms is None else pseudonyms.text(room_id)
        self._lines: list[str] = []
        self._unwritten = True
        self._state: dict[tuple[str, str], str] = {}
        """The current event of each key: a whole room that comes again brings nothing new."""
        self._known: set[str] = set()
        self._sealed: set[str] = set()
        """Events of which only that they came encrypted is kept so far."""
        self._waiting: dict[str, RoomEvent] = {}
        """Redactions of events that are not here, by what they redact."""

    def add(self, events: Iterable[RoomEvent]) -> None:
        """Take what came, in the order of its coming."""
        for event in events:
            kept = self._kept(event)
            if kept is not None and self._is_new(kept):
                self._append(kept)
                redaction = self._waiting.pop(kept.event_id, None)
                if redaction is not None:
                    self._append(redaction)

    def write(self, now_ts_ms: int, *, last: bool = False) -> None:
        """Write the file, if there is news, or for the last time.

        :param now_ts_ms: until when the room was followed.
        :raises UsageError: when that is not possible.
        """
        if not (self._unwritten or last):
            return
        head = json.dumps({"room_id": self._room_id, "saved_ts_ms": now_ts_ms})[:-1]
        text = head + ', "events": [\n' + ",\n".join(self._lines) + "\n]}\n"
        beside = self._path.with_name(f".{self._path.name}.new")
        try:
            beside.unlink(missing_ok=True)  # of one that was killed
            with os.fdopen(
                os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w"
            ) as file:
                file.write(text)
            beside.replace(self._path)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._unwritten = False

    def _kept(self, event: RoomEvent) -> RoomEvent | None:
        kept = essence(event, self._types)
        if kept is not None or event.type not in _CONTEXT:
            sealed = event.type == _SEALED and event.sticky_duration_ms is not None
            # What cannot be read here may be a membership: that there was one is said.
            return replace(event, content={}, age_ms=None) if sealed else kept
        if event.state_key is None:
            return None
        names, content = _CONTEXT[event.type], event.content
        kept_content: JsonObject = {k: v for k, v in content.items() if names is None or k in names}
        return replace(event, content=kept_content, age_ms=None)

    def _is_new(self, event: RoomEvent) -> bool:
        if event.redacts is not None and event.redacts not in self._known:
            self._waiting[event.redacts] = event
            if len(self._waiting) > _MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            return False
        if event.state_key is None:
            read_late = event.event_id in self._sealed and event.type != _SEALED
            return read_late or event.event_id not in self._known
        key = (event.type, event.state_key)
        if self._state.get(key) == event.event_id:
            return False
        self._state[key] = event.event_id
        return True

    def _append(self, event: RoomEvent) -> None:
        self._known.add(event.event_id)
        if event.type == _SEALED:
            self._sealed.add(event.event_id)
        else:
            self._sealed.discard(event.event_id)
        if self._pseudonyms is not None:
            event = self._pseudonyms.event(event)
        self._lines.append(json.dumps(write_event(event), allow_nan=False))
        self._unwritten = True
