"""What our client-server layer wants of an olm machine.

In: the protocol. Out: the machine (`olm`), who asks it (`cs`, `loop`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.matrix.client import DelayedEvent, SealedCounts
from rtcfoci.matrix.loop import Decrypter

__all__ = ["Encrypter"]


class Encrypter(Decrypter, Protocol):
    """An olm machine: encrypts for a device or a room, decrypts what the homeserver brings."""

    async def encrypt_event(self, room_id: str, event_type: str, content: JsonObject) -> JsonObject:
        """Give back the content of an `m.room.encrypted` event for everybody in the room."""

    def read(self, room_id: str, events: Iterable[RoomEvent]) -> tuple[RoomEvent, ...]:
        """Read the encrypted events among a room's that a call goes by; what cannot be read yet comes by the
        feed.
        """

    def counts(self, room_id: str) -> SealedCounts:
        """Tell what a room's encrypted events came to that were not simply read."""

    def read_held(self, event: DelayedEvent) -> DelayedEvent:
        """Read an event of ours that the server holds, if it is encrypted."""

    async def encrypt(
        self,
        event_type: str,
        user_id: str,
        device_id: str,
        content: JsonObject,
        *,
        trusted: bool = False,
    ) -> JsonObject:
        """Give back the content of an `m.room.encrypted` event for exactly this device.

        :raises UntrustedError: when it has to be trusted (cross-signed) and is not.
        """

    def trusts(self, user_id: str, device_id: str) -> bool | None:
        """Tell whether a device is cross-signed; None when nothing is known of it."""

    async def aclose(self) -> None:
        """Stop what runs behind. Idempotent."""
