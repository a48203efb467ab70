"""What ruma-events 0.35.2 takes for a membership: the parser behind Element X's call indicator.

In: why it finds no member of the room's call in an event. Out: showing it (`rtcfoci.lab.readers`), and the
calls themselves: in a call Element X shows what Element Call shows, which it contains.

Measured: `tests/interop/test_readers.py` puts the same events to the crate itself.
"""

from __future__ import annotations

import re

from rtcfoci.core.dialects.js_sdk import STATE
from rtcfoci.core.model import JsonObject

__all__ = ["absences", "call_members", "ends_ts_ms", "owner_of"]

_LARGEST = 2**53 - 1
_SERVER = r"(?:\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?"
_KEY = re.compile(rf"(_?)(@[^:]*:{_SERVER})(?:_(.+))?", re.DOTALL)


def owner_of(state_key: str) -> str | None:
    """Give the user whom a state key names, for whom the member is taken; None where it names none."""
    found = _KEY.fullmatch(state_key)
    if found is None or (found[1] and found[3] is None) or len(found[2]) > 255:
        return None
    return found[2]


def call_members(content: JsonObject) -> list[JsonObject]:
    """Give the parts of a content, whole or one for each device, that are members of the room's call."""
    return [] if _empty_because(content) else [part for part in _parts(content) if _in_call(part)]


def ends_ts_ms(part: JsonObject, origin_ts_ms: int) -> int:
    """Say when one of `call_members` ends."""
    created, expires = part.get("created_ts"), part["expires"]
    created = created if isinstance(created, int) else origin_ts_ms
    return created + (expires if isinstance(expires, int) else 0)


def absences(content: JsonObject, event_type: str, state_key: str | None) -> list[str]:
    """Say everything for which an event is nobody in the room's call; empty when somebody is."""
    if event_type != STATE:
        return [f"it does not read {event_type[:80]}, only {STATE}"]
    if state_key is None:
        return ["it is not a state event"]
    if owner_of(state_key) is None:
        return ["the state key is no user id, alone or with a device after _"]
    found = _empty_because(content)
    if not found and not call_members(content):
        found = ["scope is not m.room"] if _parts(content) else ["it lists nobody"]
    return found


def _parts(content: JsonObject) -> list[JsonObject]:
    memberships = content.get("memberships")
    if isinstance(memberships, list) and not any(_of_device(entry) for entry in memberships):
        return memberships
    return [content]


def _empty_because(content: JsonObject) -> list[str]:
    """Say why the whole is read as an empty event, which is a leave."""
    memberships = content.get("memberships")
    if isinstance(memberships, list):
        wrong = [
            f"memberships[{number}].{reason}"
            for number, entry in enumerate(memberships)
            for reason in _of_device(entry)
        ]
        if not wrong:
            return []
        if "application" not in content:
            return wrong
    return _of_session(content)


def _of_device(entry: object) -> list[str]:
    """Check one entry of `memberships` (D1)."""
    if not isinstance(entry, dict):
        return ["it is not an object"]
    found = _of_any(entry, "foci_active")
    if not isinstance(entry.get("membershipID"), str):
        found.append("membershipID is not a string")
    return found


def _of_session(content: JsonObject) -> list[str]:
    """Check a membership of one device (D2, D3)."""
    found = _of_any(content, "foci_preferred")
    focus_active = content.get("focus_active")
    focus_active = focus_active if isinstance(focus_active, dict) else {}
    if focus_active.get("type") != "livekit":
        found.append("focus_active.type is not livekit")
    if not isinstance(focus_active.get("focus_selection"), str):
        found.append("focus_active.focus_selection is not a string")
    return found


def _of_any(content: JsonObject, foci: str) -> list[str]:
    found = []
    if content.get("application") != "m.call":
        found.append("application is not m.call")
    found += [
        f"{key} is not a string"
        for key in ("call_id", "scope", "device_id")
        if not isinstance(content.get(key), str)
    ]
    if not _is_time(content.get("expires")):
        found.append("expires is not a whole number of milliseconds")
    if content.get("created_ts") is not None and not _is_time(content["created_ts"]):
        found.append("created_ts is not a whole number of milliseconds")
    transports = content.get(foci)
    if not isinstance(transports, list) or not all(map(_is_livekit, transports)):
        found.append(
            f"{foci} is not an array of LiveKit foci alone, each with livekit_alias and livekit_service_url"
        )
    return found


def _is_livekit(focus: object) -> bool:
    return (
        isinstance(focus, dict)
        and focus.get("type") == "livekit"
        and isinstance(focus.get("livekit_alias"), str)
        and isinstance(focus.get("livekit_service_url"), str)
    )


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _in_call(part: JsonObject) -> bool:
    return part.get("scope") == "m.room"
