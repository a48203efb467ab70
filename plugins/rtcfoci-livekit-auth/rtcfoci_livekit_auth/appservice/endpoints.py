"""What the homeserver passes on from its clients and from other servers (MSC4195 over MSC4512).

In: `get_token` and `delegate_delayed_leave` for clients, `get_token` for servers, `ping`; under every
version of the path. Out: reading bodies (`requests`), asking the homeserver (`homeserver`).

The homeserver says who is asking, in a header, and proves itself with its token. CORS is the homeserver's
affair.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from rtcfoci_livekit_auth.appservice.homeserver import Homeserver
from rtcfoci_livekit_auth.appservice.requests import MemberRequest, member_request, server_of
from rtcfoci_livekit_auth.bodies import BAD_JSON, Refusal
from rtcfoci_livekit_auth.delegation.delayed_events import DelayedEvents
from rtcfoci_livekit_auth.discovery import Discovery
from rtcfoci_livekit_auth.granting import Delegated, Granting, Place
from rtcfoci_livekit_auth.guard import Unreachable
from rtcfoci_livekit_auth.limits import Gate, Heads, read_body
from rtcfoci_livekit_auth.names import device_identity, member_identity
from rtcfoci_livekit_auth.settings import Appservice, Settings
from rtcfoci_livekit_auth.sfus import Sfu, Sfus

__all__ = ["AppserviceEndpoints", "joined_or_refused"]

_LOG = logging.getLogger(__name__)

_CLIENT = "/_matrix/client/{version:v[0-9]+|unstable/[^/]+}/rtc/livekit/"
_FEDERATION = "/_matrix/federation/{version:v[0-9]+|unstable/[^/]+}/rtc/livekit/"
_RELAYED = {(403, "M_FORBIDDEN"), (400, "M_INVALID_PARAM")}
"""What another server's refusal is passed on as it is; anything else is our fault towards the client."""

