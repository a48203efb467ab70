"""Other names for everybody and everything in events: the same session, and nobody can tell whose.

In: ids, hosts, URLs and free text replaced by keyed hashes, each always by the same one, and the forms that
are made of ids kept (`_@user:server_DEVICE_m.call`, `@user:server:DEVICE`). Out: what is saved (`saving`).

Text is replaced piece by piece, between `_` and `:`. So what began with another text, or was put together
from others, still does and still is, and no id needs to be known beforehand. Room and event ids are replaced
whole.

Kept are numbers, times, the words of the protocol, event types, and what slots and applications are called.
The order of ids is not: where two members joined in the same millisecond, their order may change.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import replace

from rtcfoci.core.dialects.reading import MAX_ID_LENGTH
from rtcfoci.core.model import RoomEvent
from rtcfoci.core.slots import SLOT_EVENT_TYPES

__all__ = ["Pseudonyms"]

_LETTERS = 10
"""Of a pseudonym; 50 bits, so that no two pieces of a room get the same."""
_SEPARATORS = re.compile(r"([_:])")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)([^/?#]*)(.*)", re.DOTALL)
_NAMESPACED = re.compile(r"(m|org\.matrix|io\.element|rtcfoci)(\.[a-z0-9_]+)+")
"""Keys that a protocol gives."""
_KEYS = frozenset(
    {
        "additional_creators", "algorithm", "application", "ban", "call_id", "can_subscribe",
        "claimed_device_id", "claimed_user_id", "code", "created_ts", "device_id", "encryption", "event_id",
        "events", "events_default", "expires", "expires_ts", "foci_active", "foci_preferred",
        "focus_active", "focus_selection", "id", "invite", "joined_ts_ms", "kick", "leave_reason",
        "livekit_alias", "livekit_service_url", "member", "membership", "membershipID", "memberships",
        "msc4354_sticky_key", "notifications", "published", "reason", "redact", "rel_type", "room",
        "room_version", "rtc_transports", "scope", "session", "slot_id", "state_default", "status",
        "sticky_key", "transports", "type", "url", "user_id", "users", "users_default", "versions", "video",
    }
)  # fmt: skip
"""Every other key is replaced: it could be somebody's name."""
_WORDS = frozenset(
    {
        "algorithm", "application", "call_id", "can_subscribe", "code", "focus_selection", "m.call.intent",
        "membership", "rel_type", "room_version", "scope", "slot_id", "status", "type",
    }
)  # fmt: skip
"""Keys whose texts are the protocol's own."""
_KEPT = frozenset({"", "m.call"})
"""Pieces of ids that are nobody's."""


class Pseudonyms:
    """The pseudonyms of one run.

    :param key: random, of this run alone, and kept nowhere: nobody can go back without it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def event(self, event: RoomEvent) -> RoomEvent:
        """Give an event with every name in it replaced."""
        state_key, device_id = event.state_key, event.encrypted_by_device_id
        if state_key is not None and event.type not in SLOT_EVENT_TYPES:
            state_key = self.text(state_key)
        content = self.value(event.content)
        assert isinstance(content, dict)
        return replace(
            event,
            sender=self.text(event.sender),
            event_id=self.text(event.event_id),
            state_key=state_key,
            redacts=None if event.redacts is None else self.text(event.redacts),
            encrypted_by_device_id=None if device_id is None else self.text(device_id),
            content=content,
        )

    def text(self, text: str) -> str:
        """Replace an id, or any other text, by its pseudonym.

        What is too long for an id, or holds half a character, is so afterwards.
        """
        if text[:1] in ("$", "!"):
            found = text[0] + self._hash(text[1:])
        else:
            found = "".join(map(self._piece, _SEPARATORS.split(text)))
            if len(found) > MAX_ID_LENGTH:
                found = self._hash(text)
        if len(text) > MAX_ID_LENGTH:
            found = found.ljust(MAX_ID_LENGTH + 1, "x")
        try:
            text.encode()
        except UnicodeEncodeError:
            found += "\ud800"
        return found

    def value(self, value: object, key: str = "", parent: str = "") -> object:
        """Replace every name in a JSON value.

        :param key: the key under which it stands, and the key above that.
        """
        if isinstance(value, Mapping):
            return {self._name(name): self.value(inner, name, key) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(inner, key, parent) for inner in value]
        if not isinstance(value, str) or key in _WORDS or (parent, key) == ("session", "id"):
            return value
        url = _URL.fullmatch(value)
        return self.text(value) if url is None else self._url(*url.groups())

    def _name(self, key: str) -> str:
        return key if key in _KEYS or _NAMESPACED.fullmatch(key) else self.text(key)

    def _url(self, scheme: str, host: str, rest: str) -> str:
        """Replace a URL, whose host may be somebody's server."""
        return (
            scheme + self.text(host) + (f"/{self._hash(rest)}" if rest not in ("", "/") else rest)
        )

    def _piece(self, piece: str) -> str:
        if piece in _KEPT or piece in "_:@#":
            return piece
        sigil = piece[0] if piece[0] in "@#" else ""
        return sigil + self._hash(piece[len(sigil) :])

    def _hash(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return base64.b32encode(digest).decode().lower()[:_LETTERS]
