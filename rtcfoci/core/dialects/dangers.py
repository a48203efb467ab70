"""Shapes of memberships that crash other people's clients, or keep them busy, measured with the clients.

In: telling them by content. Out: which clients see a member at all (`rtcfoci.lab.readers`), and who must not
write such a shape (`rtcfoci.call`).

Element Call asks each membership that matrix-js-sdk gives it for its transport, and cannot bear to get none.
What the SDK refuses, or files under another slot than that of the room's call, is harmless. The SDK itself
sets a timer for the first membership to end; in JavaScript one that is no number, or too large, rings now.
"""

from __future__ import annotations

from rtcfoci.core.dialects.js_sdk import STATE, ends_ts_ms, refusals, slot_name
from rtcfoci.core.model import JsonObject
from rtcfoci.errors import Problem

__all__ = ["crashes", "dangers", "endless"]

_SELECTIONS = ("oldest_membership", "multi_sfu")
_LONGEST_TIMER_MS = 2**31 - 1
_SOME_TS_MS = 10**12
_CRASH = "every Element Call 0.26.1 in the room crashes"


def dangers(
    content: JsonObject, event_type: str, *, sent_ts_ms: int | None = None
) -> list[Problem]:
    """Name what about a membership that somebody wrote would crash or exhaust the clients of others.

    :param sent_ts_ms: when it was sent; a join, which has no `created_ts`, is judged without.
    """
    found = crashes(content, event_type)
    if event_type == STATE and not refusals(content, event_type, ""):
        found += endless(content, sent_ts_ms)
    return found


def crashes(content: JsonObject, event_type: str) -> list[Problem]:
    """Name what about a membership would crash Element Call."""
    member = content.get("member")
    sender = member.get("user_id") if isinstance(member, dict) else None
    if refusals(content, event_type, sender if isinstance(sender, str) else ""):
        return []
    if slot_name(content, event_type) != "ROOM":
        return []
    if event_type == STATE:
        return _of_state(content)
    transports = content["transports"]
    if isinstance(transports, dict) and not transports["published"]:
        return [Problem("empty_published", f"transports.published is empty: {_CRASH}")]
    return []


def endless(content: JsonObject, sent_ts_ms: int | None) -> list[Problem]:
    """Name an end of state that is 24 days ahead, or no time: it makes the SDK count without pause."""
    if sent_ts_ms is None:
        created = content.get("created_ts")
        sent_ts_ms = _SOME_TS_MS
        if isinstance(created, int) and abs(created) < 2**53:
            sent_ts_ms = created
    ends = ends_ts_ms(content, sent_ts_ms)
    if ends is None or ends - sent_ts_ms <= _LONGEST_TIMER_MS:
        return []
    what = "expires is no number, or lies more than 24 days ahead"
    busy = "clients of matrix-js-sdk 43 count the members without pause while no other ends before"
    return [Problem("endless_expires", f"{what}: {busy}")]


def _of_state(content: JsonObject) -> list[Problem]:
    found = []
    focus_active = content["focus_active"]
    selection = focus_active.get("focus_selection") if isinstance(focus_active, dict) else None
    # Of the others the oldest member's transport is taken.
    when = " once it is the oldest member" if selection == "oldest_membership" else ""
    if "foci_preferred" not in content:
        found.append(Problem("no_foci_preferred", f"foci_preferred is missing: {_CRASH}{when}"))
    elif not content["foci_preferred"]:
        found.append(Problem("empty_foci_preferred", f"foci_preferred is empty: {_CRASH}{when}"))
    if selection not in _SELECTIONS:
        what = f"focus_active.focus_selection is none of {', '.join(_SELECTIONS)}"
        found.append(Problem("unknown_focus_selection", f"{what}: {_CRASH}"))
    return found
