"""What every endpoint of the in-memory homeserver stands on: the request, rooms, sending.

In: one request as endpoints see it, the server's one order of events, sending with checks and limits.
Out: the endpoints (`homeserver_api`, `homeserver_api_rooms`, `homeserver_api_events`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from rtcfoci.core.model import Now
from rtcfoci.testing.homeserver_delayed import DelayedEvents, Held
from rtcfoci.testing.homeserver_devices import Device, Devices
from rtcfoci.testing.homeserver_limits import MatrixError, RateLimits, forbidden
from rtcfoci.testing.homeserver_rooms import Event, Room
from rtcfoci.testing.homeserver_sync import Syncs
from rtcfoci.testing.synapse_config import SynapseOptions

__all__ = ["ADDRESS", "Answer", "Call", "Core"]

ADDRESS = "127.0.0.1"
"""Where every client comes from, for limits that count addresses."""

Answer: TypeAlias = dict[str, object] | list[dict[str, object]]


@dataclass(slots=True)
class Call:
    """One request, authenticated when `device` is set."""

    path: str
    query: Mapping[str, str]
    body: object
    device: Device | None = field(default=None, repr=False)

    @property
    def user(self) -> Device:
        if self.device is None:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        return self.device

    @property
    def json(self) -> dict[str, object]:
        if self.body is None:
            return {}
        if not isinstance(self.body, dict):
            raise MatrixError(400, "M_BAD_JSON", "Content must be a JSON object.")
        return self.body

    def number(self, name: str) -> int | None:
        """Read a query parameter that counts milliseconds."""
        text = self.query.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"-?\d+", text) or int(text) < 0:
            raise MatrixError(
                400, "M_INVALID_PARAM", f"Query parameter {name} must be a positive integer"
            )
        return int(text)


class Core:
    """What one homeserver knows.

    :param now: both clocks; the wall clock stamps events, and delayed events follow it.
    :param changed: called whenever something happened that a sync may want.
    :param random_bytes: where ids and tokens come from.
    """

    def __init__(
        self,
        server_name: str,
        options: SynapseOptions,
        now: Callable[[], Now],
        changed: Callable[[], None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.server_name = server_name
        self.options = options
        self.position: int = 0
        self.rooms: dict[str, Room] = {}
        self.limits: RateLimits = RateLimits(enabled=options.default_rate_limits)
        self.devices: Devices = Devices(self._advance, self._word)
        self.delayed: DelayedEvents = DelayedEvents(
            now, self._fire, max_per_user=options.max_delayed_events
        )
        self.syncs: Syncs = Syncs(self.rooms, self.devices, sticky=options.sticky_events)
        self.aliases: dict[str, str] = {}
        self.openid: dict[str, str] = {}
        self._now = now
        self._changed = changed
        self._random_bytes = random_bytes
        self._done: dict[tuple[str, str, str], Answer] = {}

    def _advance(self) -> int:
        self.position += 1
        self._changed()
        return self.position

    def _word(self, n_bytes: int) -> str:
        """Make a random word that fits into a URL."""
        return base64.urlsafe_b64encode(self._random_bytes(n_bytes)).rstrip(b"=").decode()

    def _room(self, room_id: str) -> Room:
        room = self.rooms.get(room_id)
        if room is None:
            raise forbidden(f"Unknown room {room_id}")
        return room

    def _member_room(self, call: Call, room_id: str) -> Room:
        user_id = call.user.user_id
        room = self.rooms.get(room_id)
        if room is None or room.membership(user_id) != "join":
            raise forbidden(f"User {user_id} not in room {room_id}")
        return room

    def _shown(self, event: Event, device: Device) -> dict[str, object]:
        return event.render(self._now().ts_ms, device.user_id, device.device_id, room_id=True)

    def _once(self, call: Call, do: Callable[[], Answer]) -> Answer:
        """Do a request once per device and transaction id; the query does not count."""
        key = (call.user.user_id, call.user.device_id, call.path)
        if key not in self._done:
            self._done[key] = do()
        return self._done[key]

    def _send(
        self,
        room: Room,
        device: Device,
        kind: str,
        content: Mapping[str, object],
        *,
        state_key: str | None = None,
        sticky_ms: int | None = None,
        txn_id: str | None = None,
        redacts: str | None = None,
        delay_id: str | None = None,
    ) -> str:
        user_id, now_s = device.user_id, self._now().s
        self.limits.take("rc_message", user_id, now_s, count=False)
        now = room.state.get((kind, state_key)) if state_key is not None else None
        same = now is not None and now.sender == user_id and now.content == content
        if not (same and kind == "m.room.member"):  # who has left may leave once more
            room.check(user_id, kind, state_key, content)
        if now is not None and same:
            return now.event_id  # setting what is set already makes no event
        self.limits.take("rc_message", user_id, now_s)
        event = self._append(
            room,
            user_id,
            kind,
            content,
            state_key=state_key,
            sticky_ms=sticky_ms,
            transaction=None if txn_id is None else (device.device_id, txn_id),
            redacts=redacts,
            delay_id=delay_id,
        )
        return event.event_id

    def _append(
        self,
        room: Room,
        sender: str,
        kind: str,
        content: Mapping[str, object],
        *,
        state_key: str | None = None,
        sticky_ms: int | None = None,
        transaction: tuple[str, str] | None = None,
        redacts: str | None = None,
        delay_id: str | None = None,
    ) -> Event:
        event = Event(
            "$" + self._word(32),
            room.room_id,
            kind,
            sender,
            json.loads(json.dumps(content)),
            self._now().ts_ms,
            self._advance(),
            state_key,
            sticky_ms,
            transaction=transaction,
            redacts=redacts,
            delay_id=delay_id,
        )
        room.append(event)
        if state_key is not None:
            self.delayed.on_state(event)
        return event

    def _fire(self, held: Held) -> None:
        device = Device(held.user_id, held.device_id, "")
        self._send(
            self._room(held.room_id),
            device,
            held.type,
            held.content,
            state_key=held.state_key,
            sticky_ms=held.sticky_ms,
            delay_id=held.delay_id,
        )
