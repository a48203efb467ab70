"""A homeserver that knows its application service, and answers nobody else what it asks."""

from __future__ import annotations

import re
from urllib.parse import unquote

from aiohttp import web
from fakes import Homeserver

AS_TOKEN, HS_TOKEN = "as-secret-token", "hs-secret-token"


class KnowingHomeserver(Homeserver):
    """A homeserver that answers its application service."""

    def __init__(self, *given):
        super().__init__(*given)
        self.joined = set()
        self.delayed = {}
        self.elsewhere = []
        self.relayed = {"status": 200, "content": {"jwt": "their-token"}}
        self.down = False

    async def _handle(self, request):
        path = request.raw_path.partition("?")[0]
        is_joined = re.fullmatch(
            r"/_matrix/client/unstable/io\.element\.msc4502/rooms/([^/]+)/is_joined", path
        )
        delayed = re.fullmatch(
            r"/_matrix/client/unstable/org\.matrix\.msc4140/delayed_events/([^/]+)", path
        )
        proxy = path == "/_matrix/client/unstable/io.element.msc4512/appservice/fed_proxy"
        if not (is_joined or delayed or proxy):
            return await super()._handle(request)
        if request.headers.get("Authorization") != f"Bearer {AS_TOKEN}":
            self.violations.add(f"{path}: not as the application service")
        if self.down:
            return web.json_response({"errcode": "M_UNKNOWN"}, status=500)
        if is_joined:
            who = request.query.get("mxid") or request.query["server_name"]
            return web.json_response({"joined": (who, unquote(is_joined[1])) in self.joined})
        if delayed:
            found = self.delayed.get((request.query.get("user_id"), delayed[1]))
            if found is None:
                return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
            return web.json_response({"delay_id": delayed[1], **found})
        self.elsewhere.append(await request.json())
        if isinstance(self.relayed, int):
            code = "IO.ELEMENT.MSC4512.M_FEDPROXY_CONNECTION_FAILED"
            return web.json_response({"errcode": code, "error": "?"}, status=self.relayed)
        return web.json_response(self.relayed)
