"""What somebody who is known gets: a token, a room on the SFU, somebody to watch over their leave.

In: `Granting`, used by all endpoints alike. Out: who somebody is (`openid`, `appservice`), HTTP.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rtcfoci_livekit_auth.bodies import BAD_JSON, Refusal
from rtcfoci_livekit_auth.delegation.model import (
    DelegationRefused,
    Leave,
    NotStored,
    ShuttingDown,
)
from rtcfoci_livekit_auth.discovery import Discovery
from rtcfoci_livekit_auth.names import room_alias
from rtcfoci_livekit_auth.policies import Policy
from rtcfoci_livekit_auth.room_service import SfuError
from rtcfoci_livekit_auth.sfus import Sfu
from rtcfoci_livekit_auth.tokens import Grants

__all__ = ["Delegated", "Granting", "Keeper", "Place"]

_LOG = logging.getLogger(__name__)


class Keeper(Protocol):
    """Who watches over leaves; `delegation.engine.Delegations` does."""

    async def add(self, leave: Leave) -> None:
        """Take a leave; it is stored when this returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A slot of a Matrix room on a LiveKit server, and who somebody is there."""

    sfu: Sfu
    room_id: str
    slot_id: str
    identity: str
    user_id: str

    @property
    def alias(self) -> str:
        """The room's name on the SFU."""
        return room_alias(self.room_id, self.slot_id, salt=self.sfu.salt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """A delayed leave that somebody wants us to watch over."""

    delay_id: str = field(repr=False)
    delay_ms: int
    server_name: str
    user_id: str


Attributes = Callable[[Place, str], Mapping[str, str]]
"""From a place and the room's name on the SFU to what a token says about its participant."""


class Granting:
    """Gives what a policy allows.

    :param attributes: gives what LiveKit shows with participants.
    """

    def __init__(
        self,
        policy: Policy,
        discovery: Discovery,
        keeper: Keeper,
        *,
        attributes: Attributes | None = None,
    ) -> None:
        self._attributes = attributes
        self._discovery = discovery
        self._keeper = keeper
        self._ttl_s = policy.token_ttl_s
        self.rooms: dict[str, int] = {"made": 0, "failed": 0}
        """How many rooms were asked of the SFU, by what came of it."""
        self._grants = {
            may_publish: Grants(
                can_publish=may_publish,
                can_update_own_metadata=policy.may_update_own_metadata,
                room_create_shown=policy.room_create_shown,
            )
            for may_publish in (False, True)
        }

    async def token(
        self, place: Place, *, may_publish: bool, create_room: bool, leave: Delegated | None = None
    ) -> str:
        """Make a token, and before anybody has it, the room; a leave is stored when this returns.

        :raises Refusal: when any of it cannot be.
        """
        alias = place.alias
        token = place.sfu.minter.participant(
            self._grants[may_publish],
            room=alias,
            identity=place.identity,
            now_s=int(time.time()),
            ttl_s=self._ttl_s,
            attributes=self._attributes and self._attributes(place, alias),
        )
        if leave is not None:
            await self._resolve(leave)
        if create_room:
            await self.create_room(place.sfu, alias)
        if leave is not None:
            await self._keep(alias, place.identity, leave)
        return token

    async def create_room(self, sfu: Sfu, alias: str) -> None:
        """Have a room on the SFU.

        :raises Refusal: when it cannot be created.
        """
        try:
            await sfu.service.create_room(alias)
            self.rooms["made"] += 1
        except SfuError as error:
            self.rooms["failed"] += 1
            _LOG.error("no room on the SFU: %s", error)
            raise Refusal(500, "M_UNKNOWN", "Unable to create room on SFU") from None

    async def delegate(self, place: Place, leave: Delegated) -> None:
        """Watch over a leave alone.

        :raises Refusal: when nobody can.
        """
        await self._resolve(leave)
        await self._keep(place.alias, place.identity, leave)

    async def _resolve(self, leave: Delegated) -> None:
        if await self._discovery.client_url(leave.server_name) is None:
            _LOG.warning("no client-server API of %s is known", leave.server_name)
            raise Refusal(400, BAD_JSON, "Unable to resolve client-server API")

    async def _keep(self, alias: str, identity: str, leave: Delegated) -> None:
        try:
            await self._keeper.add(
                Leave(
                    room=alias,
                    identity=identity,
                    delay_id=leave.delay_id,
                    delay_ms=leave.delay_ms,
                    server_name=leave.server_name,
                    user_id=leave.user_id,
                )
            )
        except DelegationRefused as error:
            raise Refusal(400, BAD_JSON, str(error)) from None
        except NotStored:
            raise Refusal(503, "M_UNKNOWN", "The leave could not be stored") from None
        except ShuttingDown:
            raise Refusal(503, "M_UNKNOWN", "Service is shutting down") from None
