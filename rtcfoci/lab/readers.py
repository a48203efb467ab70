"""What each client makes of one membership event: Element Call, Element X, matrix-js-sdk, the MSC.

In: the readers, what they judge by, and the opinion they give. Out: completing the event and the report
(`lint`), and the rules that joining needs too (`rtcfoci.core.dialects`: `js_sdk`, `ruma`, `dangers`).

A reader of your own is a `Reader`: a name, where its rules come from, and one pure function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from rtcfoci.core.dialects import Leave, Problems, js_sdk, parse_event, ruma
from rtcfoci.core.dialects.dangers import crashes, endless
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import JsonObject, Membership, RoomEvent, Slot, SlotStatus
from rtcfoci.core.policies import STRICT, RoomView
from rtcfoci.core.sticky import read_sticky_key, sticky_expires_ts_ms
from rtcfoci.errors import Problem

__all__ = ["READERS", "Opinion", "Reader", "Setting", "Verdict"]


_OLDEST = "oldest_membership"
_BARE = frozenset({"slot_id", "msc4354_sticky_key", "sticky_key", "leave_reason"})
"""What a leave may still hold, in one dialect or another."""


class Verdict(Enum):
    """What becomes of the member on a client's screen."""

    SEES = "sees"
    GONE = "gone"
    """The event is a leave, and it lets go of the member."""
    IGNORES = "ignores"
    CRASHES = "crashes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One reader's verdict, and the reason."""

    verdict: Verdict
    why: tuple[str, ...] = ()
    focus: JsonObject | None = None
    """Where the reader looks for the member's media, as it stands in the event; None for nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What of the room and the time an event is judged by."""

    slot: Slot
    now_ts_ms: int
    room: RoomView = field(default_factory=lambda: RoomView(slot_status=SlotStatus.OPEN))
    joined: bool = True
    """Whether the sender is joined to the room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One client, or a text, as a reader of memberships."""

    name: str
    evidence: str
    """Where its rules come from."""
    read: Callable[[RoomEvent, Setting], Opinion]
    """Never raises, whatever the event holds."""


def _sdk(event: RoomEvent, setting: Setting) -> Opinion:
    """Read as matrix-js-sdk 43 does: state, and the events that are sticky."""
    content = event.content
    state = event.type == js_sdk.STATE
    if state != (event.state_key is not None) or (not state and event.sticky_duration_ms is None):
        kind = "a state event" if state else "sticky"
        return _ignored(event.type, f"it is not {kind}")
    found = js_sdk.refusals(content, event.type, event.sender)
    if found:
        return _without(event, found)
    if not setting.joined:
        found.append("its sender is not joined to the room")
    if js_sdk.slot_name(content, event.type) != setting.slot.name:
        found.append(f"it is for another slot than {setting.slot.slot_id}")
    if state:
        ends_ts_ms = js_sdk.ends_ts_ms(content, event.origin_server_ts_ms)
        if ends_ts_ms is not None and ends_ts_ms <= setting.now_ts_ms:
            found.append("it has expired")
    else:
        if setting.room.slot_status is SlotStatus.CLOSED:
            found.append("the slot is closed")
        if sticky_expires_ts_ms(event) <= setting.now_ts_ms:
            found.append("it is no longer sticky")
    if found:
        return _without(event, found)
    return Opinion(verdict=Verdict.SEES, why=_remarks(event, setting), focus=_sdk_focus(content))


def _ignored(event_type: str, otherwise: str) -> Opinion:
    known = event_type in (js_sdk.STATE, js_sdk.STICKY)
    why = otherwise if known else f"it does not read {event_type[:80]}"
    return Opinion(verdict=Verdict.IGNORES, why=(why,))


def _without(event: RoomEvent, why: list[str]) -> Opinion:
    """Tell what a client of the SDK does with an event that is no membership to it.

    State that is replaced is gone, whatever replaces it. A sticky event replaces only one of the same key.
    """
    if event.state_key is None and not isinstance(event.content.get("msc4354_sticky_key"), str):
        unkeyed = "without msc4354_sticky_key it replaces nothing: a member that was shown stays"
        return Opinion(verdict=Verdict.IGNORES, why=(*why, unkeyed))
    gone = event.content.keys() <= _BARE or _is_leave(event)
    return Opinion(verdict=Verdict.GONE if gone else Verdict.IGNORES, why=tuple(why))


def _is_leave(event: RoomEvent) -> bool:
    member = event.content.get("member")
    return isinstance(member, dict) and member.get("membership") == "leave"


def _remarks(event: RoomEvent, setting: Setting) -> tuple[str, ...]:
    """Say what a client of the SDK shows differently from what was meant."""
    content, found = event.content, []
    if event.state_key is None and "msc4354_sticky_key" not in content:
        found.append(
            "without msc4354_sticky_key nothing replaces it: refreshes pile up, a leave is void"
        )
    application = content["application"]
    kind = application.get("type") if isinstance(application, dict) else application
    if kind != setting.slot.application:
        found.append("its application is not that of the slot, which is not compared")
    if event.state_key is not None:
        focus_active = content["focus_active"]
        if isinstance(focus_active, dict) and focus_active.get("focus_selection") == _OLDEST:
            found.append(
                "it uses the focus of the oldest member: here it is taken to be the oldest"
            )
        found += [problem.message for problem in endless(content, event.origin_server_ts_ms)]
    return tuple(found)


