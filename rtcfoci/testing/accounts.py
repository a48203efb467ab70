"""Users and rooms on a homeserver for tests, the real one and the one in memory alike.

In: logging in, rooms in which a call can be. Out: the servers themselves (`synapse`, `homeserver`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError

__all__ = ["Accounts", "Credentials", "credentials"]

_MEMBER_EVENTS = ("org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member")


class Credentials(NamedTuple):
    """A registered device. Its repr holds no token, so a failing assertion shows none."""

    user_id: str
    device_id: str
    access_token: str

    def __repr__(self) -> str:
        return f"Credentials({self.user_id!r}, {self.device_id!r})"


class Accounts(ABC):
    """What tests do with users and rooms, whichever server answers."""

    @abstractmethod
    async def _ask(
        self,
        method: str,
        path: str,
        token: str | None,
        query: Mapping[str, str],
        body: object,
    ) -> tuple[int, object]:
        """Send one request and give back status and decoded body."""

    @abstractmethod
    async def register(self, user: str, password: str) -> Credentials:
        """Create a user with a first device, past any rate limit."""

    async def login(self, user: str, password: str, device_id: str | None = None) -> Credentials:
        """Log a user in, on a new device or on the given one."""
        body: dict[str, object] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        }
        if device_id is not None:
            body["device_id"] = device_id
        return credentials(await self.checked("POST", "/_matrix/client/v3/login", body=body))

    async def create_room(
        self,
        token: str,
        *,
        encrypted: bool = False,
        public: bool = True,
        invite: Sequence[str] = (),
        calls: bool = True,
        version: str | None = None,
    ) -> str:
        """Create a room and give back its id.

        :param calls: let ordinary members send RTC member events; the default levels forbid it.
        """
        body: dict[str, object] = {
            "preset": "public_chat" if public else "private_chat",
            "invite": list(invite),
            "initial_state": [],
        }
        if encrypted:
            content = {"algorithm": "m.megolm.v1.aes-sha2"}
            body["initial_state"] = [
                {"type": "m.room.encryption", "state_key": "", "content": content}
            ]
        if calls:
            # The override replaces the whole `events` map: power levels and encryption need 50 now.
            levels = dict.fromkeys(_MEMBER_EVENTS, 0)
            body["power_level_content_override"] = {"events": levels}
        if version is not None:
            body["room_version"] = version
        answer = await self.checked("POST", "/_matrix/client/v3/createRoom", token, body=body)
        return str(answer["room_id"])

    async def join_room(self, token: str, room_id: str, *, via: str | None = None) -> None:
        """Join a room, over federation when `via` names another server."""
        query = {"server_name": via, "via": via} if via else {}
        path = f"/_matrix/client/v3/join/{quote(room_id, safe='')}"
        await self.checked("POST", path, token, query=query, body={})

    async def checked(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
    ) -> JsonObject:
        """Send one request that has to succeed.

        :raises ClientError: it did not.
        """
        status, answer = await self._ask(method, path, token, query or {}, body)
        found = answer if isinstance(answer, dict) else {}
        if status != 200:
            raise ClientError(
                f"The homeserver refused {method} {path}",
                why=f"{status} {found.get('errcode')}: {found.get('error')}",
                do="read the homeserver's log, or look at the request",
                status=status,
                errcode=str(found.get("errcode", "")),
                body=dict(found),
            )
        return found


def credentials(body: JsonObject) -> Credentials:
    """Read the answer to a registration or login."""
    return Credentials(str(body["user_id"]), str(body["device_id"]), str(body["access_token"]))
