"""The network that exists only in memory: who reaches whom, and the hand that breaks it.

In: places, and what freezing and killing them does to those who meet there. Out: the focus types whose
traffic this is (`memory`).

A place is what media goes through: the focus of a transport or, in a mesh, the member's own machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from rtcfoci.core.model import Member
from rtcfoci.errors import BackendError
from rtcfoci.media.tracks import FrameHub
from rtcfoci.plugin.backend import LeaveDelegation, Role
from rtcfoci.plugin.events import (
    ConditionCleared,
    ConditionRaised,
    TrackAdded,
    TrackMuted,
    TrackRemoved,
)
from rtcfoci.plugin.hookspecs import Topology

if TYPE_CHECKING:
    from rtcfoci.testing.memory import MemoryConnection

__all__ = ["MAX_DATA_BYTES", "MemoryConfig", "MemoryWorld"]

MAX_DATA_BYTES = 60_000
"""The largest data message."""

_NOTICED_S = 3.0
"""After how long peers notice that somebody froze."""


class MemoryConfig(BaseModel, extra="forbid"):
    """What a memory backend is told: its world, and the focus it publishes on."""

    world: str = "default"
    focus: str = "focus-a"


class MemoryWorld:
    """What the memory backends of one test have in common."""

    _named: ClassVar[dict[str, MemoryWorld]] = {}

    def __init__(self) -> None:
        self.connections: tuple[MemoryConnection, ...] = ()
        self.frozen: dict[str, float] = {}
        """Places that do not answer, and since when: monotonic seconds."""
        self.killed: set[str] = set()
        """Places that are gone; take one out and it can be connected to again."""
        self.token_ttl_s: float = 60.0
        self.token_delay_s: float = 0.0
        self.tokens: Counter[str] = Counter()
        """How many tokens were issued, by place."""
        self.accepts_delegation = True
        self.delegated: dict[str, list[LeaveDelegation]] = defaultdict(list)
        """The delayed leaves handed over, by place."""
        self._held: list[Callable[[], None]] = []

    @classmethod
    def named(cls, name: str, *, fresh: bool = False) -> MemoryWorld:
        """Find the world of that name; `fresh` replaces it by an empty one."""
        if fresh or name not in cls._named:
            cls._named[name] = cls()
        return cls._named[name]

    def freeze(self, place: str) -> None:
        """Stop answering and forwarding, silently."""
        self.frozen[place] = next((c.context.now().s for c in self.connections), 0.0)
        for connection in self.connections:
            connection.context.call_later(_NOTICED_S, partial(self._tell, connection, place))

    def thaw(self, place: str) -> None:
        """Go on; reliable data arrives now."""
        del self.frozen[place]
        held, self._held = self._held, []
        for deliver in held:
            deliver()
        for connection in self.connections:
            self._tell(connection, place)

    def kill(self, place: str) -> None:
        """Cut off everybody there."""
        self.killed.add(place)
        for connection in self.connections:
            self._tell(connection, place)
        self.settle()

    async def enter(self, connection: MemoryConnection) -> None:
        """Connect; a frozen place lets wait.

        :raises BackendError: at a killed place.
        """
        while connection.place in self.frozen:  # noqa: ASYNC110 - any loop's test may thaw it
            await asyncio.sleep(0.05)
        if connection.place in self.killed:
            what = f"{connection.place} cannot be reached"
            raise BackendError(what, why="it was killed", do="choose another", retryable=True)
        self.connections = (*self.connections, connection)
        self.settle()

    def leave(self, connection: MemoryConnection) -> None:
        """Disconnect."""
        for _, stop in connection.published.values():
            stop()
        for hub in connection.remote.values():
            hub.end()
        self.connections = tuple(c for c in self.connections if c is not connection)
        self.settle()

    async def token(self, place: str) -> float:
        """Issue a token; give back how long it is good for, in seconds."""
        await asyncio.sleep(self.token_delay_s)
        self.tokens[place] += 1
        return self.token_ttl_s

    def take_over(self, place: str, leave: LeaveDelegation) -> bool:
        """Accept a delayed leave, or not."""
        if self.accepts_delegation:
            self.delegated[place].append(leave)
        return self.accepts_delegation

    def carry(self, places: set[str], reliable: bool, deliver: Callable[[], None]) -> None:
        """Carry a frame or message through places, if they let it."""
        if not places & (self.killed | self.frozen.keys()):
            deliver()
        elif reliable and not places & self.killed:
            self._held.append(partial(self.carry, places, reliable, deliver))

    def settle(self) -> None:
        """Bring what every connection sees into step with what is published."""
        for receiver in self.connections:
            seen = {t: s for s in self.reaching(receiver) for t in s.published}
            for track_id in receiver.remote.keys() - seen.keys():
                receiver.remote.pop(track_id).end()
                receiver.emit(TrackRemoved(track_id))
            for track_id in sorted(seen.keys() - receiver.remote.keys(), key=str):
                hub = FrameHub(seen[track_id].published[track_id][0].kind)
                receiver.remote[track_id] = hub
                receiver.emit(TrackAdded(track_id, hub))
                if track_id in seen[track_id].muted:
                    receiver.emit(TrackMuted(track_id, True))

    def reaching(self, receiver: MemoryConnection) -> list[MemoryConnection]:
        """The connections whose traffic comes to this one."""
        return [sender for sender in self.connections if self._reaches(sender, receiver)]

    def reached(
        self, sender: MemoryConnection, only: set[Member] | None = None
    ) -> list[MemoryConnection]:
        """The connections to which this one's traffic comes; of these members, if named."""
        reached = [receiver for receiver in self.connections if self._reaches(sender, receiver)]
        return [c for c in reached if only is None or c.context.member in only]

    def _reaches(self, sender: MemoryConnection, receiver: MemoryConnection) -> bool:
        one, other = sender.context.member, receiver.context.member
        mesh = sender.topology is Topology.PAIRWISE
        return (
            sender.topology is receiver.topology
            and sender.context.slot == receiver.context.slot
            and one in receiver.members
            and Role.PUBLISH in sender.roles
            and Role.SUBSCRIBE in receiver.roles
            and not {sender.place, receiver.place} & self.killed
            and (sender.place == receiver.place or mesh or sender.topology is Topology.LINKED)
            and (not mesh or (one in receiver.heard and other in sender.heard))
        )

    def _tell(self, connection: MemoryConnection, place: str) -> None:
        """Report how a place fares to one who is there, or to its peers."""
        dead, down = place in self.killed, place in self.killed or place in self.frozen
        code, subjects = "focus_failed", [place] if place == connection.place and dead else []
        if place != connection.place and connection.topology in (
            Topology.PAIRWISE,
            Topology.LINKED,
        ):
            there = {c.context.member for c in self.connections if c.place == place}
            code, subjects = "peer_unreachable", sorted(map(str, there & connection.members))
        for subject in subjects:
            cause = f"{place} does not answer"
            raised, cleared = ConditionRaised(code, cause, subject), ConditionCleared(code, subject)
            connection.emit(raised if down else cleared)
