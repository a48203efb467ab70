"""Our thin client-server layer: what a call needs of a homeserver, request by request.

In: `CsClient`, the `MatrixClient` over any `Requester`; probing, state, sticky and delayed events, to-device
messages, rate limits, what errors become.
Out: the HTTP below it (`http`), the sync loop (`loop`), reading syncs (`sync`), olm (`olm`), logging in
and rooms by alias (`connect`, `rooms`).

MSC4140 (delayed events) and MSC4354 (sticky events) are written with their unstable names. A delay is never
written under its stable name as a query parameter: Synapse 1.163.2 ignores it and sends the event at once,
so that a leave would fire at the join.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from urllib.parse import quote

from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.errors import ClientError, UnreachableError
from rtcfoci.matrix.answers import refused, retry_after_ms
from rtcfoci.matrix.client import (
    DelayedAction,
    DelayedEvent,
    SealedCounts,
    ServerSupport,
    ToDevice,
    Update,
)
from rtcfoci.matrix.encrypter import Encrypter
from rtcfoci.matrix.feed import Feed, Snapshot
from rtcfoci.matrix.http import Requester
from rtcfoci.matrix.loop import SyncLoop
from rtcfoci.matrix.sticky import StickyEvents
from rtcfoci.matrix.store import DeviceStore, wall_clock_ts_ms
from rtcfoci.matrix.sync import read_event
from rtcfoci.matrix.together import together

__all__ = ["CsClient", "segment"]

REQUEST_TIMEOUT_S = 15.0
MAX_LIMIT_WAIT_S = 30.0
"""How long a method waits out a rate limit by itself."""

_V3 = "/_matrix/client/v3"
_DELAYED = "/_matrix/client/unstable/org.matrix.msc4140"
_DELAY = "org.matrix.msc4140.delay"
_STICKY = "org.matrix.msc4354.sticky_duration_ms"
_TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
_MAX_PAGES = 100


def segment(value: str) -> str:
    """Escape one path segment."""
    return quote(value, safe="")


class CsClient:
    """One device of one user on one homeserver.

    It owns the requester and the store, and closes them.

    :param random_bytes: where transaction ids and odd waits come from; only tests need another source.
    """

    def __init__(
        self,
        requester: Requester,
        *,
        homeserver_url: str,
        user_id: str,
        device_id: str,
        access_token: str,
        store: DeviceStore | None = None,
        wall_ts_ms: Callable[[], int] = wall_clock_ts_ms,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.homeserver_url = homeserver_url
        self.user_id = user_id
        self.device_id = device_id
        self.store: DeviceStore = store or DeviceStore.memory(wall_ts_ms=wall_ts_ms)
        self.feed: Feed = Feed(self.store.pending)
        self.encrypter: Encrypter | None = None
        self._requester = requester
        self._token = access_token
        self.wall_ts_ms: Callable[[], int] = wall_ts_ms
        self._random_bytes = random_bytes
        self._support: ServerSupport | None = None
        self._action_in_path = True
        self._schedules_apart = True
        self._sticky = StickyEvents(self.call, wall_ts_ms)
        self._sync: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.user_id} {self.device_id} at {self.homeserver_url}>"

    @property
    def encrypts(self) -> bool:
        return self.encrypter is not None

    def sealed(self, room_id: str) -> SealedCounts:
        return SealedCounts() if self.encrypter is None else self.encrypter.counts(room_id)

    # --- requests -------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: JsonObject | None = None,
    ) -> JsonObject:
        return await self.call("answer a request", method, path, query=query, body=body)

    async def call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object | None = None,
        wait: bool = True,
        timeout_s: float = REQUEST_TIMEOUT_S,
        secret: str = "",
    ) -> dict[str, object]:
        """Send one authenticated request whose answer is an object; the parameters are `exchange`'s."""
        answer = await self.exchange(
            what,
            method,
            path,
            query=query,
            body=body,
            wait=wait,
            timeout_s=timeout_s,
            secret=secret,
        )
        return answer if isinstance(answer, dict) else {}

    async def exchange(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object | None = None,
        wait: bool = True,
        timeout_s: float = REQUEST_TIMEOUT_S,
        secret: str = "",
    ) -> object:
        """Send one authenticated request and give back the JSON of a 2xx answer.

        :param what: completes "The homeserver refused to ..."; the path is never shown, it can hold secrets.
        :param wait: whether to wait out rate limits.
        :param secret: cut out of whatever the server says.
        """
        waited_s = 0.0
        while True:
            if self._closed:
                raise UnreachableError("The client is closed.", why=f"It was asked to {what}.")
            try:
                answer = await self._requester.request(
                    method, path, query or {}, body, self._token, timeout_s=timeout_s
                )
            except UnreachableError:
                self._support = None
                raise
            if 200 <= answer.status < 300:
                return answer.body
            limit_ms = retry_after_ms(answer)
            if answer.status == 429 and wait:
                pause_s = max(0.05, (500 if limit_ms is None else limit_ms) / 1000)
                if waited_s + pause_s <= MAX_LIMIT_WAIT_S:
                    waited_s += pause_s
                    await asyncio.sleep(pause_s)
                    continue
            raise refused(what, answer, secret)

    # --- what the server offers -----------------------------------------------------------------

    async def support(self) -> ServerSupport:
        if self._support is None:
            versions, capabilities, transports = await together(
                self.call("say what it offers", "GET", "/_matrix/client/versions"),
                self.call("say what it allows", "GET", f"{_V3}/capabilities"),
                self._has_transports(),
            )
            flags = _object(versions.get("unstable_features"))
            allowed = _object(capabilities.get("capabilities"))
            name = "org.matrix.msc4140.delayed_events"
            delays = allowed.get(name, allowed.get("m.delayed_events"))
            limits = _object(delays)
            max_delay_ms = _integer(limits.get("max_delay_ms"))
            self._support = ServerSupport(
                # Present and empty means unlimited; absent means unsupported (MSC4140, pull request 4542).
                delayed_events=flags.get("org.matrix.msc4140") is True
                and isinstance(delays, dict)
                and (max_delay_ms is None or max_delay_ms > 0),
                max_delay_ms=max_delay_ms,
                max_scheduled=_integer(limits.get("max_scheduled")),
                sticky_events=flags.get("org.matrix.msc4354") is True,
                rtc_transports=transports,
            )
        return self._support

    async def _has_transports(self) -> bool:
        try:
            await self.call("list its transports", "GET", _TRANSPORTS)
        except ClientError as error:
            if error.status in (400, 403, 404, 405):
                return False
            raise
        return True

    async def openid_token(self) -> JsonObject:
        path = f"{_V3}/user/{segment(self.user_id)}/openid/request_token"
        return await self.call("issue an OpenID token", "POST", path, body={})

    # --- rooms ----------------------------------------------------------------------------------

    async def room_state(self, room_id: str) -> Sequence[RoomEvent]:
        path = f"{_V3}/rooms/{segment(room_id)}/state"
        events = await self.exchange("give the room's state", "GET", path, timeout_s=60.0)
        now_ts_ms = self.wall_ts_ms()
        read = (read_event(event, now_ts_ms) for event in _list(events))
        return [event for event in read if event is not None and event.state_key is not None]

    async def send_state(
        self, room_id: str, event_type: str, state_key: str, content: JsonObject
    ) -> str:
        path = _state_path(room_id, event_type, state_key)
        answer = await self.call("set state", "PUT", path, body=content, wait=False)
        return _text(answer, "event_id", "set state")

    async def send_event(
        self,
        room_id: str,
        event_type: str,
        content: JsonObject,
        *,
        txn_id: str,
        sticky_duration_ms: int | None = None,
        encrypt: bool = False,
    ) -> str:
        if encrypt:
            event_type, content = await self._encrypted(room_id, event_type, content)
        answer = await self.call(
            "take an event",
            "PUT",
            _send_path(room_id, event_type, txn_id),
            query={} if sticky_duration_ms is None else {_STICKY: str(sticky_duration_ms)},
            body=content,
            wait=False,
        )
        return _text(answer, "event_id", "take an event")

    async def _encrypted(
        self, room_id: str, event_type: str, content: JsonObject
    ) -> tuple[str, JsonObject]:
        encrypter = self._require_encrypter(f"The event for {room_id}")
        return "m.room.encrypted", await encrypter.encrypt_event(room_id, event_type, content)

    def _require_encrypter(self, message: str) -> Encrypter:
        if self.encrypter is None:
            raise ClientError(
                f"{message} was not sent.",
                status=0,
                why="It has to be encrypted, and this client was opened without encryption.",
                do="Open the client with encrypted=True.",
            )
        return self.encrypter

    # --- delayed events -------------------------------------------------------------------------

    async def schedule_delayed(
        self,
        room_id: str,
        event_type: str,
        content: JsonObject,
        *,
        delay_ms: int,
        txn_id: str,
        state_key: str | None = None,
        sticky_duration_ms: int | None = None,
        encrypt: bool = False,
    ) -> str:
        if encrypt:
            event_type, content = await self._encrypted(room_id, event_type, content)
        what = "hold an event for later"
        query = {} if sticky_duration_ms is None else {_STICKY: str(sticky_duration_ms)}
        if self._schedules_apart:
            # MSC4140 from 2026-01-05 on, which named it `delay` until 2026-06-24.
            place = f"{segment(room_id)}/delayed_event/{segment(event_type)}/{segment(txn_id)}"
            body: dict[str, object] = {"delay_ms": delay_ms, "delay": delay_ms, "content": content}
            if state_key is not None:
                body["state_key"] = state_key
            try:
                answer = await self.call(
                    what, "PUT", f"{_DELAYED}/rooms/{place}", query=query, body=body, wait=False
                )
            except ClientError as error:
                if error.status not in (404, 405):
                    raise
                self._schedules_apart = False  # Synapse 1.163.2 has the older way alone
            else:
                return _text(answer, "delay_id", what)
        if state_key is None:
            path = _send_path(room_id, event_type, txn_id)
        else:
            path = _state_path(room_id, event_type, state_key)
        query[_DELAY] = str(delay_ms)
        answer = await self.call(what, "PUT", path, query=query, body=content, wait=False)
        return _text(answer, "delay_id", what)

    async def manage_delayed(self, delay_id: str, action: DelayedAction) -> None:
        what = f"{action} a delayed event"
        path = f"{_DELAYED}/delayed_events/{segment(delay_id)}"
        if self._action_in_path:
            try:
                await self.call(
                    what, "POST", f"{path}/{action}", body={}, wait=False, secret=delay_id
                )
            except ClientError as error:
                if error.errcode != "M_UNRECOGNIZED":
                    raise
                self._action_in_path = False
            else:
                return
        await self.call(what, "POST", path, body={"action": action}, wait=False, secret=delay_id)

    async def list_delayed(self) -> Sequence[DelayedEvent]:
        found: list[DelayedEvent] = []
        query: dict[str, str] = {}
        for _ in range(_MAX_PAGES):
            path = f"{_DELAYED}/delayed_events"
            answer = await self.call("list delayed events", "GET", path, query=query)
            for name in ("delayed_events", "scheduled"):
                for raw in _list(answer.get(name)):
                    event = _delayed(_object(raw))
                    if event is not None and self.encrypter is not None:
                        event = self.encrypter.read_held(event)
                    if event is not None:
                        found.append(event)
            more = answer.get("next_batch")
            if not isinstance(more, str) or query.get("from") == more:
                break
            query = {"from": more}
        return found

    # --- to-device ------------------------------------------------------------------------------

    def trusts(self, user_id: str, device_id: str | None) -> bool | None:
        if self.encrypter is None or device_id is None:
            return None
        return self.encrypter.trusts(user_id, device_id)

    async def send_to_device(
        self,
        event_type: str,
        user_id: str,
        device_id: str,
        content: JsonObject,
        *,
        encrypt: bool,
        trusted: bool = False,
    ) -> None:
        if encrypt:
            encrypter = self._require_encrypter(f"The message for {user_id}/{device_id}")
            content = await encrypter.encrypt(
                event_type, user_id, device_id, content, trusted=trusted
            )
            event_type = "m.room.encrypted"
        await self.send_to_devices(event_type, {user_id: {device_id: content}})

    async def send_to_devices(
        self, event_type: str, messages: Mapping[str, Mapping[str, JsonObject]]
    ) -> None:
        """Send to devices, by user and device, what is encrypted already or needs not be."""
        path = f"{_V3}/sendToDevice/{segment(event_type)}/{self._random_bytes(16).hex()}"
        body = {"messages": messages}
        await self.call("pass a message to a device", "PUT", path, body=body)

    async def ack(self, message: ToDevice) -> None:
        if not self._closed:  # a reader may still be at what was queued; it comes again next time
            self.store.remove(message.id)

    # --- updates --------------------------------------------------------------------------------

    def updates(self, room_id: str) -> AsyncIterator[Update]:
        self.start()
        return self.feed.stream(room_id)

    def start(self) -> None:
        """Start syncing, if it has not begun; `updates` does it by itself."""
        if self._sync is None and not self._closed:
            loop = SyncLoop(
                self._poll,
                self.snapshot,
                self.feed,
                self.store,
                self.encrypter,
                self.wall_ts_ms,
                random_bytes=self._random_bytes,
            )
            self._sync = asyncio.create_task(loop.run(), name=f"sync {self.user_id}")

    async def snapshot(self, room_id: str) -> Snapshot:
        """Fetch a room as it is now: state, our membership, sticky events."""
        try:
            state = await self.room_state(room_id)
        except ClientError as error:
            if error.status in (403, 404):
                return Snapshot("leave")
            raise
        member = ("m.room.member", self.user_id)
        ours = next((e for e in state if (e.type, e.state_key) == member), None)
        if ours is None or ours.content.get("membership") != "join":
            return Snapshot("leave", tuple(state))
        sticky: tuple[RoomEvent, ...] = ()
        if (await self.support()).sticky_events:
            sticky = await self._sticky.now(room_id)
        if self.encrypter is not None:
            sticky = self.encrypter.read(room_id, sticky)
        return Snapshot("join", tuple(state), sticky)

    async def _poll(self, query: dict[str, str], *, timeout_s: float) -> dict[str, object]:
        return await self.call(
            "sync", "GET", f"{_V3}/sync", query=query, wait=False, timeout_s=timeout_s
        )

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.feed.end()
        # In this order and each, even if we are cancelled: an open store would keep its lock.
        async with AsyncExitStack() as rest:
            rest.callback(self.store.close)
            rest.push_async_callback(self._requester.aclose)
            if self.encrypter is not None:
                rest.push_async_callback(self.encrypter.aclose)
            if self._sync is not None:
                self._sync.cancel()
                await asyncio.gather(self._sync, return_exceptions=True)


