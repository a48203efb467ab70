"""Room events that come encrypted: read, and bound to the device that wrote them (MSC4354, MSC4143, MSC4075).

In: decrypting what is sticky, and of the rest notifications and declines; binding to a device, refusing
replays, and a bounded queue of events whose key, or whose sender's devices, are not known yet.
Out: the olm messages that bring the keys (`olm`), handing out (`feed`), which event counts
(`rtcfoci.core`), encrypting for a room (`room_keys`).

Type and sticky key are in the ciphertext: an event can only be filed when it is read. One that is read late
keeps the times at which it came. What turns out to be neither sticky nor about a call, such as a message to
people, is left as it came, sealed. `sender_key` and `device_id` of an encrypted event are claims, deprecated
since Matrix 1.3, and not looked at: the session says whose it is.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from rtcfoci.core.dialects.notification import MAX_LIFETIME_MS, RING_TYPES
from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.core.sticky import sticky_expires_ts_ms
from rtcfoci.matrix.client import DelayedEvent, SealedCounts
from rtcfoci.matrix.sync import is_content, is_text

if TYPE_CHECKING:
    from nio.crypto import InboundGroupSession, Olm

__all__ = ["MEGOLM", "SealedEvents"]

MEGOLM = "m.megolm.v1.aes-sha2"
MAX_WAITING = 500
"""How many events of all rooms wait for a key."""
MAX_WAITING_EACH = 32
"""How many of one sender in one room: it has few devices, and a refresh comes once an hour."""
_MAX_REMEMBERED = 10_000

_K = TypeVar("_K")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Sealed:
    event: RoomEvent
    session_id: str
    ciphertext: str
    wants_devices: bool = False
    """There is a key; what is not known is whose device it belongs to."""

    @property
    def sticky(self) -> bool:
        return self.event.sticky_duration_ms is not None

    @property
    def until_ts_ms(self) -> int:
        """When it is no use any more: a plain one can only be a notification, or the decline of one."""
        if self.sticky:
            return sticky_expires_ts_ms(self.event)
        return self.event.received_ts_ms + MAX_LIFETIME_MS


class SealedEvents:
    """The encrypted events of one device's rooms.

    :param device_of: names the one device of a user whose keys a session has; None when there is none.
    :param knows: tells whether the devices of a user are known as of the last sync.
    """

    def __init__(
        self,
        olm: Olm,
        device_of: Callable[[str, InboundGroupSession], str | None],
        knows: Callable[[str], bool],
        wall_ts_ms: Callable[[], int],
    ) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()
        """By room, and what became of the event."""
        self._told: OrderedDict[tuple[str, str], str] = OrderedDict()
        """What became of which event: every new reader brings them again, and they count once."""
        self._olm = olm
        self._device_of = device_of
        self._knows = knows
        self._wall_ts_ms = wall_ts_ms
        self._waiting: dict[tuple[str, str], dict[str, _Sealed]] = {}
        """By room and sender, then by event id, oldest first."""
        self._keyed: set[tuple[str, str]] = set()
        """Rooms and session ids whose key has come since the last look."""
        self._givers: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        """Who sent us a session, by room, sender key and session id."""
        self._seen: OrderedDict[tuple[str, str, int], str] = OrderedDict()
        """Which event had which index of a session: a ciphertext counts once."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def counts(self, room_id: str) -> SealedCounts:
        """Tell what a room's events came to that were not simply read."""
        waiting = sum(len(events) for place, events in self._waiting.items() if place[0] == room_id)
        dropped, refused, unbound = (
            self._counted[room_id, what] for what in ("dropped", "refused", "unbound")
        )
        return SealedCounts(waiting=waiting, dropped=dropped, refused=refused, unbound=unbound)

    def add_key(self, room_id: object, session_id: object, giver: tuple[str, str] | None) -> None:
        """Learn that a session has come.

        :param giver: the olm sender key and the user it is from; None when somebody passed it on.
        """
        if is_text(room_id) and is_text(session_id):
            self._keyed.add((room_id, session_id))
            if giver is not None:
                _remember(self._givers, (room_id, giver[0], session_id), giver[1])

    def read(self, room_id: str, events: Iterable[RoomEvent]) -> tuple[RoomEvent, ...]:
        """Read what can be read; the rest stays as it is, and waits if it can be read later."""
        return tuple(self._look(room_id, event) for event in events)

    def read_held(self, event: DelayedEvent) -> DelayedEvent:
        """Read an event of ours that the server holds; what is not encrypted stays as it is."""
        session_id, ciphertext = event.content.get("session_id"), event.content.get("ciphertext")
        if event.type != "m.room.encrypted" or not (is_text(session_id) and is_text(ciphertext)):
            return event
        own = self._olm.account.identity_keys["curve25519"]
        session = self._olm.inbound_group_store[event.room_id].get(own, {}).get(session_id)
        read = None if session is None else _decrypt(session, ciphertext)
        plain = None if read is None else _plaintext(read[0], event.room_id)
        return event if plain is None else replace(event, type=plain[0], content=plain[1])

    def keyed(self) -> Iterator[tuple[str, RoomEvent]]:
        """Read what waited for the keys that have come since."""
        keyed, self._keyed = self._keyed, set()
        for room_id, session_id in keyed:
            for place in [place for place in self._waiting if place[0] == room_id]:
                for sealed in list(self._waiting[place].values()):
                    if sealed.session_id == session_id:
                        yield from self._again(place, sealed, answered=False)

    def answered(self, sender: str) -> Iterator[tuple[str, RoomEvent]]:
        """Read what waited for the devices of a sender, who is believed to have no others now."""
        for place in [place for place in self._waiting if place[1] == sender]:
            for sealed in list(self._waiting[place].values()):
                if sealed.wants_devices:
                    yield from self._again(place, sealed, answered=True)

    def senders(self) -> set[str]:
        """List whose devices have to be asked for."""
        return {
            place[1]
            for place, events in self._waiting.items()
            if any(sealed.wants_devices for sealed in events.values())
        }

    def prune(self, rooms: Collection[str]) -> None:
        """Let go of what is no use any more, and of rooms that nobody reads."""
        if not self._waiting:
            return
        now_ts_ms = self._wall_ts_ms()
        for place in list(self._waiting):
            for event_id, sealed in list(self._waiting[place].items()):
                if place[0] not in rooms or sealed.until_ts_ms <= now_ts_ms:
                    self._remove(place, event_id)

    # One event.

    def _look(self, room_id: str, event: RoomEvent) -> RoomEvent:
        content = event.content
        if event.type != "m.room.encrypted" or event.state_key is not None:
            return event
        if content.get("algorithm") != MEGOLM:
            return event
        session_id, ciphertext = content.get("session_id"), content.get("ciphertext")
        if not (is_text(session_id) and is_text(ciphertext)):
            return event
        sealed = _Sealed(event, session_id, ciphertext)
        opened = self._try(room_id, sealed, answered=False)
        if opened is None and sealed.until_ts_ms > self._wall_ts_ms():
            self._wait((room_id, event.sender), sealed)
        return opened or event

    def _again(
        self, place: tuple[str, str], sealed: _Sealed, *, answered: bool
    ) -> Iterator[tuple[str, RoomEvent]]:
        opened = self._try(place[0], sealed, answered=answered)
        if opened is not None:
            self._remove(place, sealed.event.event_id)
            if opened is not sealed.event:
                yield place[0], opened

    def _try(self, room_id: str, sealed: _Sealed, *, answered: bool) -> RoomEvent | None:
        """Read an event; None when it has to wait, and the event itself when it never will be read.

        :param answered: whether the sender's devices were asked for since it came.
        """
        event = sealed.event
        sessions = list(self._sessions(room_id, event.sender, sealed.session_id))
        sealed.wants_devices = False
        if not (sealed.sticky or all(_may_ring(room_id, sealed, each) for each in sessions)):
            return event
        for session in sessions:
            device_id = self._device_of(event.sender, session)
            if device_id is not None:
                return self._read(room_id, sealed, session, device_id)
        if not sessions:
            return None
        if not (answered and self._knows(event.sender)):
            sealed.wants_devices = True
            return None
        return self._read(room_id, sealed, sessions[0], None)

    def _sessions(
        self, room_id: str, sender: str, session_id: str
    ) -> Iterator[InboundGroupSession]:
        """Find the sessions of an id that a sender may have.

        Somebody else in the room can pass a session on as its own: one that is known to be from another user
        than the event is not for it.
        """
        for sender_key, sessions in list(self._olm.inbound_group_store[room_id].items()):
            if session_id in sessions:
                giver = self._givers.get((room_id, sender_key, session_id), sender)
                if giver == sender:
                    yield sessions[session_id]

    def _read(
        self, room_id: str, sealed: _Sealed, session: InboundGroupSession, device_id: str | None
    ) -> RoomEvent | None:
        event = sealed.event
        read = _decrypt(session, sealed.ciphertext)
        if read is None:
            return None
        text, index = read
        place = (session.sender_key, session.id, index)
        known = self._seen.get(place, event.event_id)
        plain = _plaintext(text, room_id)
        if plain is None or known != event.event_id:
            what = "is not one of this room" if plain is None else "comes again"
            if self._count(room_id, "refused", event):
                _log.warning("Refused an encrypted event of %.80r: it %s.", event.sender, what)
            return event
        _remember(self._seen, place, event.event_id)
        if device_id is None and self._count(room_id, "unbound", event):
            _log.warning("An event of %.80r was encrypted by no device of theirs.", event.sender)
        kind, content = plain
        relation = event.content.get("m.relates_to")
        if "m.relates_to" not in content and is_content(relation):
            content = {**content, "m.relates_to": relation}
        return replace(
            event,
            type=kind,
            content=content,
            encrypted=True,
            encrypted_by_device_id=device_id,
        )

    def _count(self, room_id: str, what: str, event: RoomEvent) -> bool:
        """Count what became of an event; False when it was counted before."""
        told = (what, event.event_id)
        if told in self._told:
            return False
        _remember(self._told, told, room_id)
        self._counted[room_id, what] += 1
        return True

    # The queue.

    def _wait(self, place: tuple[str, str], sealed: _Sealed) -> None:
        event_id = sealed.event.event_id
        known = self._waiting.setdefault(place, {}).get(event_id)
        if known is not None:  # it keeps the times at which it came first
            known.wants_devices = sealed.wants_devices
            return
        self._waiting[place][event_id] = sealed
        if len(self._waiting[place]) > MAX_WAITING_EACH:
            full = place
        elif len(self) > MAX_WAITING:
            full = max(self._waiting, key=lambda place: len(self._waiting[place]))
        else:
            return
        # What people write to one another does not cost a membership its place.
        events = self._waiting[full]
        plain = (event_id for event_id, each in events.items() if not each.sticky)
        given_up = events[next(plain, next(iter(events)))].event
        self._remove(full, given_up.event_id)
        first = not self._counted[full[0], "dropped"]
        if self._count(full[0], "dropped", given_up) and first:
            _log.warning("Too many encrypted events wait for their keys: some are given up.")

    def _remove(self, place: tuple[str, str], event_id: str) -> None:
        del self._waiting[place][event_id]
        if not self._waiting[place]:
            del self._waiting[place]


def _decrypt(session: InboundGroupSession, ciphertext: str) -> tuple[str, int] | None:
    """Decrypt; None when the session begins after the event, and for whatever a stranger's bytes are."""
    try:
        text, index = session.decrypt(ciphertext)
    except Exception:
        return None
    return text, index


def _may_ring(room_id: str, sealed: _Sealed, session: InboundGroupSession) -> bool:
    """Tell whether a plain event may be about a call; what cannot be decrypted may be anything."""
    read = _decrypt(session, sealed.ciphertext)
    plain = None if read is None else _plaintext(read[0], room_id)
    return read is None or (plain is not None and plain[0] in RING_TYPES)


def _plaintext(text: str, room_id: str) -> tuple[str, JsonObject] | None:
    """Take type and content of a plaintext; None when it is not one of this room."""
    try:
        plain: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or plain.get("room_id") != room_id:
        return None
    kind, content = plain.get("type"), plain.get("content")
    if is_text(kind) and is_content(content) and kind != "m.room.encrypted":
        return kind, content
    return None


def _remember(memory: OrderedDict[_K, str], key: _K, value: str) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _MAX_REMEMBERED:
        memory.popitem(last=False)
