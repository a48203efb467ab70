"""The endpoints that clients and LiveKit call directly, as the original has them.

In: `/sfu/get`, `/get_token`, `/delegate_delayed_leave`, `/sfu_webhook`, health. Out: the homeserver's
endpoints (`appservice`), reading bodies (`bodies`), granting (`granting`).
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from json import dumps

from aiohttp import web
from multidict import CIMultiDict

from rtcfoci_livekit_auth.bodies import (
    BAD_JSON,
    Ask,
    Refusal,
    delegate_ask,
    device_ask,
    member_ask,
)
from rtcfoci_livekit_auth.granting import Delegated, Granting, Place
from rtcfoci_livekit_auth.limits import Gate, Heads, read_body
from rtcfoci_livekit_auth.names import LEGACY_SLOT, device_identity, plain_identity
from rtcfoci_livekit_auth.openid import OpenId, Unauthorised
from rtcfoci_livekit_auth.settings import Settings
from rtcfoci_livekit_auth.sfus import Sfus
from rtcfoci_livekit_auth.webhooks import ParticipantEvent, WebhookRefused, read_webhook

__all__ = ["Endpoints", "json_endpoint"]

_LOG = logging.getLogger(__name__)

_CORS = CIMultiDict(
    {
        "Content-Type": "application/json",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token",
    }
)
_ONLY_FULL_ACCESS = "Delegation of delayed events is only supported for full access users"
_METHODS = ("POST", "OPTIONS")

Answer = Callable[[bytes], Awaitable[bytes]]
"""From a request's body to the answer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Handlers; all they use is given."""

    settings: Settings
    openid: OpenId
    granting: Granting
    sfus: Sfus
    gate: Gate
    heads: Heads
    on_event: Callable[[ParticipantEvent], None]
    is_ready: Callable[[], bool]
    check_joined: Callable[[str, str], Awaitable[None]] | None = None
    """Refuses a user who is not in a Matrix room; None where nobody can say."""
    webhooks: dict[str, int] = field(
        default_factory=lambda: {"heard": 0, "of no use": 0, "refused": 0}
    )
    """How many webhooks came, by what came of them."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Mount everything; exact paths, and what is left."""
        for path, answer in (
            ("/sfu/get", self._sfu_get),
            ("/get_token", self._get_token),
            ("/delegate_delayed_leave", self._delegate),
        ):
            router.add_route("*", path, json_endpoint(answer, self.settings, self.gate, self.heads))
        router.add_route("*", "/sfu_webhook", self._webhook)
        router.add_route("*", "/healthz", self._health)
        router.add_route("*", "/readyz", self._ready)
        router.add_route("*", "/{path:.*}", _nowhere)

    async def _sfu_get(self, body: bytes) -> bytes:
        return await self._token(device_ask(body))

    async def _get_token(self, body: bytes) -> bytes:
        return await self._token(member_ask(body))

    async def _token(self, ask: Ask) -> bytes:
        user_id = await self._known(ask)
        full = self.settings.has_full_access(ask.server_name)
        if ask.delay_id and not full:
            raise Refusal(400, BAD_JSON, _ONLY_FULL_ACCESS)
        place = self._place(ask, user_id)
        token = await self.granting.token(
            place,
            may_publish=full or self.settings.policy.restricted_may_publish,
            create_room=full,
            leave=_leave(ask, user_id) if ask.delay_id else None,
        )
        return dumps({"url": place.sfu.url, "jwt": token}, separators=(",", ":")).encode() + b"\n"

    async def _delegate(self, body: bytes) -> bytes:
        ask = delegate_ask(body)
        user_id = await self._known(ask)
        if not self.settings.has_full_access(ask.server_name):
            raise Refusal(403, "M_FORBIDDEN", _ONLY_FULL_ACCESS)
        await self.granting.delegate(self._place(ask, user_id), _leave(ask, user_id))
        return b"{}\n"

    async def _known(self, ask: Ask) -> str:
        """Give the user, who is whom they claim to be and may be in this room."""
        self.gate.ask(ask.server_name)
        try:
            user_id = await self.openid.user_id(ask.access_token, ask.server_name)
        except Unauthorised as error:
            _LOG.warning("an OpenID token was not accepted: %s", error)
            user_id = ""
        if not user_id or ask.user_id not in (None, user_id):
            raise Refusal(401, "M_UNAUTHORIZED", "The request could not be authorised.")
        self.gate.serve(user_id)
        if self.check_joined is not None:
            await self.check_joined(user_id, ask.room_id)
        return user_id

    def _place(self, ask: Ask, user_id: str) -> Place:
        slot_id = ask.slot_id or LEGACY_SLOT
        if ask.member_id is None:
            identity = plain_identity(user_id, ask.device_id)
        else:
            identity = device_identity(user_id, ask.device_id, ask.member_id)
        sfu = self.sfus.of_room(ask.room_id, slot_id)
        return Place(
            sfu=sfu, room_id=ask.room_id, slot_id=slot_id, identity=identity, user_id=user_id
        )

    async def _webhook(self, request: web.Request) -> web.Response:
        self.heads.arrived(request)
        limits = self.settings.limits
        try:
            body = await read_body(
                request, most_bytes=limits.max_webhook_bytes, within_s=limits.read_s
            )
            event = read_webhook(body, request.headers.get("Authorization", ""), self.sfus.minters)
        except (Refusal, WebhookRefused) as error:
            self.webhooks["refused"] += 1
            _LOG.warning("a webhook was not accepted: %s", error)
            refused = self.settings.policy.webhook_refusals_shown
            return web.Response(status=401 if refused else 200)
        self.webhooks["of no use" if event is None else "heard"] += 1
        if event is not None:
            self.on_event(event)
        return web.Response()

    async def _health(self, request: web.Request) -> web.Response:
        self.heads.arrived(request)
        return web.Response(status=200 if request.method in ("GET", "HEAD") else 405)

    async def _ready(self, request: web.Request) -> web.Response:
        self.heads.arrived(request)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405)
        return web.Response(status=200 if self.is_ready() else 503)


