"""The clock of a call: its homeserver's, which is the same for everybody there.

In: learning it from the age of events. Out: what goes by it (`call`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rtcfoci.core.model import Now, RoomEvent

__all__ = ["ServerClock"]


class ServerClock:
    """Our monotonic clock and the homeserver's.

    Members judge by it how old a signal is and when a membership ends, so that a wrong clock here, or one
    that is set in the call, keeps nobody apart.

    :param now: both clocks of this machine.
    """

    def __init__(self, now: Callable[[], Now]) -> None:
        self._now = now
        self._ahead_ms: float | None = None
        """What to add to our monotonic clock for the homeserver's; None until it has told."""

    def now(self) -> Now:
        """Give both."""
        now = self._now()
        if self._ahead_ms is None:
            return now
        return Now(now.s, round(now.s * 1000 + self._ahead_ms))

    def heard_ts_ms(self, event: RoomEvent) -> int:
        """Tell when an event came, by this clock: one that was read late came before it was handed out."""
        passed_ms = self._now().ts_ms - event.received_ts_ms
        return self.now().ts_ms - max(0, passed_ms)

    def learn(self, events: Sequence[RoomEvent], user_id: str) -> None:
        """Read the homeserver's clock from the age of an event: of one of our own, which no other server has
        a say in.
        """
        for event in reversed(events):
            if event.sender == user_id and event.age_ms is not None:
                now = self._now()
                passed_ms = now.ts_ms - event.received_ts_ms
                server_ts_ms = event.origin_server_ts_ms + event.age_ms + passed_ms
                self._ahead_ms = server_ts_ms - now.s * 1000
                return
