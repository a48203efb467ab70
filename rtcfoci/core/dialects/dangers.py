"""Shapes of memberships that crash other people's clients, measured with Element Call 0.26.1.

In: telling them by content. Out: which clients see a member at all, and who must not write such a shape
(`rtcfoci.call`).

Only what those clients read can crash them: a shape that they ignore for another reason is harmless.
"""

from __future__ import annotations

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import Problem

__all__ = ["dangers"]

_STATE = "org.matrix.msc3401.call.member"
_STICKY = "org.matrix.msc4143.rtc.member"
"""The stable names are read by nobody yet."""
_SELECTIONS = ("oldest_membership", "multi_sfu")
_CRASH = "every Element Call 0.26.1 in the room crashes"


def dangers(content: JsonObject, event_type: str) -> list[Problem]:
    """Name what about a membership that somebody wrote would crash the clients of others."""
    if event_type == _STATE:
        focus_active = content.get("focus_active")
        if isinstance(focus_active, dict) and _is_read_as_state(content, focus_active):
            return _of_state(content, focus_active)
    if event_type == _STICKY:
        transports = content.get("transports")
        seen = isinstance(transports, dict) and _is_read_as_sticky(content, transports)
        if isinstance(transports, dict) and seen and not transports["published"]:
            return [Problem("empty_published", f"transports.published is empty: {_CRASH}")]
    return []


def _of_state(content: JsonObject, focus_active: JsonObject) -> list[Problem]:
    found = []
    if "foci_preferred" not in content:
        found.append(Problem("no_foci_preferred", f"foci_preferred is missing: {_CRASH}"))
    elif not content["foci_preferred"]:
        found.append(Problem("empty_foci_preferred", f"foci_preferred is empty: {_CRASH}"))
    if focus_active["type"] != "livekit":
        what = "focus_active.type is not livekit"
        found.append(Problem("foreign_focus_active", f"{what}: {_CRASH}"))
    if focus_active.get("focus_selection") not in _SELECTIONS:
        what = f"focus_active.focus_selection is none of {', '.join(_SELECTIONS)}"
        found.append(Problem("unknown_focus_selection", f"{what}: {_CRASH}"))
    return found


def _is_read_as_state(content: JsonObject, focus_active: JsonObject) -> bool:
    """Tell whether matrix-js-sdk 43, which Element Call uses, takes this for a membership."""
    return (
        all(isinstance(content.get(key), str) for key in ("application", "call_id", "device_id"))
        and isinstance(focus_active.get("type"), str)
        and _are_transports(content.get("foci_preferred", []))
    )


def _is_read_as_sticky(content: JsonObject, transports: JsonObject) -> bool:
    member, application = content.get("member"), content.get("application")
    return (
        isinstance(member, dict)
        and all(isinstance(member.get(key), str) for key in ("id", "user_id", "device_id"))
        and isinstance(application, dict)
        and isinstance(application.get("type"), str)
        and isinstance(content.get("slot_id"), str)
        and _are_transports(transports.get("published"))
        and isinstance(transports.get("can_subscribe"), list)
        and isinstance(content.get("versions"), list)
    )


def _are_transports(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("type"), str) for item in value
    )
