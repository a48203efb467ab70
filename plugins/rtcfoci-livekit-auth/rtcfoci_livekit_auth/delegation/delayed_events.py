"""The homeserver's delayed events: restart one, send one, look one up (MSC4140, text of 2026-07-10).

In: the requests, whom they are made as, and what each answer means. Out: when to ask and how often.

Paths are the unstable ones, which is what Synapse 1.163.2 serves. A delay id is a secret and part of the
path, so no URL of a request is ever shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil, isfinite
from typing import Any, Protocol
from urllib.parse import quote

from rtcfoci_livekit_auth.delegation.model import Answer, Leave, Verdict
from rtcfoci_livekit_auth.guard import Answered, Outgoing, Unreachable

__all__ = ["DelayedEvents", "Homeservers", "Scheduled"]

_PATH = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"


class Homeservers(Protocol):
    """Knows where homeservers are."""

    async def client_url(self, server_name: str) -> str | None:
        """Give the base of the client-server API; None where it cannot be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """What a homeserver says about a delayed event that is still to be sent."""

    room_id: str
    delay_ms: int


class DelayedEvents:
    """Requests about delayed events.

    :param as_tokens: by server name, where we are an application service that may speak for its users.
    :param doubt_answers: a 404 counts only as a Matrix error, since a proxy's means nothing.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        homeservers: Homeservers,
        *,
        as_tokens: Mapping[str, str] | None = None,
        doubt_answers: bool = False,
        timeout_s: float = 5.0,
    ) -> None:
        self._outgoing = outgoing
        self._homeservers = homeservers
        self._as_tokens = dict(as_tokens or {})
        self._doubt_answers = doubt_answers
        self._timeout_s = timeout_s

    def speaks_for(self, leave: Leave) -> bool:
        """Tell whether requests are made as the user, so that no limit of ours is shared between users."""
        return self._authorisation(leave.server_name, leave.user_id) is not None

    async def restart(self, leave: Leave) -> Answer:
        """Set the homeserver's timer to the whole delay again."""
        return await self._act(leave, "restart")

    async def send(self, leave: Leave) -> Answer:
        """Have the leave sent now."""
        return await self._act(leave, "send")

    async def look_up(self, server_name: str, user_id: str, delay_id: str) -> Scheduled | None:
        """Look up a delayed event as its owner; None where the homeserver has no such event of theirs.

        :raises Unreachable: there is no answer that says so.
        """
        token = self._authorisation(server_name, user_id)
        base = await self._homeservers.client_url(server_name)
        if token is None or base is None:
            raise Unreachable("the homeserver cannot be asked for delayed events")
        answer = await self._ask("GET", base, server_name, delay_id, "", (user_id, token))
        body = _object(answer.body)
        if answer.status == 404 and body.get("errcode") == "M_NOT_FOUND":
            return None
        delay_ms = body.get("delay_ms", body.get("delay"))
        room_id = body.get("room_id")
        if answer.status != 200 or type(delay_ms) is not int or not isinstance(room_id, str):
            raise Unreachable(f"the homeserver answered {answer.status} for a delayed event")
        return Scheduled(room_id=room_id, delay_ms=delay_ms)

    def _authorisation(self, server_name: str, user_id: str | None) -> str | None:
        """Give the token to speak for a user with: only towards the server that gave it to us."""
        if user_id is None or user_id.partition(":")[2] != server_name:
            return None
        return self._as_tokens.get(server_name)

    async def _act(self, leave: Leave, action: str) -> Answer:
        base = await self._homeservers.client_url(leave.server_name)
        if base is None:
            return Answer(Verdict.NOWHERE)
        token = self._authorisation(leave.server_name, leave.user_id)
        as_user = (leave.user_id, token) if leave.user_id and token else None
        try:
            answer = await self._ask(
                "POST", base, leave.server_name, leave.delay_id, f"/{action}", as_user
            )
        except Unreachable:
            return Answer(Verdict.LATER)
        return self._verdict(answer)

    async def _ask(
        self,
        method: str,
        base: str,
        server_name: str,
        delay_id: str,
        action: str,
        as_user: tuple[str, str] | None,
    ) -> Answered:
        url = base + _PATH + quote(delay_id, safe="") + action
        headers: dict[str, str] = {}
        if as_user is not None:
            url += "?user_id=" + quote(as_user[0], safe="")
            headers["Authorization"] = f"Bearer {as_user[1]}"
        data = None
        if method == "POST":
            headers["Content-Type"], data = "application/json", b"{}"
        try:
            return await self._outgoing.request(
                method,
                url,
                trusted=self._outgoing.trusts(server_name),
                headers=headers,
                data=data,
                timeout_s=self._timeout_s,
            )
        except Unreachable:
            # Its text names the path.
            raise Unreachable("the homeserver gave no answer about a delayed event") from None

    def _verdict(self, answer: Answered) -> Answer:
        status = answer.status
        if status in (200, 204):
            return Answer(Verdict.DONE)
        body = _object(answer.body) if status in (404, 409, 429) else {}
        if status == 404 and (not self._doubt_answers or body.get("errcode") == "M_NOT_FOUND"):
            return Answer(Verdict.MISSING)
        if status == 409 and self._doubt_answers:
            return Answer(Verdict.MISSING)  # Finalised the other way (MSC4140).
        if status == 429:
            return Answer(Verdict.LATER, _retry_after_s(answer.headers.get("Retry-After"), body))
        return Answer(Verdict.LATER)


def _retry_after_s(header: str | None, body: Mapping[str, Any]) -> float | None:
    """Read how long to wait, from the header, else from the body; None where neither says."""
    if header is not None:
        try:
            return float(max(0, int(header)))
        except (ValueError, OverflowError):
            pass
        try:
            moment = parsedate_to_datetime(header)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return max(0.0, (moment - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError, OverflowError):
            pass
    wait_ms = body.get("retry_after_ms")
    if isinstance(wait_ms, (int, float)) and isfinite(wait_ms):
        return float(max(0, ceil(wait_ms / 1000)))
    return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
