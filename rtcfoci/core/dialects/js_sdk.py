"""What matrix-js-sdk 43 takes for a membership: its rules, since its readers' screens depend on them.

In: why it refuses an event, which slot it files a membership under, and when it lets go of it. Out: what
Element Call then does with the transports (`dangers`), and how we read (the dialects, which refuse more).

Measured: `tests/interop/test_readers.py` puts the same events to the package itself.
"""

from __future__ import annotations

import math
import re

from rtcfoci.core.model import JsonObject

__all__ = ["STATE", "STICKY", "ends_ts_ms", "refusals", "slot_name"]

STATE = "org.matrix.msc3401.call.member"
STICKY = "org.matrix.msc4143.rtc.member"
"""The only two types it reads; the stable names are read by nobody yet."""
_DEFAULT_EXPIRES_MS = 4 * 3600 * 1000
_LEFT = frozenset({"slot_id", "msc4354_sticky_key"})
_USER_ID = re.compile(
    r"(?:\A|[\n\r\u2028\u2029])[^@\n\r\u2028\u2029]*+@[^\n\r\u2028\u2029]+:[^\n\r\u2028\u2029]"
)
"""`@.+:.+` of JavaScript, tried once in a line and not from every @ on."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def _passed_over(content: JsonObject) -> str:
    """Say why a content is not even looked into; empty when it is."""
    if content.keys() <= _LEFT:
        return "it says nothing but which key it is for: a leave"
    if "application" not in content:
        return "it has no application, as memberships since 2024 have"
    return (
        ""
        if content.keys() - {"msc4354_sticky_key", "application"}
        else "it has nothing but application"
    )


def refusals(content: JsonObject, event_type: str, sender: str) -> list[str]:
    """Say everything for which an event is no membership; empty when it is one."""
    if event_type not in (STATE, STICKY):
        return [f"it does not read {event_type[:80]}"]
    passed_over = _passed_over(content)
    if passed_over:
        return [passed_over]
    found = _of_state(content) if event_type == STATE else _of_sticky(content, sender)
    if not found and slot_name(content, event_type) is None:
        found.append("application or call_id holds a #")
    return found


def slot_name(content: JsonObject, event_type: str) -> str | None:
    """Give the part of the slot id that it compares, the one behind `#`; None when there are two.

    The application is not compared: what is in `org.example#ROOM` shows in `m.call#ROOM` as well.
    """
    if event_type == STICKY:
        return str(content["slot_id"]).partition("#")[2]
    application, call_id = str(content["application"]), str(content["call_id"])
    if "#" in application or "#" in call_id:
        return None
    return "ROOM" if (application, call_id) == ("m.call", "") else call_id


def ends_ts_ms(content: JsonObject, origin_ts_ms: int) -> float | None:
    """Say when a state membership ends, in JavaScript's arithmetic; None for never, NaN for no time.

    `expires` is not checked: text is appended to the digits of `created_ts` instead of added.
    """
    created = content.get("created_ts", origin_ts_ms)
    if not isinstance(created, (int, float)):
        return math.nan
    expires = content.get("expires")
    if expires is None:
        expires = _DEFAULT_EXPIRES_MS
    if isinstance(expires, (int, float)):
        total = _float(created) + _float(expires)
        return total if total and not math.isnan(total) else None
    while isinstance(expires, list) and len(expires) == 1:
        expires = _digits(expires[0]) if _is_number(expires[0]) else expires[0]
    more = "" if expires is None or expires == [] else expires
    text = f"{_digits(created)}{more}".strip()
    return _float(text) if isinstance(more, str) and _NUMBER.fullmatch(text) else math.nan


def _of_state(content: JsonObject) -> list[str]:
    found = [
        f"{key} is not a string"
        for key in ("device_id", "call_id", "application")
        if not isinstance(content.get(key), str)
    ]
    focus_active = content.get("focus_active")
    if not isinstance(focus_active, dict) or not isinstance(focus_active.get("type"), str):
        found.append("focus_active.type is not a string")
    if "foci_preferred" in content and not _are_transports(content["foci_preferred"]):
        found.append("foci_preferred is not an array of objects with a type")
    if "created_ts" in content and not _is_number(content["created_ts"]):
        found.append("created_ts is not a number")
    found += [
        f"{key} is not a string"
        for key in ("scope", "m.call.intent")
        if key in content and not isinstance(content[key], str)
    ]
    return found


def _of_sticky(content: JsonObject, sender: str) -> list[str]:
    found = []
    application = content["application"]
    kind = application.get("type") if isinstance(application, dict) else None
    if not isinstance(kind, str):
        found.append("application.type is not a string")
    elif "#" in kind:
        found.append("application.type holds a #")
    slot_id = content.get("slot_id")
    if not isinstance(slot_id, str):
        found.append("slot_id is not a string")
    elif not slot_id.startswith(f"{kind}#") or slot_id.count("#") > 1:
        found.append("slot_id is not application.type, # and a name")
    found += _of_member(content.get("member"), sender)
    transports = content.get("transports")
    transports = transports if isinstance(transports, dict) else {}
    if not _are_transports(transports.get("published")):
        found.append("transports.published is not an array of objects with a type")
    if not _are_strings(transports.get("can_subscribe")):
        found.append("transports.can_subscribe is not an array of strings")
    if not _are_strings(content.get("versions")):
        found.append("versions is not an array of strings")
    found += _of_keys(content)
    relation = content.get("m.relates_to", {"event_id": "", "rel_type": "m.reference"})
    if (
        not isinstance(relation, dict)
        or not isinstance(relation.get("event_id"), str)
        or relation.get("rel_type") != "m.reference"
    ):
        found.append("m.relates_to is not an m.reference to an event")
    return found


def _of_member(member: object, sender: str) -> list[str]:
    if not isinstance(member, dict):
        return ["member is not an object"]
    found = []
    user_id = member.get("user_id")
    if not isinstance(user_id, str):
        found.append("member.user_id is not a string")
    elif user_id != sender or not _USER_ID.search(user_id):
        found.append("member.user_id is not the sender")
    for key in ("device_id", "id"):
        if not isinstance(member.get(key), str):
            found.append(f"member.{key} is not a string")
    return found


def _of_keys(content: JsonObject) -> list[str]:
    keys = [content[name] for name in ("msc4354_sticky_key", "sticky_key") if name in content]
    if not keys:
        return ["msc4354_sticky_key is missing"]
    if not all(isinstance(key, str) for key in keys):
        return ["a sticky key is not a string"]
    return ["msc4354_sticky_key and sticky_key differ"] if len(set(keys)) > 1 else []


def _are_transports(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("type"), str) for item in value
    )


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float | str) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON may hold more digits than a number of JavaScript
        return math.inf


def _digits(value: float) -> str:
    number = _float(value)
    return str(int(number)) if number.is_integer() else str(number)
