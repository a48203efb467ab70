"""The narrow view of a homeserver that a call needs: about ten methods and one stream.

In: the protocol and the values that cross it. Out: HTTP (`http`), sync and sending (`cs`), encryption
and login (`nio`), and the homeserver that exists only in memory (`rtcfoci.testing.homeserver`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from rtcfoci.core.model import JsonObject, RoomEvent

__all__ = [
    "Connectivity",
    "DelayedAction",
    "DelayedEvent",
    "MatrixClient",
    "RoomUpdate",
    "SealedCounts",
    "ServerSupport",
    "ToDevice",
    "Update",
]

DelayedAction: TypeAlias = Literal["restart", "cancel", "send"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSupport:
    """What the homeserver offers, probed and never assumed."""

    delayed_events: bool
    """MSC4140 is on: the flag is there and the capability's `max_delay_ms` is above 0."""
    max_delay_ms: int | None
    """The longest delay; None when the server does not say."""
    max_scheduled: int | None
    sticky_events: bool
    """MSC4354 is on."""
    rtc_transports: bool
    """MSC4143 `rtc/transports` answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvent:
    """One of our own events that the server holds for later."""

    delay_id: str = field(repr=False)
    room_id: str
    type: str
    state_key: str | None
    content: JsonObject
    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedCounts:
    """Encrypted events of a room, since the client was opened, that were not simply read."""

    waiting: int = 0
    """Wait now for a key, or for their sender's devices: sticky ones, and for two minutes others, which may
    be notifications."""
    dropped: int = 0
    """Were given up because too many waited."""
    refused: int = 0
    """Were decrypted and are not what they say: replayed, or of another room."""
    unbound: int = 0
    """Were read although their keys are those of no device of their sender."""

    def since(self, before: SealedCounts) -> SealedCounts:
        """Leave out what was counted before; what waits, waits."""
        return SealedCounts(
            waiting=self.waiting,
            dropped=self.dropped - before.dropped,
            refused=self.refused - before.refused,
            unbound=self.unbound - before.unbound,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUpdate:
    """What one sync brought for one room: state, timeline and sticky events, each once, in order."""

    room_id: str
    events: tuple[RoomEvent, ...]
    membership: Literal["join", "leave", "invite"] = "join"
    """Our own membership in the room after this update; `leave` includes kicks and bans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDevice:
    """A to-device message, delivered at least once: kept until `MatrixClient.ack`, an hour at most."""

    id: int
    type: str
    sender: str
    content: JsonObject = field(repr=False)
    security: Literal["clear", "bound", "trusted"]
    """`bound`: the olm sender key and ed25519 key belong to `sender_device_id`, checked; `trusted`: and that
    is cross-signed."""
    sender_device_id: str | None
    """Only believed when not clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connectivity:
    """Whether the homeserver answers; `token_revoked` ends the stream."""

    online: bool
    cause: str = ""
    token_revoked: bool = False


Update: TypeAlias = RoomUpdate | ToDevice | Connectivity


class MatrixClient(Protocol):
    """One device of one user; every method raises `ClientError` or `UnreachableError`, nothing else.

    Methods wait out rate limits up to 30 s by themselves, except `send_state`, `send_event`,
    `schedule_delayed` and `manage_delayed`: there the lifecycle machine decides what waiting means.
    """

    user_id: str
    device_id: str
    homeserver_url: str

    @property
    def encrypts(self) -> bool:
        """Whether to-device messages and events can be encrypted, and are read when they are."""

    def sealed(self, room_id: str) -> SealedCounts:
        """Count the encrypted events of a room that were not simply read."""

    async def support(self) -> ServerSupport:
        """Probe what the homeserver offers; cached until it was unreachable."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: JsonObject | None = None,
    ) -> JsonObject:
        """Send one authenticated request; `path` is unescaped-by-us and starts with `/_matrix/`."""

    async def room_state(self, room_id: str) -> Sequence[RoomEvent]:
        """Fetch the room's whole current state."""

    async def send_state(
        self, room_id: str, event_type: str, state_key: str, content: JsonObject
    ) -> str:
        """Set state; give back the event id."""

    async def send_event(
        self,
        room_id: str,
        event_type: str,
        content: JsonObject,
        *,
        txn_id: str,
        sticky_duration_ms: int | None = None,
        encrypt: bool = False,
    ) -> str:
        """Send an event; give back its id. The same `txn_id` never sends twice.

        `encrypt` means Megolm, for every device in the room, and never falls back to clear.
        """

    async def schedule_delayed(
        self,
        room_id: str,
        event_type: str,
        content: JsonObject,
        *,
        delay_ms: int,
        txn_id: str,
        state_key: str | None = None,
        sticky_duration_ms: int | None = None,
        encrypt: bool = False,
    ) -> str:
        """Have the server send an event later (MSC4140); give back the delay id, a secret.

        `encrypt` is that of `send_event`; state is never encrypted.
        """

    async def manage_delayed(self, delay_id: str, action: DelayedAction) -> None:
        """Restart, cancel or send; 404 `M_NOT_FOUND` when it has fired."""

    async def list_delayed(self) -> Sequence[DelayedEvent]:
        """List our own scheduled events; encrypted ones as what they say."""

    def trusts(self, user_id: str, device_id: str | None) -> bool | None:
        """Tell whether a device is cross-signed (`rtcfoci.matrix.cross_signing`); None: it is not known."""

    async def send_to_device(
        self,
        event_type: str,
        user_id: str,
        device_id: str,
        content: JsonObject,
        *,
        encrypt: bool,
        trusted: bool = False,
    ) -> None:
        """Send to one device; `encrypt` means olm, and never falls back to clear.

        `trusted` means to a cross-signed device alone; for another it raises `UntrustedError`.
        """

    async def openid_token(self) -> JsonObject:
        """Ask for a single-use OpenID token."""

    def updates(self, room_id: str) -> AsyncIterator[Update]:
        """Stream a room's updates, all to-device messages and connectivity; several may read.

        The first `RoomUpdate` holds the room's whole current state and sticky events; a `Connectivity` may
        come before it. A reader that falls far behind, or a server that lost our place, brings another whole
        room. To-device messages that nobody has acknowledged come right after the first update.
        """

    async def ack(self, message: ToDevice) -> None:
        """Say that a to-device message was handled: it will not be delivered again."""

    async def aclose(self) -> None:
        """Stop syncing, keep the device. Idempotent."""
