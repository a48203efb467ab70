"""Who left the Matrix room leaves the SFU: checked when somebody connects, and from time to time.

In: `Seals`, what a token says about its Matrix room and user; `Leavers`, who asks the homeserver and removes.
Out: making tokens (`granting`), asking (`homeserver`).

Names on the SFU are hashes, so nothing tells whose they are. Instead of keeping that anywhere, a token
carries it, sealed, as an attribute that LiveKit shows with the participant: any replica can read it, also
after a restart. Where participants may change their own metadata, they may drop the attribute, so what was
sealed is remembered too, as long as this process lives. What the homeserver does not say changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from rtcfoci_livekit_auth.appservice.homeserver import Homeserver
from rtcfoci_livekit_auth.guard import Unreachable
from rtcfoci_livekit_auth.room_service import Participant, SfuError
from rtcfoci_livekit_auth.sfus import Sfu, Sfus
from rtcfoci_livekit_auth.tokens import Minter
from rtcfoci_livekit_auth.webhooks import ParticipantEvent

__all__ = ["ATTRIBUTE", "Leavers", "Seals"]

_LOG = logging.getLogger(__name__)

ATTRIBUTE = "rtcfoci.member"
_AT_ONCE = 8
_MOST_CHECKS = 1000
_MOST_REMEMBERED = 50_000

Whose = tuple[str, str]
"""A Matrix room's id and a user's."""


class Seals:
    """Writes and reads whose a participant is; only who has the SFU's secret can write it."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, str], Whose] = OrderedDict()

    def attributes(
        self, minter: Minter, *, room: str, identity: str, room_id: str, user_id: str
    ) -> dict[str, str]:
        """Give the attributes of a token."""
        self._made[room, identity] = room_id, user_id
        self._made.move_to_end((room, identity))
        if len(self._made) > _MOST_REMEMBERED:
            self._made.popitem(last=False)
        return {ATTRIBUTE: minter.sealed(json.dumps([room_id, user_id]), room, identity)}

    def whose(
        self, minters: Sequence[Minter], room: str, identity: str, attributes: Mapping[str, str]
    ) -> Whose | None:
        """Tell whose a participant is; None where nobody says."""
        if (made := self._made.get((room, identity))) is not None:
            return made
        text = attributes.get(ATTRIBUTE, "")
        for minter in minters:
            try:
                room_id, user_id = json.loads(minter.unsealed(text, room, identity))
            except ValueError:
                continue
            return str(room_id), str(user_id)
        return None


class Leavers:
    """Removes participants whose user is not joined to the Matrix room any more.

    :param interval_s: how often everybody is looked at; 0 never, so that only who connects is.
    """

    def __init__(
        self, homeserver: Homeserver, sfus: Sfus, seals: Seals, *, interval_s: float
    ) -> None:
        self._homeserver = homeserver
        self._sfus = sfus
        self._seals = seals
        self._interval_s = interval_s
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._checks: set[asyncio.Task[None]] = set()
        self.removed: int = 0
        """How many were removed since the start."""

    def handle(self, event: ParticipantEvent) -> None:
        """Check who connected: their token may be older than their leave."""
        if event.kind != "joined" or len(self._checks) >= _MOST_CHECKS:
            return
        minters = [sfu.minter for sfu in self._sfus.all]
        whose = self._seals.whose(minters, event.room, event.identity, event.attributes)
        if whose is not None:
            check = asyncio.create_task(self._check_everywhere(event.room, event.identity, whose))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def run(self) -> None:
        """Look at everybody, again and again, until cancelled."""
        while self._interval_s > 0:
            await asyncio.sleep(self._interval_s)
            await self.sweep()

    async def sweep(self) -> None:
        """Look at everybody on every SFU once."""
        for sfu in self._sfus.all:
            try:
                rooms = await sfu.service.rooms()
            except SfuError as error:
                _LOG.warning("participants cannot be checked: %s", error)
                continue
            await asyncio.gather(*(self._sweep_room(sfu, room) for room in rooms))

    async def stop(self) -> None:
        """Forget the checks that are under way."""
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def _sweep_room(self, sfu: Sfu, room: str) -> None:
        try:
            async with self._turn:
                participants = await sfu.service.participants(room)
        except SfuError as error:
            _LOG.warning("participants cannot be checked: %s", error)
            return
        members = [
            (one, whose)
            for one in participants
            if (whose := self._whose(sfu, room, one)) is not None
        ]
        for room_id in {room_id for _, (room_id, _) in members}:
            if await self._gone_from(room_id):
                await self._end(sfu, room)
                return
        await asyncio.gather(
            *(self._check(sfu, room, one.identity, whose) for one, whose in members)
        )

    def _whose(self, sfu: Sfu, room: str, one: Participant) -> Whose | None:
        return self._seals.whose([sfu.minter], room, one.identity, one.attributes)

    async def _gone_from(self, room_id: str) -> bool:
        """Tell whether our homeserver has left a room: it says nothing about its members then."""
        try:
            async with self._turn:
                return not await self._homeserver.server_joined(room_id)
        except Unreachable as error:
            _LOG.warning("%s", error)
            return False

    async def _end(self, sfu: Sfu, room: str) -> None:
        try:
            await sfu.service.delete_room(room)
        except SfuError as error:
            _LOG.warning("a room cannot be ended: %s", error)
        else:
            self.removed += 1
            _LOG.info("a call was ended: the homeserver is not in its room any more")

    async def _check_everywhere(self, room: str, identity: str, whose: Whose) -> None:
        for sfu in self._sfus.all:
            await self._check(sfu, room, identity, whose)

    async def _check(self, sfu: Sfu, room: str, identity: str, whose: Whose) -> None:
        room_id, user_id = whose
        try:
            async with self._turn:
                if await self._homeserver.user_joined(user_id, room_id):
                    return
                await sfu.service.remove_participant(room, identity)
        except (Unreachable, SfuError) as error:
            _LOG.warning("%s", error)
        else:
            self.removed += 1
            _LOG.info("%s was removed from a call: not joined to its room any more", user_id)
