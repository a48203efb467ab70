"""The sticky events that a room holds now, for a reader who was not there when they came (MSC4354).

In: fetching all of one room's, by simplified sliding sync (MSC4186) or, where that is missing, as far as the
classic sync tells them.
Out: those that come from now on (`loop`, `sync`) and which of them still count (`rtcfoci.core.sticky`).

A classic `/sync` without `since` holds 100 of all rooms together, and going on from it with `since` would
have the server delete to-device messages that we have not seen. Sliding sync is asked for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from rtcfoci.core.model import RoomEvent
from rtcfoci.errors import ClientError
from rtcfoci.matrix.sync import read_event, read_sync

__all__ = ["StickyEvents"]

_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_EXTENSION = "org.matrix.msc4354.sticky_events"
_PAGE = 100
_MAX_PAGES = 100


class _Call(Protocol):
    def __call__(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: object | None = None,
    ) -> Awaitable[dict[str, object]]: ...


class StickyEvents:
    """Fetches with the requests of one client."""

    def __init__(self, call: _Call, wall_ts_ms: Callable[[], int]) -> None:
        self._call = call
        self._wall_ts_ms = wall_ts_ms
        self._sliding = True

    async def now(self, room_id: str) -> tuple[RoomEvent, ...]:
        """Fetch a joined room's sticky events.

        :raises ClientError: refused, or no answer.
        """
        if self._sliding:
            try:
                return await self._by_sliding_sync(room_id)
            except ClientError as error:
                if error.errcode != "M_UNRECOGNIZED":
                    raise
                self._sliding = False
        return await self._by_classic_sync(room_id)

    async def _by_sliding_sync(self, room_id: str) -> tuple[RoomEvent, ...]:
        found: dict[str, RoomEvent] = {}
        extension: dict[str, object] = {"enabled": True, "limit": _PAGE}
        query = {"timeout": "0"}
        for _ in range(_MAX_PAGES):
            body = {
                # Always the same, so that the server keeps one connection of ours and not one a question.
                "conn_id": "rtcfoci",
                "room_subscriptions": {room_id: {"timeline_limit": 1, "required_state": []}},
                "extensions": {_EXTENSION: extension},
            }
            answer = await self._call(
                "list sticky events", "POST", _SLIDING, query=query, body=body
            )
            room = _object(_object(answer.get("rooms")).get(room_id))
            page = _object(_object(answer.get("extensions")).get(_EXTENSION))
            section = _list(_object(_object(page.get("rooms")).get(room_id)).get("events"))
            now_ts_ms = self._wall_ts_ms()
            # A sticky event that is in the timeline is in no other section.
            for raw in (*section, *_list(room.get("timeline"))):
                event = read_event(raw, now_ts_ms)
                if event is not None and event.sticky_duration_ms is not None:
                    found[event.event_id] = event
            since, position = page.get("next_batch"), answer.get("pos")
            if not section or not isinstance(since, str) or not isinstance(position, str):
                break
            extension = {"enabled": True, "limit": _PAGE, "since": since}
            query = {"timeout": "0", "pos": position}
        return tuple(found.values())

    async def _by_classic_sync(self, room_id: str) -> tuple[RoomEvent, ...]:
        nothing: dict[str, list[str]] = {"types": []}
        wanted = {
            "presence": nothing,
            "account_data": nothing,
            "room": {
                "rooms": [room_id],
                "account_data": nothing,
                "ephemeral": nothing,
                "state": nothing,
                "timeline": {"limit": 1},
            },
        }
        query = {"filter": json.dumps(wanted), "timeout": "0"}
        answer = await self._call(
            "list sticky events", "GET", "/_matrix/client/v3/sync", query=query
        )
        return tuple(
            event
            for room in read_sync(answer, self._wall_ts_ms()).rooms
            if room.room_id == room_id
            for event in room.events
            if event.sticky_duration_ms is not None
        )


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
