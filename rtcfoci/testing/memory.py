"""A backend that exists only in memory: all four topologies, tokens, frame keys, delegation.

In: backend and connection. Out: the network between them and its faults (`memory_world`), how the
types are declared (`memory_types`), the suite they pass (`conformance`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar

from rtcfoci.core.model import JsonObject, Member, Membership, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Frame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import backend as contract
from rtcfoci.plugin.context import Context
from rtcfoci.plugin.events import DataReceived, FirstMedia, KeyProblem, TrackMuted
from rtcfoci.plugin.hookspecs import Topology
from rtcfoci.testing.memory_world import MAX_DATA_BYTES, MemoryConfig, MemoryWorld

__all__ = ["Elected", "Linked", "MemoryBackend", "MemoryConnection", "Pairwise", "PerMember"]


class MemoryConnection(contract.Connection):
    """One member's presence at a place."""

    def __init__(self, backend: MemoryBackend, place: str, roles: frozenset[contract.Role]) -> None:
        super().__init__(backend.context)
        self.world: MemoryWorld = backend.world
        self.topology: Topology = backend.topology
        self.place: str = place
        self.roles: frozenset[contract.Role] = roles
        self.members: set[Member] = set()
        self.heard: set[Member] = set()  # in a mesh: whose hello came
        self.published: dict[TrackId, tuple[LocalTrack, Callable[[], None]]] = {}
        self.remote: dict[TrackId, FrameHub] = {}
        self.muted: set[TrackId] = set()
        self.off: set[TrackId] = set()
        self.keys: dict[tuple[Member, int], bytes] = {}
        self.index: int = -1
        self.last_media_s: float | None = None
        self._told: set[KeyProblem | FirstMedia] = set()

    def health(self) -> contract.Health:
        up = self in self.world.connections and self.place not in self.world.killed
        ping_s = self.world.frozen.get(self.place, self.context.now().s)
        ping = None if self.topology is Topology.PAIRWISE else ping_s  # a mesh has nobody to ask
        return contract.Health(connected=up, last_media_s=self.last_media_s, last_ping_s=ping)

    async def set_members(self, added: Sequence[Membership], changed: Sequence[Membership],
                          removed: Sequence[Membership]) -> None:  # fmt: skip
        new, gone = {m.member for m in (*added, *changed)}, {m.member for m in removed}
        greet = sorted(new - self.members, key=str) if self.topology is Topology.PAIRWISE else ()
        self.members, self.heard = (self.members | new) - gone, self.heard - gone
        for member in greet:
            await self.context.send_signal(member, {"hello": True})
        self.world.settle()

    async def on_signal(self, member: Member, payload: JsonObject, security: str) -> None:
        if payload.get("hello") is not True or (self.context.encrypted and security == "clear"):
            self.context.count("signals_refused")
        elif member in self.members:  # else our own hello will ask for an answer
            self.heard.add(member)
            self.world.settle()
            if payload.get("answer") is not True:
                await self.context.send_signal(member, {"hello": True, "answer": True})

    async def publish(self, track: LocalTrack) -> None:
        if track.track_id not in self.published:
            stop = track.hub.consume(partial(self._send_frame, track.track_id))
            self.published[track.track_id] = track, stop
            self.world.settle()

    async def unpublish(self, track_id: TrackId) -> None:
        if track_id in self.published:
            self.published.pop(track_id)[1]()
            self.muted.discard(track_id)
            self.world.settle()

    async def set_muted(self, track_id: TrackId, muted: bool) -> None:
        (self.muted.add if muted else self.muted.discard)(track_id)
        for other in self.world.reached(self):
            other.emit(TrackMuted(track_id, muted))

    async def set_subscribed(self, track_id: TrackId, quality: contract.Quality) -> None:
        (self.off.add if quality is contract.Quality.OFF else self.off.discard)(track_id)

    async def set_key(self, member: Member, index: int, key: bytes) -> None:
        self.keys[member, index] = key

    async def use_key(self, index: int) -> None:
        self.index = index

    async def send_data(self, payload: bytes, *, topic: str, reliable: bool,
                        to: Iterable[Member] | None = None) -> None:  # fmt: skip
        if len(payload) > MAX_DATA_BYTES:
            why = f"it has {len(payload)} bytes, of {MAX_DATA_BYTES} that fit"
            raise BackendError("the message is too large", why=why, do="send it in pieces")
        event = DataReceived(self.context.member, payload, topic, reliable)
        for other in self.world.reached(self, None if to is None else set(to)):
            self.world.carry({self.place, other.place}, reliable, partial(other.take, event))

    def take(self, event: DataReceived) -> None:
        """Receive a message."""
        self._tell_once(FirstMedia(event.member))
        self.emit(event)

    def _send_frame(self, track_id: TrackId, frame: Frame | None) -> None:
        key = self.keys.get((self.context.member, self.index))
        if frame is None or track_id in self.muted or (key is None and self.context.encrypted):
            return  # in an encrypted room nothing leaves in clear
        for other in self.world.reached(self):
            take = partial(other.take_frame, track_id, frame, self.index, key)
            self.world.carry({self.place, other.place}, False, take)

    def take_frame(self, track_id: TrackId, frame: Frame, index: int, key: bytes | None) -> None:
        """Receive a frame, which opens only with the key that closed it."""
        hub, held = self.remote.get(track_id), self.keys.get((track_id.member, index))
        if key is not None and held != key:
            self._tell_once(KeyProblem(track_id.member, index, "failed" if held else "missing"))
        elif hub and track_id not in self.off and (key is not None or not self.context.encrypted):
            self._tell_once(FirstMedia(track_id.member))
            hub.push(frame)

    def _tell_once(self, event: KeyProblem | FirstMedia) -> None:
        if isinstance(event, FirstMedia):
            self.last_media_s = self.context.now().s
        if event not in self._told:
            self._told.add(event)
            self.emit(event)

    async def _close(self) -> None:
        self.world.leave(self)


