"""Recording what goes into the core of a call and what comes out of it, as JSON lines.

In: watching the machines, and values as JSON. Out: what stands for secrets (`rtcfoci.call.handles`), feeding
a recording through the core again (`rtcfoci.lab.replay`).

The first line says what it is. Then comes a line for each machine, for each input, and for each effect of the
input before it::

    {"rtcfoci_trace": 1, "rtcfoci": "0.1.0", "dialects": ["D3", ...]}
    {"machine": "lifecycle", "config": null}
    {"input": "lifecycle.timer", "now": [12.5, 1795596225528]}
    {"effect": {"is": "RestartLeave", "id": 7, "timeout_s": 5.0, "delay_id": "delay-1"}}
    {"end": {"inputs": 1, "effects": 1}}

An input is written before its machine sees it, so what hangs or kills a process is the last line it leaves.

A recording holds no key, token or delay id. Of events it holds what is gone by (`rtcfoci.core.essence`), no
name and no message. What a machine was given as the session has it is left out, since the session is in the
recording: who is in it, where it says no other `members`; what it just took, and what changed by that.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rtcfoci.call.handles import Handles
from rtcfoci.call.presence import Writer
from rtcfoci.core.dialects import Dialect
from rtcfoci.core.essence import essence, ring_essence
from rtcfoci.core.key_messages import Key
from rtcfoci.core.model import Member, Membership, Now, RoomEvent
from rtcfoci.core.session import Session
from rtcfoci.errors import UsageError

__all__ = ["INPUTS", "VERSION", "Trace", "effects_of", "line", "plain"]

VERSION = 1
INPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "session": ("receive", "handle_timer"),
        "lifecycle": (
            "join", "update", "leave", "evicted", "token_revoked", "seen", "gone", "offline", "online",
            "timer", "result",
        ),
        "conditions": ("raise_", "clear"),
        "signals": ("receive", "member_joined"),
        "notifications": ("receive", "handle_timer"),
        "keys": (
            "start", "set_members", "receive", "problem", "heard", "sent", "failed", "timer",
        ),
    }
)  # fmt: skip
"""What each machine takes, by the names of its methods."""
_MAX_BYTES = 256 * 1024 * 1024
"""Others decide how much comes in: a recording ends when it is so large."""
_log = logging.getLogger("rtcfoci.call")

Withhold = Callable[[str, object], object]
"""Gives a secret's handle: takes the name of its field and the secret."""


