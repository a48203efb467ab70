"""Syncs of the in-memory homeserver: what happened since a token, for one device.

In: the classic `/sync` and as much of simplified sliding sync as reads one room with its sticky events.
Out: waiting (`homeserver`); presence, account data, receipts, typing, lists of sliding sync.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rtcfoci.testing.homeserver_devices import Device, Devices
from rtcfoci.testing.homeserver_limits import MatrixError
from rtcfoci.testing.homeserver_rooms import Event, Room, integer, mapping

__all__ = ["Since", "SyncFilter", "Syncs"]

MAX_STICKY = 100
"""Sticky events of one sync, rooms newly joined apart (MSC4354)."""
MAX_TO_DEVICE = 100

_STICKY_EXTENSION = "org.matrix.msc4354.sticky_events"
_STRIPPED = ("m.room.create", "m.room.join_rules", "m.room.name", "m.room.encryption")


@dataclass(frozen=True, slots=True)
class Since:
    """A sync token: how far the device has read each stream."""

    events: int
    to_device: int
    sticky: int

    def __str__(self) -> str:
        return f"s{self.events}_{self.to_device}_{self.sticky}"

    @classmethod
    def read(cls, token: str) -> Since:
        try:
            events, to_device, sticky = (int(part) for part in token.removeprefix("s").split("_"))
        except ValueError:
            raise MatrixError(400, "M_UNKNOWN", "Invalid stream token") from None
        return cls(events, to_device, sticky)


@dataclass(frozen=True, slots=True)
class SyncFilter:
    """What of a filter matters here."""

    rooms: tuple[str, ...] | None = None
    timeline_limit: int = 10

    @classmethod
    def read(cls, text: str, stored: Sequence[Mapping[str, object]]) -> SyncFilter:
        """Read a filter, given as JSON or by the id under which it was stored."""
        if text.startswith("{"):
            try:
                raw = mapping(json.loads(text))
            except ValueError:
                raise MatrixError(400, "M_NOT_JSON", "Invalid filter JSON") from None
        elif text.isdigit() and int(text) < len(stored):
            raw = stored[int(text)]
        elif text:
            raise MatrixError(404, "M_NOT_FOUND", "No such filter")
        else:
            raw = {}
        room = mapping(raw.get("room"))
        rooms = room.get("rooms")
        limit = integer(mapping(room.get("timeline")).get("limit"), 10)
        return cls(tuple(map(str, rooms)) if isinstance(rooms, list) else None, min(limit, 100))


class Syncs:
    """Builds answers from rooms and devices."""

    def __init__(self, rooms: Mapping[str, Room], devices: Devices, *, sticky: bool) -> None:
        self._rooms = rooms
        self._devices = devices
        self._sticky = sticky

    def build(
        self, device: Device, since: Since | None, wanted: SyncFilter, position: int, now_ts_ms: int
    ) -> tuple[dict[str, object], bool]:
        """Give the answer, and whether it says anything."""
        start = since or Since(0, 0, 0)
        # What the device has seen is deleted only now, when it asks for what follows.
        device.inbox = [m for m in device.inbox if since is None or m.position > start.to_device]
        messages = device.inbox[:MAX_TO_DEVICE]
        read_to_device = messages[-1].position if len(messages) == MAX_TO_DEVICE else position
        rooms = [
            room
            for room in self._rooms.values()
            if wanted.rooms is None or room.room_id in wanted.rooms
        ]
        sticky, read_sticky = self._sticky_events(device, rooms, start, position, now_ts_ms)
        sections: dict[str, dict[str, object]] = {"join": {}, "invite": {}, "leave": {}}
        for room in rooms:
            self._room(sections, room, device, start, wanted, sticky, now_ts_ms)
        lists = self._device_lists(device, start) if since is not None else {}
        body: dict[str, object] = {
            "next_batch": str(Since(position, read_to_device, read_sticky)),
            "device_one_time_keys_count": device.count(),
            "org.matrix.msc2732.device_unused_fallback_key_types": device.unused_fallbacks(),
            "device_unused_fallback_key_types": device.unused_fallbacks(),
        }
        said = {name: section for name, section in sections.items() if section}
        if said:
            body["rooms"] = said
        if messages:
            body["to_device"] = {
                "events": [
                    {"type": m.type, "sender": m.sender, "content": dict(m.content)}
                    for m in messages
                ]
            }
        if lists:
            body["device_lists"] = lists
        return body, bool(said or messages or lists)

    def _sticky_events(
        self, device: Device, rooms: list[Room], start: Since, position: int, now_ts_ms: int
    ) -> tuple[dict[str, list[Event]], int]:
        if not self._sticky:
            return {}, position
        joined = [room for room in rooms if room.membership(device.user_id) == "join"]
        found = sorted(
            (event for room in joined for event in room.sticky(start.sticky, now_ts_ms)),
            key=lambda event: event.position,
        )
        read = position
        if len(found) >= MAX_STICKY:
            found = found[:MAX_STICKY]
            read = found[-1].position
        per_room: dict[str, list[Event]] = {}
        for event in found:
            per_room.setdefault(event.room_id, []).append(event)
        for room in joined:
            if start.events and room.membership_at(device.user_id, start.events) != "join":
                # All that are left, but as in Synapse no further than the page above went.
                left = room.sticky(0, now_ts_ms)
                per_room[room.room_id] = [event for event in left if event.position <= read]
        return per_room, read

    def _room(
        self,
        sections: dict[str, dict[str, object]],
        room: Room,
        device: Device,
        start: Since,
        wanted: SyncFilter,
        sticky: Mapping[str, list[Event]],
        now_ts_ms: int,
    ) -> None:
        user_id = device.user_id
        membership = room.membership(user_id)
        before = room.membership_at(user_id, start.events)
        own = room.state.get(("m.room.member", user_id))
        if membership == "join":
            after = start.events if before == "join" else 0
            shown = [event for event in room.events if event.position > after]
            entry = self._entry(room, device, shown, after, wanted, now_ts_ms)
            in_timeline = {event.event_id for event in shown[-wanted.timeline_limit :]}
            held = [e for e in sticky.get(room.room_id, ()) if e.event_id not in in_timeline]
            if held:
                entry["msc4354_sticky"] = {
                    "events": [e.render(now_ts_ms, user_id, device.device_id) for e in held]
                }
            if shown or held:
                sections["join"][room.room_id] = entry
        elif membership == "invite" and own is not None and own.position > start.events:
            state = [room.state[kind, ""] for kind in _STRIPPED if (kind, "") in room.state]
            stripped = [
                {"type": e.type, "state_key": e.state_key, "sender": e.sender, "content": e.content}
                for e in (*state, own)
            ]
            sections["invite"][room.room_id] = {"invite_state": {"events": stripped}}
        elif before in ("join", "invite") and own is not None and start.events:
            shown = [e for e in room.events if start.events < e.position <= own.position]
            sections["leave"][room.room_id] = self._entry(
                room, device, shown, start.events, wanted, now_ts_ms
            )

    def _entry(
        self,
        room: Room,
        device: Device,
        shown: list[Event],
        after: int,
        wanted: SyncFilter,
        now_ts_ms: int,
    ) -> dict[str, object]:
        timeline = shown[-wanted.timeline_limit :] if wanted.timeline_limit else []
        limited = len(timeline) < len(shown)
        begin = timeline[0].position if timeline else (shown[-1].position + 1 if shown else 0)
        state = room.state_between(after, begin) if limited or not after else []

        def render(events: Sequence[Event]) -> list[dict[str, object]]:
            return [event.render(now_ts_ms, device.user_id, device.device_id) for event in events]

        return {
            "timeline": {
                "events": render(timeline),
                "limited": limited,
                "prev_batch": f"t{begin}",
            },
            "state": {"events": render(state)},
            "account_data": {"events": []},
            "ephemeral": {"events": []},
        }

    def _device_lists(self, device: Device, start: Since) -> dict[str, object]:
        changed, left = set(), set()
        shared = {device.user_id}
        for room in self._rooms.values():
            inside = room.membership(device.user_id) == "join"
            was_inside = room.membership_at(device.user_id, start.events) == "join"
            members = set(room.members())
            if inside:
                shared |= members
            for user_id in {*members, *_former(room, start.events)}:
                then = was_inside and room.membership_at(user_id, start.events) == "join"
                now = inside and user_id in members
                if now and not then:
                    changed.add(user_id)
                elif then and not now:
                    left.add(user_id)
        changed |= {
            user_id
            for user_id in shared
            if user_id in self._devices.users
            and self._devices.users[user_id].keys_changed_at > start.events
        }
        left -= shared
        if not changed and not left:
            return {}
        return {"changed": sorted(changed), "left": sorted(left)}

    def sliding(
        self, device: Device, query: Mapping[str, str], body: Mapping[str, object], position: int,
        now_ts_ms: int,
    ) -> dict[str, object]:  # fmt: skip
        """Answer simplified sliding sync (MSC4186) for `room_subscriptions`, at once."""
        after = integer(_digits(query.get("pos", "")), 0)
        extension = mapping(mapping(body.get("extensions")).get(_STICKY_EXTENSION))
        sticky_after = integer(_digits(str(extension.get("since", "")).removeprefix("sticky_")), 0)
        limit = min(integer(extension.get("limit"), MAX_STICKY), MAX_STICKY)
        rooms: dict[str, object] = {}
        sections: dict[str, object] = {}
        read_sticky, spare = position, limit

        def render(event: Event) -> dict[str, object]:
            return event.render(now_ts_ms, device.user_id, device.device_id)

        for room_id, asked in mapping(body.get("room_subscriptions")).items():
            room = self._rooms.get(room_id)
            if room is None or room.membership(device.user_id) != "join":
                continue
            count = integer(mapping(asked).get("timeline_limit"), 0)
            shown = [event for event in room.events if event.position > after]
            timeline = shown[-count:] if count else []
            if shown:
                state = list(room.state.values()) if mapping(asked).get("required_state") else []
                rooms[room_id] = {
                    "initial": not after,
                    "timeline": [render(event) for event in timeline],
                    "limited": len(timeline) < len(shown),
                    "required_state": [render(event) for event in state],
                    "joined_count": len(list(room.members())),
                }
            held = room.sticky(sticky_after, now_ts_ms)
            if len(held) >= spare:
                held = held[:spare]
                read_sticky = min(read_sticky, held[-1].position if held else sticky_after)
            spare -= len(held)
            in_timeline = {event.event_id for event in timeline}
            passed = [render(event) for event in held if event.event_id not in in_timeline]
            if passed:
                sections[room_id] = {"events": passed}
        answer: dict[str, object] = {"pos": str(position), "lists": {}, "rooms": rooms}
        if extension.get("enabled") is True and self._sticky:
            page = {"rooms": sections, "next_batch": f"sticky_{read_sticky}"}
            answer["extensions"] = {_STICKY_EXTENSION: page}
        else:
            answer["extensions"] = {}
        return answer


def _former(room: Room, position: int) -> list[str]:
    return [
        key
        for kind, key in room.state
        if kind == "m.room.member" and room.membership_at(key, position) == "join"
    ]


def _digits(text: str) -> int | None:
    return int(text) if text.isdigit() else None