Answer = Callable[[str, MemberRequest, str], Awaitable[dict[str, object]]]
"""From who asks, what for, and the version in the path, to the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppserviceEndpoints:
    """Handlers; all they use is given."""

    settings: Settings
    service: Appservice
    homeserver: Homeserver
    discovery: Discovery
    delayed_events: DelayedEvents
    granting: Granting
    sfus: Sfus
    gate: Gate
    heads: Heads

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Mount everything."""
        client, origin = "X-Matrix-User-Identifier", "X-Matrix-Origin"
        for path, header, answer in (
            (_CLIENT + "get_token", client, self._get_token),
            (_CLIENT + "delegate_delayed_leave", client, self._delegate),
            (_FEDERATION + "get_token", origin, self._get_token_for_server),
        ):
            router.add_route("*", path, self._handler(header, answer))
        router.add_route("*", "/_matrix/app/v1/ping", self._ping)

    async def _get_token(
        self, user_id: str, request: MemberRequest, version: str
    ) -> dict[str, object]:
        server_of(user_id)
        if request.server_name in (None, self.service.server_name):
            sfu = self._sfu(request)
            await self._check_joined(user_id, request.room_id)
            place = self._place(sfu, user_id, request)
            token = await self.granting.token(place, may_publish=True, create_room=True)
            return {"jwt": token}
        await self._check_joined(user_id, request.room_id)
        return await self._relay(str(request.server_name), user_id, request, version)

    async def _get_token_for_server(
        self, origin: str, request: MemberRequest, version: str
    ) -> dict[str, object]:
        if request.user_id is None:
            raise Refusal(400, BAD_JSON, "`user_id` is missing, or no string")
        if server_of(request.user_id) != origin:
            raise Refusal(403, "M_FORBIDDEN", "The user is not one of yours")
        sfu = self._sfu(request)
        await self._check_joined(request.user_id, request.room_id)
        policy = self.settings.policy
        token = await self.granting.token(
            self._place(sfu, request.user_id, request),
            may_publish=policy.restricted_may_publish,
            create_room=policy.rooms_for_remote_members,
        )
        return {"jwt": token}

    async def _delegate(
        self, user_id: str, request: MemberRequest, version: str
    ) -> dict[str, object]:
        server_of(user_id)
        if not request.delay_id:
            raise Refusal(400, BAD_JSON, "`delay_id` is missing, or no string")
        sfu = self._sfu(request)
        await self._check_joined(user_id, request.room_id)
        delay_ms = request.delay_ms
        if delay_ms is None or self.settings.policy.look_up_delay:
            delay_ms = await self._delay_ms(user_id, request)
        leave = Delegated(
            delay_id=request.delay_id,
            delay_ms=delay_ms,
            server_name=self.service.server_name,
            user_id=user_id,
        )
        await self.granting.delegate(self._place(sfu, user_id, request), leave)
        return {}

    async def _delay_ms(self, user_id: str, request: MemberRequest) -> int:
        """Ask the homeserver for the delay; whoever does not own the event gets no further."""
        server_name = self.service.server_name
        if await self.discovery.client_url(server_name) is None:
            raise Refusal(400, BAD_JSON, "Unable to resolve client-server API")
        try:
            found = await self.delayed_events.look_up(server_name, user_id, request.delay_id)
        except Unreachable as error:
            _LOG.error("a delayed event could not be looked up: %s", error)
            raise Refusal(503, "M_UNKNOWN", "The delayed event could not be looked up") from None
        if found is None or found.room_id != request.room_id:
            raise Refusal(400, "M_INVALID_PARAM", "There is no such delayed event in this room")
        return found.delay_ms

    async def _relay(
        self, server_name: str, user_id: str, request: MemberRequest, version: str
    ) -> dict[str, object]:
        """Ask another server's service for a token, through both homeservers."""
        body = {k: v for k, v in request.raw.items() if k != "server_name"} | {"user_id": user_id}
        path = f"/_matrix/federation/{version}/rtc/livekit/get_token"
        self.gate.ask(server_name)
        try:
            status, content = await self.homeserver.ask_server(server_name, path, body)
        except Unreachable as error:
            _LOG.warning("a token could not be relayed: %s", error)
            raise Refusal(502, "M_UNKNOWN", f"{server_name} could not be asked") from None
        token, code = content.get("jwt"), content.get("errcode")
        if status == 200 and isinstance(token, str):
            return {"jwt": token}
        if (status, code) in _RELAYED:
            message = content.get("error")
            raise Refusal(status, str(code), message if isinstance(message, str) else "Refused")
        _LOG.warning("%s gave no token: HTTP %d", server_name, status)
        raise Refusal(502, "M_UNKNOWN", f"{server_name} gave no token")

    async def _check_joined(self, user_id: str, room_id: str) -> None:
        await joined_or_refused(self.homeserver, user_id, room_id)

    def _sfu(self, request: MemberRequest) -> Sfu:
        if not request.url:
            raise Refusal(400, BAD_JSON, "`url` is missing, or no string")
        sfu = self.sfus.of_url(request.url)
        if sfu is None:
            raise Refusal(400, "M_INVALID_PARAM", "`url` is no SFU of this server")
        return sfu

    def _place(self, sfu: Sfu, user_id: str, request: MemberRequest) -> Place:
        if request.device_id is not None and self.settings.policy.identity_with_device:
            identity = device_identity(user_id, request.device_id, request.member_id)
        else:
            identity = member_identity(user_id, request.member_id)
        return Place(
            sfu=sfu,
            room_id=request.room_id,
            slot_id=request.slot_id,
            identity=identity,
            user_id=user_id,
        )

    def _handler(
        self, header: str, answer: Answer
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        limits = self.settings.limits

        async def handle(request: web.Request) -> web.Response:
            self.heads.arrived(request)
            try:
                self._check_token(request)
                if request.method != "POST":
                    raise Refusal(405, "M_UNRECOGNIZED", "This endpoint takes POST")
                who = request.headers.get(header, "")
                if not who:
                    raise Refusal(401, "M_UNAUTHORIZED", f"The header {header} is missing")
                self.gate.serve(who)
                body = await read_body(
                    request, most_bytes=limits.max_body_bytes, within_s=limits.read_s
                )
                asked = member_request(body)
                content = await answer(who, asked, request.match_info["version"])
            except Refusal as refusal:
                _LOG.info("%s: %d %s", request.path, refusal.status, refusal.message)
                return _json(refusal.body(), status=refusal.status)
            except Exception as error:
                # Whatever it is, no client learns of it, and neither does a log learn a secret.
                _LOG.error("%s failed: %s", request.path, type(error).__name__)
                return _json(Refusal(500, "M_UNKNOWN", "Internal Server Error").body(), status=500)
            return _json(json.dumps(content, separators=(",", ":")).encode())

        return handle

    def _check_token(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise Refusal(401, "M_MISSING_TOKEN", "The homeserver's token is missing")
        given, ours = token.encode("utf-8", "surrogateescape"), self.service.hs_token.encode()
        if not hmac.compare_digest(given, ours):
            raise Refusal(401, "M_UNKNOWN_TOKEN", "This is not the homeserver's token")

    async def _ping(self, request: web.Request) -> web.Response:
        self.heads.arrived(request)
        try:
            self._check_token(request)
        except Refusal as refusal:
            return _json(refusal.body(), status=refusal.status)
        return _json(b"{}")


async def joined_or_refused(homeserver: Homeserver, user_id: str, room_id: str) -> None:
    """Pass who is joined to a room.

    :raises Refusal: 403 for anybody else; 502 when the homeserver does not say.
    """
    try:
        joined = await homeserver.user_joined(user_id, room_id)
    except Unreachable as error:
        _LOG.error("membership could not be checked: %s", error)
        raise Refusal(502, "M_UNKNOWN", "The membership could not be checked") from None
    if not joined:
        raise Refusal(403, "M_FORBIDDEN", "You are not joined to this room")


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