class MemoryBackend(contract.Backend):
    """One member's way into the world of its configuration."""

    topology: ClassVar[Topology]

    def __init_subclass__(cls, *, topology: Topology | None = None) -> None:
        cls.topology = topology or cls.topology

    def __init__(self, context: Context, config: object | None) -> None:
        super().__init__(context, config)
        told = config if isinstance(config, MemoryConfig) else MemoryConfig()
        self._type, self._focus = f"memory.{self.topology.value}", told.focus
        self.world: MemoryWorld = MemoryWorld.named(told.world)
        self._tokens: dict[str, float] = {}  # place -> expiry, monotonic seconds

    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        own = Transport(self._type, {"type": self._type, "focus": self._focus})
        return [own, *(t for t in advertised if t.type == self._type and t != own)]

    def connection_key(self, transport: Transport, member: Member,
                       local_transports: Sequence[Transport]) -> str | None:  # fmt: skip
        focus = transport.raw.get("focus")
        shared = {Topology.PAIRWISE: "all", Topology.LINKED: self._focus}.get(self.topology)
        return shared or focus if isinstance(focus, str) and focus else None

    async def prepare(self, transport: Transport) -> None:
        place, now_s = self._place(transport), self.context.now().s
        if self._tokens.get(place, now_s) <= now_s:
            self._tokens[place] = now_s + await self.world.token(place)

    async def connect(self, key: str, transport: Transport,
                      roles: frozenset[contract.Role]) -> MemoryConnection:  # fmt: skip
        await self.prepare(transport)
        connection = MemoryConnection(self, self._place(transport), roles)
        await self.world.enter(connection)
        return connection

    async def delegate_leave(self, transport: Transport, leave: contract.LeaveDelegation) -> bool:
        return self.topology is not Topology.PAIRWISE and self.world.take_over(
            self._place(transport), leave
        )

    def _place(self, transport: Transport) -> str:
        focus = transport.raw.get("focus")
        if not isinstance(focus, str) or not focus:
            raise BackendError("this transport names no focus", why="`focus` must be a string")
        return str(self.context.member) if self.topology is Topology.PAIRWISE else focus


class Pairwise(MemoryBackend, topology=Topology.PAIRWISE):
    """`memory.pairwise`: a mesh, whose pairs say hello by signal."""


class PerMember(MemoryBackend, topology=Topology.PER_MEMBER):
    """`memory.per_member`: each publishes on its own focus."""


class Elected(MemoryBackend, topology=Topology.ELECTED):
    """`memory.elected`: all on one focus."""


class Linked(MemoryBackend, topology=Topology.LINKED):
    """`memory.linked`: each on its own focus, and the foci forward to each other."""