class Trace:
    """The recording of one call.

    :param path: a file that does not exist yet.
    :param dialects: what the session reads.
    :raises UsageError: when the file exists or cannot be made.
    """

    def __init__(self, path: Path, dialects: Sequence[Dialect]) -> None:
        self._path = path
        self._types = {kind for dialect in dialects for kind in dialect.event_types}
        self.handles: Handles = Handles()
        """What stands for secrets."""
        self.on_failed: Callable[[str], None] | None = None
        """Told why, when the recording ends before the call does."""
        self._session: Session | None = None
        self._bytes = self._inputs = self._effects = 0
        try:
            self._file: int | None = os.open(
                path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600
            )
        except OSError as error:
            raise UsageError(
                f"no recording can be made in {path}",
                why=error.strerror or str(error),
                do="name a new file in a folder that can be written",
            ) from error
        names = [dialect.name for dialect in dialects]
        self._write({"rtcfoci_trace": VERSION, "rtcfoci": version("rtcfoci"), "dialects": names})

    def watch(self, name: str, machine: object, **made_of: object) -> None:
        """Record every input of a machine from now on, and its effects.

        :param name: one of `INPUTS`.
        :param made_of: what it was made of, as `rtcfoci.lab.replay` needs it to make another.
        """
        if isinstance(machine, Session):
            self._session = machine
        self._write({"machine": name, **{key: self._plain(part) for key, part in made_of.items()}})
        for method in INPUTS[name]:
            # The machine knows nothing of it, and nobody who calls it need.
            setattr(machine, method, self._watched(name, method, getattr(machine, method)))

    def close(self) -> None:
        """End the recording. Idempotent."""
        self._write({"end": {"inputs": self._inputs, "effects": self._effects}})
        self._stop()

    def _watched(
        self, name: str, method: str, call: Callable[..., object]
    ) -> Callable[..., object]:
        takes = inspect.signature(call)

        @wraps(call)
        def watched(*args: object, **kwargs: object) -> object:
            if self._file is None:
                return call(*args, **kwargs)
            self._input(name, method, takes.bind(*args, **kwargs).arguments)
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                self._write({"raised": type(error).__name__})
                raise
            for effect in effects_of(result):
                self._effects += 1
                self._write({"effect": effect})
            return result

        return watched

    def _input(self, name: str, method: str, arguments: Mapping[str, Any]) -> None:
        given = dict(arguments)
        event = given.get("event")
        if isinstance(event, RoomEvent):
            kept = essence(event, self._types)
            if name == "notifications":
                if kept is not None:  # the session has just taken it
                    del given["event"]
                else:
                    kept = given["event"] = ring_essence(event)
                del given["changes"]
            else:
                given["event"] = kept
            if kept is None:  # no more than time
                method, given = "handle_timer", {"now": given["now"]}
        elif "content" in given:
            keep = self.handles.signal if name == "signals" else self.handles.key_message
            given["content"] = keep(given["content"])
        elif method == "set_members":
            if self._session is not None and given["members"] == self._session.members:
                del given["members"]
            for who in given.keys() & {"members", "lingering"}:
                given[who] = [_joined(membership) for membership in given[who]]
        self._inputs += 1
        self._write({"input": f"{name}.{method}", **given})

    def _plain(self, value: object) -> object:
        return plain(value, self.handles.withhold)

    def _write(self, record: Mapping[str, object]) -> None:
        """Add a line; a recording that fails ends, and the call goes on."""
        if self._file is None:
            return
        try:
            data = line(self._plain(record)).encode() + b"\n"
            self._bytes += len(data)
            if self._bytes > _MAX_BYTES:
                self._stop(f"it is larger than {_MAX_BYTES} bytes")
                return
            if os.write(self._file, data) < len(data):
                self._stop("there was room for a part of a line only")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            self._stop(f"{type(error).__name__}: {error}")

    def _stop(self, why: str = "") -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if why:
                _log.error("the recording in %s ends early: %s", self._path, why)
                if self.on_failed is not None:
                    self.on_failed(why)


def _joined(membership: Membership) -> tuple[Member, int]:
    """Who and since when: all that the keys go by."""
    return membership.member, membership.created_ts_ms


def effects_of(result: object) -> Sequence[object]:
    """Give what a machine gave back as a list of effects."""
    if isinstance(result, tuple):
        return result
    return () if result is None else (result,)


def line(record: object) -> str:
    """Write one record as a line of JSON, in ASCII, the same always."""
    return json.dumps(record, separators=(",", ":"))


def plain(value: object, withhold: Withhold) -> object:
    """Turn a value of the core into one of JSON.

    Dataclasses become objects that say what they are, without what is as it always is; times become pairs.
    """
    match value:
        case Now(s, ts_ms):
            return [s, ts_ms]
        case Writer(dialect=dialect, own=own, written=written):
            return {
                "dialect": dialect.name,
                "own": plain(own, withhold),
                "written": [each.name for each in written],
            }
        case Key():
            return withhold("key", value)
        case Enum():
            return value.value
        case Mapping():
            return {key: plain(inner, withhold) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner, withhold) for inner in value]
    if not is_dataclass(value):
        return value
    found: dict[str, object] = {"is": type(value).__name__}
    for each in fields(value):
        inner = getattr(value, each.name)
        if each.name in ("delay_id", "payload"):
            found[each.name] = withhold(each.name, inner)
        elif each.default is MISSING or inner != each.default:
            found[each.name] = plain(inner, withhold)
    return found
