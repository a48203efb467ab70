"""A homeserver as an authorisation service meets it: OpenID look-ups and delayed events.

In: `/.well-known/matrix/*`, the federation API's userinfo, and MSC4140's restart, send and cancel,
over TLS and in clear, with delayed events that fire by themselves. A request that no right service
would send becomes a violation. Out: everything else of Matrix.
"""

from __future__ import annotations

import base64
import secrets
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from fakes.answers import Answer, Ledger, Script
from fakes.authority import Authority
from fakes.hosting import Host

__all__ = ["Call", "DelayedEvent", "Homeserver", "openid_token"]

ACTIONS = ("restart", "send", "cancel")
_DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"
_USERINFO = "/_matrix/federation/v1/openid/userinfo"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, as it came."""

    method: str
    path: str
    """Undecoded."""
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at_s: float
    """Of `time.monotonic`."""
    host: str
    action: str = ""
    status: int = 0
    """What was answered."""


@dataclass(kw_only=True)
class DelayedEvent:
    """One delayed event: it is sent when its time is up, when told so, or never."""

    delay_id: str
    delay_s: float
    known: bool = True
    restarted_at_s: float = field(default_factory=time.monotonic)
    ended_at_s: float | None = None
    ended_by: str = ""
    """`send`, `cancel`, or `timer`."""
    calls: Ledger[Call] = field(default_factory=Ledger)
    restarts: Ledger[Call] = field(default_factory=Ledger)
    sends: Ledger[Call] = field(default_factory=Ledger)
    scripts: dict[str, Script] = field(default_factory=lambda: {a: Script() for a in ACTIONS})

    @property
    def on_restart(self) -> Script:
        return self.scripts["restart"]

    @property
    def on_send(self) -> Script:
        return self.scripts["send"]

    def settle(self, now_s: float) -> None:
        """Let the event's own timer act; nobody sees the difference to one that runs."""
        if self.ended_at_s is None and now_s >= self.restarted_at_s + self.delay_s:
            self.ended_at_s, self.ended_by = self.restarted_at_s + self.delay_s, "timer"

    def act(self, action: str, now_s: float) -> bool:
        """Do what was asked and say whether there was anything left to do."""
        self.settle(now_s)
        if not self.known or self.ended_at_s is not None:
            return False
        if action == "restart":
            self.restarted_at_s = now_s
        else:
            self.ended_at_s, self.ended_by = now_s, action
        return True


def openid_token(user_id: str) -> str:
    """Give a fresh token that every fake homeserver knows the owner of, in whatever process it runs."""
    owner = base64.urlsafe_b64encode(user_id.encode()).decode()
    return f"openid.{owner}.{secrets.token_urlsafe(12)}"


def _owner(token: str) -> str | None:
    parts = token.split(".")
    if len(parts) != 3 or parts[0] != "openid":
        return None
    return base64.urlsafe_b64decode(parts[1]).decode()


