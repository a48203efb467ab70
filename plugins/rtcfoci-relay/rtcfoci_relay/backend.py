"""The client's side: `[to, topic, reliable, hex]` goes out, `[from, topic, ...]` comes in."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from urllib.parse import quote

from pydantic import BaseModel

from rtcfoci.core.model import Member, Membership, Transport
from rtcfoci.errors import BackendError, ClientError
from rtcfoci.plugin import Backend, Connection, Context, DataReceived, Health, Role, WebSocket


class Config(BaseModel, extra="forbid"):
    """Where our relay is."""

    url: str


class _Seat(Connection):
    def __init__(self, context: Context, socket: WebSocket) -> None:
        super().__init__(context)
        self.socket, self.roster = socket, set[Member]()
        self.heard_s, self.task = context.now().s, context.spawn(self._run(), name="relay")

    async def set_members(self, added: Sequence[Membership], changed: Sequence[Membership],
                          removed: Sequence[Membership]) -> None:  # fmt: skip
        self.roster |= {m.member for m in (*added, *changed)}
        self.roster -= {m.member for m in removed}

    async def send_data(self, payload: bytes, *, topic: str, reliable: bool,
                        to: Iterable[Member] | None = None) -> None:  # fmt: skip
        if len(payload) > 48_000:
            raise BackendError("the message is too large", why="it may have 48,000 bytes")
        names = [asdict(member) for member in (self.roster if to is None else to)]
        await self.socket.send(json.dumps([names, topic, reliable, payload.hex()]))

    def health(self) -> Health:
        return Health(connected=not self.task.done(), last_ping_s=self.heard_s)

    async def _run(self) -> None:
        with suppress(BackendError):  # closed, as health() tells
            while True:
                try:
                    text = await asyncio.wait_for(self.socket.receive(), 1.0)
                    self.heard_s = self.context.now().s
                    name, topic, reliable, data = json.loads(text)
                    if (sender := Member(**name)) in self.roster:
                        data = bytes.fromhex(data)
                        self.emit(DataReceived(sender, data, str(topic), bool(reliable)))
                except TimeoutError:  # a ping: a message to ourselves
                    await self.socket.send(json.dumps([[asdict(self.context.member)], "", 0, ""]))
                except (ValueError, TypeError, RecursionError):
                    self.context.count("malformed")

    async def _close(self) -> None:
        await self.socket.aclose()
        self.task.cancel()


class RelayBackend(Backend):
    """One member's way to its relay."""

    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        url = getattr(self.config, "url", None)
        return [Transport("rtcfoci.relay", {"type": "rtcfoci.relay", "url": url})]

    def connection_key(self, transport: Transport, member: Member,
                       local_transports: Sequence[Transport]) -> str | None:  # fmt: skip
        return url if isinstance(url := transport.raw.get("url"), str) else None

    async def connect(self, key: str, transport: Transport, roles: frozenset[Role]) -> Connection:
        me, slot = self.context.member, self.context.slot
        path = f"/_matrix/client/v3/user/{quote(me.user_id, safe='')}/openid/request_token"
        try:
            token = (await self.context.homeserver("POST", path, {})).get("access_token")
        except ClientError as error:
            raise BackendError("no OpenID token", why=error.what, retryable=True) from error
        socket = await self.context.websocket(str(transport.raw.get("url")))
        try:
            await socket.send(json.dumps([token, slot.room_id, slot.slot_id, asdict(me)]))
            await socket.receive()  # a welcome; who is refused finds the socket closed
        except BaseException:
            await socket.aclose()
            raise
        return _Seat(self.context, socket)
