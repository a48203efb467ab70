"""What we ask our homeserver as its application service; nobody else ever sees the token.

In: who is joined to a room (MSC4502), requests to other servers through it (MSC4512). Out: delayed events,
which `delegation.delayed_events` asks for with the same token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from rtcfoci_livekit_auth.bodies import object_of
from rtcfoci_livekit_auth.discovery import Discovery
from rtcfoci_livekit_auth.guard import Answered, Outgoing, Unreachable
from rtcfoci_livekit_auth.settings import Appservice

__all__ = ["Homeserver"]

_IS_JOINED = "/_matrix/client/unstable/io.element.msc4502/rooms/{}/is_joined?"
_FED_PROXY = "/_matrix/client/unstable/io.element.msc4512/appservice/fed_proxy"
_ASK_S = 10.0
_PROXY_S = 60.0


class Homeserver:
    """Our homeserver's client-server API, as the application service."""

    def __init__(self, outgoing: Outgoing, discovery: Discovery, service: Appservice) -> None:
        self._outgoing = outgoing
        self._discovery = discovery
        self._service = service

    async def user_joined(self, user_id: str, room_id: str) -> bool:
        """Tell whether a user of any server is joined to a room.

        :raises Unreachable: when the homeserver does not say.
        """
        return await self._joined(room_id, {"mxid": user_id})

    async def server_joined(self, room_id: str) -> bool:
        """Tell whether our homeserver is in a room at all.

        :raises Unreachable: when the homeserver does not say.
        """
        return await self._joined(room_id, {"server_name": self._service.server_name})

    async def ask_server(
        self, destination: str, path: str, body: Mapping[str, object]
    ) -> tuple[int, dict[str, object]]:
        """Ask another server's service through both homeservers; give its status and its body.

        :raises Unreachable: when there is no answer of it.
        """
        request = {"destination": destination, "method": "POST", "path": path, "body": dict(body)}
        answer = await self._request(
            "POST", _FED_PROXY, json.dumps(request).encode(), timeout_s=_PROXY_S
        )
        content = _object(answer)
        status, inner = content.get("status"), content.get("content")
        if answer.status != 200 or type(status) is not int:
            raise Unreachable(f"{destination} could not be asked: {_code(answer)}")
        return status, inner if isinstance(inner, dict) else {}

    async def _joined(self, room_id: str, who: Mapping[str, str]) -> bool:
        path = _IS_JOINED.format(quote(room_id, safe="")) + urlencode(who)
        answer = await self._request("GET", path, None, timeout_s=_ASK_S)
        if answer.status == 400:
            return False  # the room's id is none, so nobody is in it
        joined = _object(answer).get("joined")
        if answer.status != 200 or not isinstance(joined, bool):
            raise Unreachable(f"the homeserver does not say who is joined: {_code(answer)}")
        return joined

    async def _request(
        self, method: str, path: str, data: bytes | None, *, timeout_s: float
    ) -> Answered:
        base = await self._discovery.client_url(self._service.server_name)
        if base is None:
            raise Unreachable("the homeserver's client-server API is not known")
        headers = {"Authorization": f"Bearer {self._service.as_token}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        return await self._outgoing.request(
            method, base + path, trusted=True, headers=headers, data=data, timeout_s=timeout_s
        )


def _object(answer: Answered) -> dict[str, object]:
    try:
        return object_of(answer.body)
    except ValueError:
        return {}


def _code(answer: Answered) -> str:
    code = _object(answer).get("errcode")
    return f"HTTP {answer.status} {code[:80] if isinstance(code, str) else ''}".rstrip()
