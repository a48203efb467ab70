"""The backend contract: what the code behind a focus type implements, and what it is given.

In: `Backend` and `Connection`. Out: what a connection reports (`events`), what a backend is given
(`context`), how types are declared (`hookspecs`), loaded (`manager`), and driven (`rtcfoci.call`).

All methods are called on the call's event loop and are `async` where they may wait; a backend with
loops or threads of its own marshals. Cancelling `Backend.connect` must return at once; what it had
begun is closed in the background. Raise `BackendError`, with `retryable`, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from rtcfoci.core.model import JsonObject, Member, Membership, Transport
from rtcfoci.errors import BackendError
from rtcfoci.plugin.events import ConnectionEvent, DataReceived, Speaking
from rtcfoci.plugin.stats import ConnectionStats
from rtcfoci.plugin.stream import EventStream

if TYPE_CHECKING:
    from rtcfoci.media.tracks import LocalTrack, TrackId
    from rtcfoci.plugin.context import Context

__all__ = [
    "Backend",
    "Connection",
    "DoctorHop",
    "Health",
    "LeaveDelegation",
    "Quality",
    "Role",
    "SignalSecurity",
]

_T = TypeVar("_T")
SignalSecurity: TypeAlias = Literal["clear", "bound", "trusted"]
"""How a signal came: in clear, olm-encrypted by the claimed device, or by a cross-signed one."""


class Role(Enum):
    """What a connection is for; one connection may have both."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class Quality(Enum):
    """How much of a remote track is wanted."""

    OFF = "off"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A cheap answer to "is it alive", asked once a second; times are monotonic seconds."""

    connected: bool
    last_media_s: float | None = None
    """When anything was last received; None before the first."""
    last_ping_s: float | None = None
    """When the focus last acknowledged us; None where the focus has no such thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveDelegation:
    """A delayed leave that a focus's service may restart for us (MSC4195, delegated leave)."""

    delay_id: str = field(repr=False)
    delay_ms: int
    homeserver_url: str


@dataclass(frozen=True, slots=True)
class DoctorHop:
    """One step of a diagnosis: `check` returns None when well, else a `BackendError` with remedy."""

    name: str
    check: Callable[[], Coroutine[object, object, BackendError | None]]


class Connection(ABC):
    """A live link to one focus: publishes, subscribes, reports.

    Only `set_members`, `health` and `_close` must be written. A type without media or data leaves
    those methods alone: by default they refuse with a `BackendError` that names the method.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._stream: EventStream[ConnectionEvent] = EventStream(droppable=(DataReceived, Speaking))

    def emit(self, event: ConnectionEvent) -> None:
        """Report an event, from any thread. When the reader lags, data and speaking are dropped."""
        self._stream.put(event)

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """Yield events until the connection is closed; one reader."""
        return self._stream.read()

    @property
    def dropped_events(self) -> int:
        """How many data and speaking events were dropped because nobody read them in time."""
        return self._stream.dropped

    @abstractmethod
    async def set_members(
        self,
        added: Sequence[Membership],
        changed: Sequence[Membership],
        removed: Sequence[Membership],
    ) -> None:
        """Follow the roster of this connection; never contains ourselves. Idempotent per member."""

    async def set_own(self, membership: Membership) -> None:
        """Take our own membership as everybody reads it; it may come later than the others'."""
        return

    @abstractmethod
    def health(self) -> Health:
        """Answer from memory; never waits."""

    @abstractmethod
    async def _close(self) -> None:
        """Let go of everything; called once."""

    async def aclose(self) -> None:
        """Close; idempotent. Ends `events()`."""
        if self._stream.close():
            await self._close()

    async def publish(self, track: LocalTrack) -> None:
        """Publish a track under its `track_id`; a track may be on several connections at once."""
        raise _unsupported(self, "publish")

    async def unpublish(self, track_id: TrackId) -> None:
        """Stop publishing; unknown ids are ignored."""
        raise _unsupported(self, "unpublish")

    async def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Tell the others that a local track is muted, and send nothing of it meanwhile."""
        raise _unsupported(self, "set_muted")

    async def set_subscribed(self, track_id: TrackId, quality: Quality) -> None:
        """Say how much of a remote track is wanted; tracks start at `HIGH`."""
        raise _unsupported(self, "set_subscribed")

    async def send_data(
        self, payload: bytes, *, topic: str, reliable: bool, to: Iterable[Member] | None = None
    ) -> None:
        """Send a message to the members named, or to all."""
        raise _unsupported(self, "send_data")

    async def set_key(self, member: Member, index: int, key: bytes) -> None:
        """Install a media key (`Security.FRAME`); all keys are set before anything is published."""
        raise _unsupported(self, "set_key")

    async def use_key(self, index: int) -> None:
        """Encrypt with our own key of that index from now on."""
        raise _unsupported(self, "use_key")

    async def on_signal(
        self, member: Member, payload: JsonObject, security: SignalSecurity
    ) -> None:
        """Take a payload that a member's backend sent with `Context.send_signal`; untrusted."""
        raise _unsupported(self, "on_signal")

    async def stats(self) -> ConnectionStats:
        """Give figures for people and metrics; asked once a second, so it does not measure by itself."""
        return ConnectionStats()

    def extension(self, kind: type[_T]) -> _T | None:
        """Return the typed extra of that class if this backend has it."""
        return None


class Backend(ABC):
    """The code of one focus type in one call.

    :param config: an instance of the type's `config_model`, or None when it has none.
    """

    def __init__(self, context: Context, config: object | None) -> None:
        self.context = context
        self.config = config

    @abstractmethod
    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        """Say where we could publish, best first, from what the homeserver advertises and config."""

    @abstractmethod
    async def connect(self, key: str, transport: Transport, roles: frozenset[Role]) -> Connection:
        """Open the connection that `connection_key` named. Cancelling returns at once."""

    def connection_key(
        self, transport: Transport, member: Member, local_transports: Sequence[Transport]
    ) -> str | None:
        """Name the connection on which a member's transport is reached; equal keys share one.

        None: not one of ours after all. The default is one constant key, as a pairwise type needs.
        """
        return "all"

    def render(self, transport: Transport, dialect: str) -> JsonObject:
        """Write one of our transports for a dialect in this context's slot; by default as it is."""
        return transport.raw

    async def prepare(self, transport: Transport) -> None:  # noqa: B027 - optional by contract
        """Fetch what connecting will need (tokens), so that `connect` is quick. Optional."""

    async def delegate_leave(self, transport: Transport, leave: LeaveDelegation) -> bool:
        """Hand the delayed leave to the focus's service; False when it is refused."""
        return False

    def doctor_hops(self) -> Sequence[DoctorHop]:
        """Contribute checks to a doctor."""
        return ()

    async def aclose(self) -> None:  # noqa: B027 - optional by contract
        """Let go of what outlives connections. Optional; idempotent."""


def _unsupported(connection: Connection, method: str) -> BackendError:
    return BackendError(
        f"{type(connection).__name__} does not support {method}()",
        why="the focus type does not have that capability",
        do="check the focus type's capabilities first: rtcfoci plugins",
    )