class Homeserver:
    """Listens on two free ports of loopback, in TLS (`name`, `url`) and in clear (`plain_url`)."""

    def __init__(
        self,
        host: Host,
        authority: Authority,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        names: tuple[str, ...] = (),
    ) -> None:
        tls = authority.server("localhost", "127.0.0.1", address, *names)
        self.port = host.listen(self._handle, host=address, port=port, tls=tls)
        self.plain_port = host.listen(self._handle, host=address)
        host_name = f"[{address}]" if ":" in address else address
        self.name = f"{host_name}:{self.port}"
        self.other_name = f"localhost:{self.port}"
        """The same server under a second name, so that one can be on a list and one not."""
        self.url = f"https://{self.name}"
        self.plain_url = f"http://{host_name}:{self.plain_port}"
        self.hosts = {self.name, self.other_name, f"{host_name}:{self.plain_port}", *names}
        """What a request may call us."""
        self.lookups: Ledger[Call] = Ledger()
        self.well_known_client: Ledger[Call] = Ledger()
        self.on_well_known_client = Script()
        self.well_known_server: Ledger[Call] = Ledger()
        self.on_well_known_server = Script()
        self.violations: Ledger[str] = Ledger()
        self._scripts: dict[str, Script] = {}
        self._events: dict[str, DelayedEvent] = {}

    def user(self, localpart: str, *, other_name: bool = False) -> str:
        return f"@{localpart}:{self.other_name if other_name else self.name}"

    def openid(
        self, user_id: str, *answers: Answer, server_name: str | None = None
    ) -> dict[str, Any]:
        """Give an OpenID token as a client passes it on.

        :param answers: for the look-ups of this token, in place of the right one.
        """
        token = openid_token(user_id)
        self._scripts[token] = Script()
        self._scripts[token].then(*answers)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": server_name or user_id.split(":", 1)[1],
            "expires_in": 3600,
        }

    def lookups_of(self, openid: dict[str, Any]) -> list[Call]:
        return [
            c for c in self.lookups.all() if c.query.get("access_token") == openid["access_token"]
        ]

    def schedule(
        self, delay_ms: int, *, delay_id: str | None = None, known: bool = True
    ) -> DelayedEvent:
        """Schedule a leave.

        :param known: false for an id that the service will ask for and that nothing belongs to.
        """
        event = DelayedEvent(
            delay_id=delay_id or "syd_" + secrets.token_hex(8), delay_s=delay_ms / 1000, known=known
        )
        self._events[event.delay_id] = event
        return event

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        split = urllib.parse.urlsplit(request.raw_path)
        call = Call(
            method=request.method,
            path=split.path,
            query=dict(urllib.parse.parse_qsl(split.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
            at_s=time.monotonic(),
            host=request.host,
        )
        if call.host not in self.hosts:
            self._object(call, f"calls us {call.host}")
        if call.path == _USERINFO:
            return await self._userinfo(call).give(request)
        if call.path == "/.well-known/matrix/client":
            default = Answer(body={"m.homeserver": {"base_url": self.url}})
            return await self._well_known(
                call, self.well_known_client, self.on_well_known_client, default, request
            )
        if call.path == "/.well-known/matrix/server":
            default = Answer(status=404, body={"errcode": "M_NOT_FOUND", "error": "None"})
            return await self._well_known(
                call, self.well_known_server, self.on_well_known_server, default, request
            )
        if call.path.startswith(_DELAYED):
            return await self._delayed(call, request)
        self._object(call, "nothing asks for this")
        return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "?"}, status=404)

    def _object(self, call: Call, why: str) -> None:
        # Without the query: it may hold a token.
        self.violations.add(f"{call.method} {call.path}: {why}")

    def _userinfo(self, call: Call) -> Answer:
        self.lookups.add(call)
        if call.method != "GET":
            self._object(call, "userinfo is a GET")
        if set(call.query) != {"access_token"}:
            self._object(call, f"parameters are {sorted(call.query)}")
        if call.body:
            self._object(call, "a GET has no body")
        if "authorization" in call.headers:
            self._object(call, "userinfo takes no Authorization")
        token = call.query.get("access_token", "")
        script = self._scripts.get(token)
        if script is not None and (answer := script.take()) is not None:
            return answer
        user_id = _owner(token)
        if user_id is None:
            return Answer(status=401, body={"errcode": "M_UNKNOWN_TOKEN", "error": "Unknown token"})
        return Answer(body={"sub": user_id})

    async def _well_known(
        self,
        call: Call,
        ledger: Ledger[Call],
        script: Script,
        default: Answer,
        request: web.Request,
    ) -> web.Response:
        ledger.add(call)
        if call.method != "GET" or call.query or call.body:
            self._object(call, "a well-known file is fetched plainly")
        return await (script.take() or default).give(request)

    async def _delayed(self, call: Call, request: web.Request) -> web.StreamResponse:
        quoted, _, action = call.path.removeprefix(_DELAYED).rpartition("/")
        event = self._events.get(urllib.parse.unquote(quoted))
        if "/" in quoted or action not in ACTIONS:
            self._object(call, "no such path of MSC4140")
            return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "?"}, status=404)
        if event is None:
            self._object(call, "nobody scheduled that delayed event")
            return web.json_response({"errcode": "M_NOT_FOUND", "error": "?"}, status=404)
        if call.method != "POST" or call.query:
            self._object(call, "is a POST without parameters")
        if (
            call.headers.get("content-type", "").split(";")[0] != "application/json"
            or call.body.strip() != b"{}"
        ):
            self._object(call, "sends an empty JSON object")
        if "authorization" in call.headers:
            self._object(call, "a service without a registration has no Authorization to give")
        scripted = event.scripts[action].take()
        acted = event.act(action, call.at_s) if scripted is None or scripted.effect else False
        default = (
            Answer()
            if acted
            else Answer(status=404, body={"errcode": "M_NOT_FOUND", "error": "Gone"})
        )
        answer = scripted or default
        call = Call(**{**call.__dict__, "action": action, "status": answer.status})
        # The narrow ledgers first: who waits for the wide one may read them.
        if action != "cancel":
            (event.restarts if action == "restart" else event.sends).add(call)
        event.calls.add(call)
        return await answer.give(request)
