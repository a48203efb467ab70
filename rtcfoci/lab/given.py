"""What a person gives to be judged: an event, a content alone, or a room file, made whole by assumptions.

In: telling the three apart, and completing an event. Out: judging it (`lint`), room files (`roomfile`).

An event with an `event_id` came from a homeserver: nothing that matters is added to it. Anything else is a
draft, and what it lacks is assumed and said: the type by what the content holds, the sender by whom it names,
the state key as its dialect writes it, and that a sticky membership is sent as one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rtcfoci.core.model import JsonObject
from rtcfoci.lab.roomfile import FileEvent, decode_json, read_entry, read_room_object
from rtcfoci.matrix.sync import is_text

__all__ = ["Draft", "Given", "GivenEvent", "read_given"]

_STATE, _STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
_STICKY_KEYS = frozenset(
    {"slot_id", "member", "rtc_transports", "transports", "msc4354_sticky_key", "sticky_key"}
)
_STICKY_MS = 3_600_000
_SHAPE = 'give an event, its content, or {"room_id": "!...", "events": [...]}, as JSON'
_NOBODY = "@somebody:example.org"
_ROOM_ID = "!room:example.org"
_DEVICE = "DEVICE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the person said beside the event."""

    type: str | None = None
    state_key: str | None = None
    sender: str | None = None
    encrypted: bool = False
    """The room is encrypted, and what can be encrypted came so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenEvent:
    """One event as it is judged."""

    entry: FileEvent
    assumed: tuple[str, ...] = ()
    """What the person did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Everything that was given."""

    events: Sequence[GivenEvent]
    room_id: str = _ROOM_ID
    is_file: bool = False
    """Whether the room is known, from a file, and nothing about it is assumed."""

    def joined(self) -> Collection[str] | None:
        """Give who is joined to the room; None where no membership of the room is told."""
        told = {
            e.entry.event.state_key: e.entry.event.content.get("membership")
            for e in self.events
            if e.entry.event is not None and e.entry.event.type == "m.room.member"
        }
        return (
            {user_id for user_id, said in told.items() if user_id and said == "join"}
            if told
            else None
        )

    def state(self, *types: str, state_key: str) -> JsonObject | None:
        """Give the content of the last such state event."""
        found = None
        for given in self.events:
            event = given.entry.event
            if event is not None and event.type in types and event.state_key == state_key:
                found = event.content
        return found


def read_given(text: str, draft: Draft, now_ts_ms: int) -> Given:
    """Read what was given.

    :param now_ts_ms: when a draft is sent.
    :raises UsageError: not JSON, nested too deeply, no object, or a room file without a room.
    """
    found = decode_json(text, do=_SHAPE)
    if "events" in found and "content" not in found:
        file = read_room_object(found, now_ts_ms)
        events = [GivenEvent(entry=entry) for entry in file.events]
        return Given(events=events, room_id=file.room_id, is_file=True)
    given = _completed(found, draft, now_ts_ms)
    room_id = found.get("room_id") if given.entry.event is not None else None
    return Given(events=(given,), room_id=room_id if is_text(room_id) and room_id else _ROOM_ID)


def _completed(found: JsonObject, draft: Draft, now_ts_ms: int) -> GivenEvent:
    whole = "content" in found and ("type" in found or "sender" in found)
    raw: dict[str, object] = dict(found) if whole else {"content": found}
    content = raw.get("content")
    content = content if isinstance(content, Mapping) else {}
    assumed: list[str] = []
    for name, said in (
        ("type", draft.type),
        ("sender", draft.sender),
        ("state_key", draft.state_key),
    ):
        if said is not None:
            raw[name] = said
    sent = "event_id" in raw

    def assume(name: str, value: object, words: str = "") -> None:
        if name not in raw:
            raw[name] = value
            assumed.append(words or f"{name} {value}")

    assume("type", _type_of(content))
    assume("sender", _sender_of(content))
    if raw["type"] == _STATE and not sent:
        assume("state_key", _state_key_of(content, raw["sender"]))
    if raw["type"] in (_STICKY, "m.rtc.member") and "state_key" not in raw and not sent:
        assume("msc4354_sticky", {"duration_ms": _STICKY_MS}, f"sticky for {_STICKY_MS} ms")
    assume("origin_server_ts", now_ts_ms, "sent now")
    raw.setdefault("event_id", "$draft")
    entry = read_entry(0, raw, now_ts_ms)
    if draft.encrypted and entry.event is not None and entry.event.state_key is None:
        device_id = _device_of(content)
        event = replace(entry.event, encrypted=True, encrypted_by_device_id=device_id)
        entry = replace(entry, event=event)
    return GivenEvent(entry=entry, assumed=tuple(assumed))


def _type_of(content: JsonObject) -> str:
    """Guess the type; what is empty is a leave of the state dialects."""
    application = content.get("application")
    sticky = isinstance(application, dict) or not _STICKY_KEYS.isdisjoint(content)
    return _STICKY if sticky and "session" not in content else _STATE


def _device_of(content: JsonObject) -> str:
    """Name the device that a draft is encrypted by: the one that it claims."""
    member = content.get("member")
    named = member.get("device_id") if isinstance(member, Mapping) else None
    return named if is_text(named) else _DEVICE


def _sender_of(content: JsonObject) -> str:
    """Take the sender that the content names; a reader compares them, and believes the event."""
    member = content.get("member")
    named = [content.get("user_id")]
    if isinstance(member, dict):
        named = [member.get("user_id"), member.get("claimed_user_id")]
    member_id, device_id = content.get("membershipID"), content.get("device_id")
    if isinstance(member_id, str) and isinstance(device_id, str):
        user_id, colon, rest = member_id.rpartition(":")
        named.append(user_id if colon and rest == device_id else None)
    return next((name for name in named if is_text(name) and name), _NOBODY)


def _state_key_of(content: JsonObject, sender: object) -> str:
    member = content.get("member")
    device_id = content.get("device_id")
    if isinstance(member, dict):
        device_id = member.get("device_id", device_id)
    if "memberships" in content or "m.calls" in content or not isinstance(device_id, str):
        return f"{sender}"
    return f"_{sender}_{device_id}_m.call"
