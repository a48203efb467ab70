"""Endpoints of the in-memory homeserver about events: state, messages, delayed events.

In: reading, sending, redacting, holding for later; the parameters Synapse looks at and those it ignores.
Out: rooms and membership (`homeserver_api_rooms`), what is held (`homeserver_delayed`).
"""

from __future__ import annotations

import json

from rtcfoci.testing.homeserver_core import ADDRESS, Answer, Call, Core
from rtcfoci.testing.homeserver_delayed import MAX_DELAY_MS, Held
from rtcfoci.testing.homeserver_limits import MatrixError, forbidden, not_found
from rtcfoci.testing.homeserver_rooms import MAX_EVENT_BYTES

__all__ = ["EventsApi"]

_MAX_INT = 2**53 - 1


class EventsApi(Core):
    """Events, now and later."""

    def _state_list(self, call: Call, room_id: str) -> Answer:
        room, user = self._member_room(call, room_id), call.user
        return [self._shown(event, user) for event in room.state.values()]

    def _state_get(self, call: Call, room_id: str, kind: str, state_key: str = "") -> Answer:
        event = self._member_room(call, room_id).state.get((kind, state_key))
        if event is None:
            raise not_found("Event not found.")
        if call.query.get("format") == "event":
            return self._shown(event, call.user)
        return event.content

    def _state_put(self, call: Call, room_id: str, kind: str, state_key: str = "") -> Answer:
        content = _content(call)
        # A sticky duration is accepted here and ignored.
        if (delay_ms := call.number("org.matrix.msc4140.delay")) is not None:
            return self._delay(call, room_id, kind, content, delay_ms, state_key=state_key)
        room = self._room(room_id)
        return {"event_id": self._send(room, call.user, kind, content, state_key=state_key)}

    def _event_put(self, call: Call, room_id: str, kind: str, txn_id: str) -> Answer:
        return self._once(call, lambda: self._event(call, room_id, kind, txn_id))

    def _event(self, call: Call, room_id: str, kind: str, txn_id: str) -> Answer:
        content = _content(call)
        sticky_ms = None
        if self.options.sticky_events:
            sticky_ms = call.number("org.matrix.msc4354.sticky_duration_ms")
        # Only the unstable name is looked at: `?delay=` sends at once.
        if (delay_ms := call.number("org.matrix.msc4140.delay")) is not None:
            return self._delay(call, room_id, kind, content, delay_ms, sticky_ms=sticky_ms)
        room = self._room(room_id)
        event_id = self._send(room, call.user, kind, content, sticky_ms=sticky_ms, txn_id=txn_id)
        return {"event_id": event_id}

    def _redact(self, call: Call, room_id: str, event_id: str, txn_id: str) -> Answer:
        return self._once(call, lambda: self._redaction(call, room_id, event_id, txn_id))

    def _redaction(self, call: Call, room_id: str, event_id: str, txn_id: str) -> Answer:
        room, user_id = self._member_room(call, room_id), call.user.user_id
        target = room.get(event_id)
        if target is None:
            raise not_found("Could not find event")
        if target.sender != user_id and room.power(user_id) < room.needed_for("redact"):
            raise forbidden("You don't have permission to redact events")
        content = {**call.json, "redacts": event_id}
        sent = self._send(
            room, call.user, "m.room.redaction", content, redacts=event_id, txn_id=txn_id
        )
        return {"event_id": sent}

    def _get_event(self, call: Call, room_id: str, event_id: str) -> Answer:
        event = self._member_room(call, room_id).get(event_id)
        if event is None:
            raise not_found("Event not found.")
        return self._shown(event, call.user)

    def _messages(self, call: Call, room_id: str) -> Answer:
        room = self._member_room(call, room_id)
        forward = call.query.get("dir") == "f"
        begin = int(call.query.get("from", "t0").lstrip("ts").split("_")[0])
        limit = min(int(call.query.get("limit", "10")), 1000)
        if forward:
            found = [e for e in room.events if e.position > begin]
        else:
            found = [e for e in reversed(room.events) if not begin or e.position < begin]
        page = found[:limit]
        answer: dict[str, object] = {
            "chunk": [self._shown(event, call.user) for event in page],
            "start": f"t{begin}",
        }
        if len(found) > limit:
            answer["end"] = f"t{page[-1].position}"
        return answer

    def _members(self, call: Call, room_id: str) -> Answer:
        room = self._member_room(call, room_id)
        wanted = call.query.get("membership")
        events = [
            self._shown(event, call.user)
            for (kind, _), event in room.state.items()
            if kind == "m.room.member" and wanted in (None, event.content.get("membership"))
        ]
        return {"chunk": events}

    def _joined_members(self, call: Call, room_id: str) -> Answer:
        room = self._member_room(call, room_id)
        return {
            "joined": {user: {"display_name": None, "avatar_url": None} for user in room.members()}
        }

    # --- delayed events -------------------------------------------------------------------------

    def _delay(
        self,
        call: Call,
        room_id: str,
        kind: str,
        content: dict[str, object],
        delay_ms: int,
        *,
        state_key: str | None = None,
        sticky_ms: int | None = None,
    ) -> Answer:
        user, now = call.user, self._now()
        self.limits.take("rc_message", user.user_id, now.s)
        if not self.options.delayed_events:
            raise forbidden("Sending delayed events has been disallowed")
        held = Held(
            delay_id="syd_" + self._word(15),  # all one needs to manage the event
            user_id=user.user_id,
            device_id=user.device_id,
            room_id=room_id,
            type=kind,
            state_key=state_key,
            content=content,
            delay_ms=delay_ms,
            since_ts_ms=now.ts_ms,
            sticky_ms=sticky_ms,
        )
        if delay_ms <= MAX_DELAY_MS and room_id not in self.rooms:
            raise not_found("Unknown room")
        return {"delay_id": self.delayed.add(held)}

    def _limit_management(self, call: Call) -> None:
        key = ADDRESS if call.device is None else call.device.user_id
        self.limits.take("rc_delayed_event_mgmt", key, self._now().s)

    def _delayed_list(self, call: Call) -> Answer:
        user_id = call.user.user_id
        self._limit_management(call)
        return {"delayed_events": [h.render(legacy=True) for h in self.delayed.of(user_id)]}

    def _delayed_get(self, call: Call, delay_id: str) -> Answer:
        user_id = call.user.user_id
        self._limit_management(call)
        return self.delayed.get(delay_id, user_id).render(legacy=False)

    def _delayed_post(self, call: Call, delay_id: str) -> Answer:
        if "action" not in call.json:
            raise MatrixError(400, "M_MISSING_PARAM", "'action' is missing")
        action = str(call.json["action"])
        if action not in ("cancel", "restart", "send"):
            raise MatrixError(400, "M_INVALID_PARAM", "'action' is not one of those known")
        return self._delayed_action(call, delay_id, action)

    def _delayed_action(self, call: Call, delay_id: str, action: str) -> Answer:
        # No token is asked for: whoever knows the id may use it.
        self._limit_management(call)
        self.delayed.manage(delay_id, action)
        return {}


def _content(call: Call) -> dict[str, object]:
    if call.body is None:
        raise MatrixError(400, "M_NOT_JSON", "Content not JSON.")
    content = call.json
    _check_canonical(content)
    if len(json.dumps(content, ensure_ascii=False).encode()) > MAX_EVENT_BYTES:
        raise MatrixError(413, "M_TOO_LARGE", "event too large")
    return content


def _check_canonical(value: object) -> None:
    """Events are canonical JSON: no fractions, no integers beyond 2**53."""
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > _MAX_INT):
        raise MatrixError(400, "M_BAD_JSON", "Event is not canonical JSON")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_canonical(item)
