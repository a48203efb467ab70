"""What a backend is given: everything it may use of the outside world, so that it is tested without Matrix.

In: the `Context` protocol and the values it hands over. Out: who implements it (`rtcfoci.call`, and
`rtcfoci.testing` for authors).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rtcfoci.core.model import JsonObject, Member, Now, Slot

if TYPE_CHECKING:
    import asyncio
    import logging

    from rtcfoci.media.frames import Kind

__all__ = ["Context", "HttpResponse", "WebSocket"]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer fetched under the trust policy: size and time limited, redirects not followed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class WebSocket(Protocol):
    """A WebSocket opened under the trust policy."""

    async def send(self, message: str | bytes) -> None: ...
    async def receive(self) -> str | bytes:
        """Wait for a message. :raises BackendError: when the socket is closed."""

    async def aclose(self) -> None:
        """Close; takes half a second at most, even where the other side is frozen."""


class Context(Protocol):
    """Everything a backend may use of the outside world; thread-safe, save `spawn`."""

    slot: Slot
    member: Member
    """Our own member."""
    encrypted: bool
    """Whether the room is encrypted."""
    announced: frozenset[Kind]
    """What the application said at its join that it will publish."""
    log: logging.LoggerAdapter[logging.Logger]

    def now(self) -> Now: ...
    async def send_signal(self, member: Member, payload: JsonObject) -> None:
        """Send a payload to a member's device; encrypted where the room is."""

    async def homeserver(
        self, method: str, path: str, body: JsonObject | None = None
    ) -> JsonObject:
        """Ask our homeserver as the user; `path` starts with `/_matrix/`."""

    async def http(
        self,
        method: str,
        url: str,
        *,
        body: JsonObject | None = None,
        timeout_s: float = 10.0,
        trusted: bool = False,
    ) -> HttpResponse:
        """Fetch under the trust policy; see `check_url`."""

    async def websocket(
        self, url: str, *, timeout_s: float = 10.0, trusted: bool = False
    ) -> WebSocket:
        """Open a WebSocket under the trust policy; see `check_url`."""

    def check_url(self, url: str, *, trusted: bool = False) -> None:
        """Pass or raise `BackendError`: no private addresses unless `trust.allow` lists them.

        What stands in configuration or comes from our homeserver is known and passes by itself;
        `trusted` marks what follows from those, such as the SFU that one's own service named.
        """

    def spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Run work that is cancelled when the call ends; its failure becomes a condition.

        To be called on the call's loop, where the work runs.
        """

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Run a callback after a delay on the call's clock; returns the function that cancels it."""

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of `call.metrics`."""
