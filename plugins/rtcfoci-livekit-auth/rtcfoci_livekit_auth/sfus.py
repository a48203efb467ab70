"""The LiveKit servers there are: each with its URLs and key pair, chosen by room or by URL.

In: `Sfu`, `Sfus`, comparing URLs. Out: what is asked of a server (`room_service`).

A room lives on one server, which its name determines among all that are configured; so every member is sent
to the same one, by every replica and after every restart, and one server more moves only its share of rooms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from rtcfoci_livekit_auth.room_service import Presence, RoomOptions, RoomService, Sighting
from rtcfoci_livekit_auth.settings import Settings
from rtcfoci_livekit_auth.tokens import Minter

__all__ = ["Sfu", "Sfus", "normalised"]

_SECURE = {"wss": "https", "ws": "http"}
_PORTS = {"http": 80, "https": 443}


def normalised(url: str) -> str:
    """Give a form that is the same for URLs that lead to the same server.

    :raises ValueError: when it is no URL with a host.
    """
    parts = urlsplit(url.strip())
    scheme = _SECURE.get(parts.scheme, parts.scheme)
    host = (parts.hostname or "").rstrip(".")
    if scheme not in _PORTS or not host:
        raise ValueError("not a URL of a server")
    if ":" in host:
        host = f"[{host}]"
    port = "" if parts.port in (None, _PORTS[scheme]) else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{host}{port}{parts.path.rstrip('/')}{query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sfu:
    """One LiveKit server."""

    url: str
    """Given to clients letter for letter."""
    minter: Minter
    service: RoomService
    salt: str = field(repr=False)
    """What makes aliases on it ours alone; empty for none."""


class Sfus:
    """All LiveKit servers that are configured."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        options = RoomOptions(
            empty_timeout_s=settings.room_empty_timeout_s,
            departure_timeout_s=settings.room_departure_timeout_s,
            max_participants=settings.room_max_participants,
        )
        self.all: Sequence[Sfu] = tuple(
            Sfu(
                url=one.url,
                minter=(minter := Minter(one.key, one.secret)),
                service=RoomService(session, one.internal_url, minter, options),
                salt=minter.derived("room alias") if settings.policy.salted_alias else "",
            )
            for one in settings.sfus
        )
        self._by_url: dict[str, Sfu] = {}
        for sfu in self.all:
            self._by_url.setdefault(normalised_or_same(sfu.url), sfu)

    def of_room(self, room_id: str, slot_id: str) -> Sfu:
        """Choose the server of a room."""
        if len(self.all) == 1:
            return self.all[0]
        place = f"{room_id}\n{slot_id}\n"
        return max(self.all, key=lambda sfu: hashlib.blake2b((place + sfu.url).encode()).digest())

    def of_url(self, url: str) -> Sfu | None:
        """Find the server that clients know by a URL, whichever way they write it."""
        return self._by_url.get(normalised_or_same(url))

    def minters(self, key: str) -> list[Minter]:
        """Give all who sign with this key; keys need not differ between servers."""
        return [sfu.minter for sfu in self.all if sfu.minter.key == key]

    async def is_there(self, room: str, identity: str) -> Sighting:
        """Tell whether somebody is in a room, on whichever server it is."""
        gone = True
        for sfu in self.all:
            sighting = await sfu.service.look_up(room, identity)
            if sighting.presence is Presence.PRESENT:
                return sighting
            gone = gone and sighting.presence is Presence.GONE
        return Sighting(Presence.GONE if gone else Presence.UNKNOWN)


def normalised_or_same(url: str) -> str:
    """Normalise what can be; compare the rest letter for letter."""
    try:
        return normalised(url)
    except ValueError:
        return url
