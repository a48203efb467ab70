"""The service behind its homeserver, put together.

In: making the parts of this package from what the service has anyway. Out: when they run (`app`).
"""

from __future__ import annotations

from collections.abc import Mapping

from rtcfoci_livekit_auth.appservice.endpoints import AppserviceEndpoints, joined_or_refused
from rtcfoci_livekit_auth.appservice.homeserver import Homeserver
from rtcfoci_livekit_auth.appservice.leavers import Leavers, Seals
from rtcfoci_livekit_auth.delegation.delayed_events import DelayedEvents
from rtcfoci_livekit_auth.discovery import Discovery
from rtcfoci_livekit_auth.granting import Granting, Place
from rtcfoci_livekit_auth.guard import Outgoing
from rtcfoci_livekit_auth.limits import Gate, Heads
from rtcfoci_livekit_auth.settings import Appservice, Settings
from rtcfoci_livekit_auth.sfus import Sfus

__all__ = ["BehindHomeserver"]


class BehindHomeserver:
    """What there is where the service is its homeserver's application service."""

    def __init__(
        self,
        settings: Settings,
        service: Appservice,
        outgoing: Outgoing,
        discovery: Discovery,
        sfus: Sfus,
    ) -> None:
        self._settings, self._service = settings, service
        self._discovery, self._sfus = discovery, sfus
        self._homeserver = Homeserver(outgoing, discovery, service)
        self._seals = Seals()
        self.leavers: Leavers = Leavers(
            self._homeserver, sfus, self._seals, interval_s=settings.membership_interval_s
        )

    def attributes(self, place: Place, alias: str) -> Mapping[str, str]:
        """Give what a token says about its participant, for `leavers` to read."""
        return self._seals.attributes(
            place.sfu.minter,
            room=alias,
            identity=place.identity,
            room_id=place.room_id,
            user_id=place.user_id,
        )

    async def check_joined(self, user_id: str, room_id: str) -> None:
        """Pass who is joined to a room.

        :raises Refusal: 403 for anybody else; 502 when the homeserver does not say.
        """
        await joined_or_refused(self._homeserver, user_id, room_id)

    def endpoints(
        self, granting: Granting, gate: Gate, heads: Heads, delayed_events: DelayedEvents
    ) -> AppserviceEndpoints:
        """Make the handlers."""
        return AppserviceEndpoints(
            settings=self._settings,
            service=self._service,
            homeserver=self._homeserver,
            discovery=self._discovery,
            delayed_events=delayed_events,
            granting=granting,
            sfus=self._sfus,
            gate=gate,
            heads=heads,
        )