def _leave(ask: Ask, user_id: str) -> Delegated:
    return Delegated(
        delay_id=ask.delay_id,
        delay_ms=ask.delay_ms,
        server_name=ask.server_name,
        user_id=user_id,
    )


def json_endpoint(
    answer: Answer, settings: Settings, gate: Gate, heads: Heads
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Wrap what makes an answer of a body into a handler with CORS, bounds, and errors as Matrix has them."""
    most_bytes, within_s = settings.limits.max_body_bytes, settings.limits.read_s

    async def handle(request: web.Request) -> web.Response:
        heads.arrived(request)
        if request.method != "POST":
            return web.Response(status=200 if request.method == "OPTIONS" else 405, headers=_CORS)
        try:
            gate.admit(request)
            body = await read_body(request, most_bytes=most_bytes, within_s=within_s)
            return web.Response(body=await answer(body), headers=_CORS)
        except Refusal as refusal:
            _LOG.info("%s: %d %s", request.path, refusal.status, refusal.message)
            return _refused(refusal)
        except Exception as error:
            # Whatever it is, no client learns of it, and neither does a log learn a secret.
            _LOG.error("%s failed: %s", request.path, type(error).__name__)
            return _refused(Refusal(500, "M_UNKNOWN", "Internal Server Error"))

    return handle


def _refused(refusal: Refusal) -> web.Response:
    response = web.Response(status=refusal.status, body=refusal.body(), headers=_CORS)
    if refusal.retry_after_ms is not None:
        response.headers["Retry-After"] = str(-(-refusal.retry_after_ms // 1000))
    return response


async def _nowhere(request: web.Request) -> web.Response:
    """Send whoever wrote a path in another way to the right one, as the original's router does."""
    path = request.path
    clean = posixpath.normpath("/" + path.lstrip("/")) + ("/" if path.endswith("/") else "")
    if clean != path and clean != "//":
        query = f"?{request.query_string}" if request.query_string else ""
        return web.Response(status=307, headers={"Location": clean + query})
    return web.Response(
        status=404,
        text="404 page not found\n",
        headers={"X-Content-Type-Options": "nosniff"},
    )