def _state_path(room_id: str, event_type: str, state_key: str) -> str:
    return f"{_V3}/rooms/{segment(room_id)}/state/{segment(event_type)}/{segment(state_key)}"


def _send_path(room_id: str, event_type: str, txn_id: str) -> str:
    return f"{_V3}/rooms/{segment(room_id)}/send/{segment(event_type)}/{segment(txn_id)}"


def _delayed(raw: Mapping[str, object]) -> DelayedEvent | None:
    """Read one held event; `delay` became `delay_ms` in MSC4140 on 2026-06-24."""
    delay_id, room_id, kind = raw.get("delay_id"), raw.get("room_id"), raw.get("type")
    delay_ms = _integer(raw.get("delay_ms", raw.get("delay")))
    state_key = raw.get("state_key")
    if not (isinstance(delay_id, str) and isinstance(room_id, str) and isinstance(kind, str)):
        return None
    return DelayedEvent(
        delay_id=delay_id,
        room_id=room_id,
        type=kind,
        state_key=state_key if isinstance(state_key, str) else None,
        content=_object(raw.get("content")),
        delay_ms=delay_ms or 0,
    )


def _text(answer: Mapping[str, object], name: str, what: str) -> str:
    value = answer.get(name)
    if isinstance(value, str):
        return value
    raise ClientError(
        f"The homeserver did not {what} as asked.",
        status=200,
        why=f"Its answer holds no {name}.",
        do="Report this to the homeserver's operator: it does not follow the specification.",
    )


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
