"""Delayed events of the in-memory homeserver, as Synapse 1.163.2 serves them (MSC4140).

In: what is held, the timer, what cancels it. Out: requests (`homeserver`), sending (`homeserver_rooms`).

The traps are the server's own: whoever knows a delay id may use it without a token, nothing is remembered
of an event that has fired, membership and power are looked at only when it fires, and one that is refused
then is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rtcfoci.core.model import Now
from rtcfoci.testing.homeserver_limits import MatrixError, not_found
from rtcfoci.testing.homeserver_rooms import Event

__all__ = ["MAX_DELAY_MS", "DelayedEvents", "Held"]

MAX_DELAY_MS = 24 * 3_600_000


@dataclass(slots=True, kw_only=True)
class Held:
    """One event that waits."""

    delay_id: str = field(repr=False)
    user_id: str
    device_id: str
    room_id: str
    type: str
    state_key: str | None
    content: Mapping[str, object] = field(repr=False)
    delay_ms: int
    since_ts_ms: int
    sticky_ms: int | None = None

    @property
    def due_ts_ms(self) -> int:
        return self.since_ts_ms + self.delay_ms

    def render(self, *, legacy: bool) -> dict[str, object]:
        shown: dict[str, object] = {
            "delay_id": self.delay_id,
            "room_id": self.room_id,
            "type": self.type,
            "delay_ms": self.delay_ms,
            "delayed_since_ts": self.since_ts_ms,
            "content": dict(self.content),
        }
        if self.state_key is not None:
            shown["state_key"] = self.state_key
        if legacy:
            shown |= {"delay": self.delay_ms, "running_since": self.since_ts_ms}
        return shown


class DelayedEvents:
    """What is held, and the timer of the next.

    :param fire: sends an event; may refuse with `MatrixError`.
    """

    def __init__(
        self, now: Callable[[], Now], fire: Callable[[Held], None], *, max_per_user: int
    ) -> None:
        self.running: bool = True
        self._now = now
        self._fire = fire
        self._max_per_user = max_per_user
        self._held: dict[str, Held] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, held: Held) -> str:
        """Hold an event.

        :raises MatrixError: the delay is too long, or the user has too many.
        """
        if held.delay_ms > MAX_DELAY_MS:
            raise MatrixError(
                400,
                "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE",
                f"The requested delay ({held.delay_ms}ms) exceeds the allowed maximum "
                f"({MAX_DELAY_MS}ms)",
            )
        own = self.of(held.user_id)
        if len(own) >= self._max_per_user:
            first_ts_ms = min((one.due_ts_ms for one in own), default=held.due_ts_ms)
            raise MatrixError(
                429,
                "M_LIMIT_EXCEEDED",
                "The maximum number of delayed events has been reached.",
                retry_after_ms=max(0, first_ts_ms - self._now().ts_ms),
            )
        self._held[held.delay_id] = held
        self._arm()
        return held.delay_id

    def of(self, user_id: str) -> list[Held]:
        return sorted(
            (held for held in self._held.values() if held.user_id == user_id),
            key=lambda held: held.due_ts_ms,
        )

    def get(self, delay_id: str, user_id: str | None = None) -> Held:
        """Find an event that still waits.

        :raises MatrixError: 404, after it fired too.
        """
        held = self._held.get(delay_id)
        if held is None or user_id not in (None, held.user_id):
            raise not_found("Delayed event not found")
        return held

    def manage(self, delay_id: str, action: str) -> None:
        held = self.get(delay_id)
        if action == "restart":
            held.since_ts_ms = self._now().ts_ms
        else:
            del self._held[delay_id]
            if action == "send":
                self._fire(held)
        self._arm()

    def on_state(self, event: Event) -> None:
        """Cancel what others hold for a piece of state that somebody has just set."""
        target = (event.room_id, event.type, event.state_key)
        for held in list(self._held.values()):
            if (held.room_id, held.type, held.state_key) == target and held.user_id != event.sender:
                del self._held[held.delay_id]
        self._arm()

    def stop(self) -> None:
        """The server is down: nothing fires, nothing is forgotten."""
        self.running = False
        self._arm()

    def start(self) -> None:
        """The server is back: what is overdue fires at once."""
        self.running = True
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held and self.running:
            due_ts_ms = min(held.due_ts_ms for held in self._held.values())
            wait_s = max(0, due_ts_ms - self._now().ts_ms) / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_time)

    def _on_time(self) -> None:
        now_ts_ms = self._now().ts_ms
        sent_state: set[tuple[str, str, str]] = set()
        for held in sorted(self._held.values(), key=lambda held: held.due_ts_ms):
            if held.due_ts_ms > now_ts_ms or self._held.pop(held.delay_id, None) is None:
                continue
            if held.state_key is not None:
                target = (held.room_id, held.type, held.state_key)
                if target in sent_state:
                    continue
                sent_state.add(target)
            try:
                self._fire(held)
            except MatrixError:
                pass  # as in Synapse: an event refused when it fires is lost, and nobody is told
        self._arm()