def _sdk_focus(content: JsonObject) -> JsonObject | None:
    """Give the transport it uses of a member that is alone."""
    transports = content.get("transports")
    listed = transports.get("published") if isinstance(transports, dict) else None
    if isinstance(content["application"], str):
        focus_active, listed = content["focus_active"], content.get("foci_preferred")
        selection = focus_active.get("focus_selection") if isinstance(focus_active, dict) else None
        if selection not in (_OLDEST, "multi_sfu"):
            return None
    return listed[0] if isinstance(listed, list) and listed else None


def _element_call(event: RoomEvent, setting: Setting) -> Opinion:
    """Read as Element Call 0.26.1 does. Its two modes send differently, and read alike."""
    given = _sdk(event, replace(setting, slot=Slot(room_id=setting.slot.room_id)))
    if given.verdict is not Verdict.SEES:
        return given
    found = [problem.message for problem in crashes(event.content, event.type)]
    if found:
        return Opinion(verdict=Verdict.CRASHES, why=tuple(found))
    if event.encrypted and event.state_key is None:
        return Opinion(verdict=Verdict.IGNORES, why=(_MISFILED,))
    focus = given.focus or {}
    if focus.get("type") != "livekit" or "livekit_service_url" not in focus:
        return Opinion(verdict=Verdict.SEES, why=(_AVATAR, *given.why))
    return Opinion(verdict=Verdict.SEES, why=given.why, focus=focus)


def _element_x(event: RoomEvent, setting: Setting) -> Opinion:
    """Read as the call indicator of Element X does, which is not its call."""
    content = event.content
    found = ruma.absences(content, event.type, event.state_key)
    alive = [
        part
        for part in ([] if found else ruma.call_members(content))
        if ruma.ends_ts_ms(part, event.origin_server_ts_ms) >= setting.now_ts_ms
    ]
    if not found and not alive:
        found = ["it has expired"]
    if found:
        state = event.type == js_sdk.STATE and event.state_key is not None
        gone = state and (content.keys() <= {"leave_reason"} or content.get("memberships") == [])
        why = ("an emptied event: a leave",) if gone else tuple(found)
        return Opinion(verdict=Verdict.GONE if gone else Verdict.IGNORES, why=why)
    foci = alive[0].get("foci_preferred", alive[0].get("foci_active"))
    owner = ruma.owner_of(event.state_key or "")
    shown: list[str] = []
    if owner != event.sender:
        shown.append(f"shown as {owner}: the state key counts, not the sender")
    if len(alive) > 1:
        shown.append(f"{len(alive)} devices")
    focus = foci[0] if isinstance(foci, list) and foci else None
    return Opinion(verdict=Verdict.SEES, why=tuple(shown), focus=focus)


def _text(event: RoomEvent, setting: Setting) -> Opinion:
    """Read as MSC4143 says (text of 2026-07-24), as `rtcfoci session --policy strict` does."""
    if not Superset().reads(event):
        return Opinion(
            verdict=Verdict.IGNORES, why=("it is no sticky membership of MSC4143 as it stands",)
        )
    parsed = parse_event((Superset(),), event, setting.slot.room_id)
    if isinstance(parsed, Leave):
        key = read_sticky_key(event.content)
        said = (
            "it says that the member left"
            if _is_leave(event)
            else "nothing but its key is left of it"
        )
        return Opinion(
            verdict=Verdict.IGNORES if isinstance(key, Problem) else Verdict.GONE, why=(said,)
        )
    if isinstance(parsed, Problems):
        return Opinion(verdict=Verdict.IGNORES, why=tuple(p.message for p in parsed.problems))
    if not isinstance(parsed, Membership):
        return Opinion(verdict=Verdict.IGNORES, why=("it speaks for several devices",))
    found = []
    if parsed.slot_id != setting.slot.slot_id:
        found.append(f"it is for another slot than {setting.slot.slot_id}")
    if parsed.expires_ts_ms <= setting.now_ts_ms:
        found.append("it is no longer sticky")
    if not setting.joined:
        found.append("its sender is not joined to the room")
    refused = STRICT.refuses(parsed, event.type, setting.room)
    if refused is not None:
        unknown = f"the text does not have this form ({parsed.dialect})"
        found.append(unknown if refused.code == "dialect_not_counted" else refused.message)
    if found:
        return Opinion(verdict=Verdict.IGNORES, why=tuple(found))
    published = parsed.published
    why = () if published else ("it publishes nothing, which the text allows",)
    return Opinion(verdict=Verdict.SEES, why=why, focus=published[0].raw if published else None)


_MISFILED = (
    "it files encrypted sticky events wrongly, and overlooks them until another member's comes"
)
_AVATAR = "a tile with an avatar, and nothing else: its first transport is not LiveKit"

READERS: tuple[Reader, ...] = (
    Reader(
        name="Element Call 0.26.1, compatibility mode",
        evidence="the client itself in Chromium: docs/explanation/interop.md",
        read=_element_call,
    ),
    Reader(
        name="Element Call 0.26.1, Matrix 2.0 mode",
        evidence="the client itself in Chromium: docs/explanation/interop.md",
        read=_element_call,
    ),
    Reader(
        name="Element X, call indicator",
        evidence="ruma-events 0.35.2, and how matrix-rust-sdk uses it",
        read=_element_x,
    ),
    Reader(
        name="matrix-js-sdk 43",
        evidence="the package itself in Node",
        read=_sdk,
    ),
    Reader(
        name="MSC4143, text of 2026-07-24",
        evidence="the text, as the policy strict has it",
        read=_text,
    ),
)
"""The readers that are always asked."""
