"""Media keys on the wire: written as deployed clients write them, read in every form since 2025.

In: `Key`, which shows itself to nobody; writing the content of a to-device message, and reading one that
anybody may have sent. Out: whose key is believed (`key_rings`), who gets ours (`key_sharing`), olm.

Two generations of message exist. `io.element.call.encryption_keys` is what Element Call 0.26.1 and
matrix-js-sdk 43 send and read, so it is the one that is written. MSC4143 (Distributing keys, text of
2026-07-24) has `m.rtc.encryption_key`, whose `format` wandered from outside the key to inside of it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from rtcfoci.core.dialects.reading import Reading
from rtcfoci.core.dialects.state import slot_id_of
from rtcfoci.core.model import JsonObject, Member, Slot

__all__ = [
    "KEY_TYPES",
    "MAX_INDEX",
    "MAX_KEY_BYTES",
    "MIN_KEY_BYTES",
    "WRITTEN_KEY_TYPE",
    "Key",
    "KeyMessage",
    "KeyRefusal",
    "read_key",
    "write_key",
]

WRITTEN_KEY_TYPE = "io.element.call.encryption_keys"
KEY_TYPES = (
    WRITTEN_KEY_TYPE,
    "m.rtc.encryption_key",
    "org.matrix.msc4143.rtc.encryption_key",
)
MAX_INDEX = 255
"""MSC4143; deployed key rings have as many places."""
MIN_KEY_BYTES = 16
"""What deployed clients send; fewer would be weaker than the AES-128 that is derived from it."""
MAX_KEY_BYTES = 64
"""MSC4143 has 32."""

_FORMATS = (0, "0", "m.base64")
"""MSC4143 of 2026-07-24 and of 2026-07-15, and as seen in a review of MSC4195 in 2026-09."""
_ROOM_CALL = slot_id_of("m.call", "")
"""What matrix-js-sdk 43 writes as the session whatever the slot, so that it tells nothing."""


class Key:
    """A media key: shows itself only to who asks for it, and is never written down."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def reveal(self) -> bytes:
        """Give the bytes: to a connection, or into an encrypted message."""
        return self._secret

    def __repr__(self) -> str:
        return "<Key>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other._secret == self._secret

    def __hash__(self) -> int:
        return hash(self._secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a media key is not pickled or copied")


class KeyRefusal(Enum):
    """Why a key was not taken."""

    MALFORMED = "malformed"
    BAD_INDEX = "bad_index"
    """Not within 0 and 255."""
    BAD_KEY = "bad_key"
    """Not base64."""
    WRONG_LENGTH = "wrong_length"
    """Not of 16 to 64 bytes."""
    UNKNOWN_FORMAT = "unknown_format"
    OTHER_ROOM = "other_room"
    OTHER_SLOT = "other_slot"
    NOT_ENCRYPTED = "not_encrypted"
    """It came in clear: whoever carried it knows it."""
    OTHER_DEVICE = "other_device"
    """Encrypted by another device than the one whose key it claims to be."""
    UNTRUSTED = "untrusted"
    """Encrypted by a device that is not cross-signed, where that is required."""
    OUTDATED = "outdated"
    """Sent before the one of the same index that we hold."""
    TOO_MANY = "too_many"
    """More of who is not in the session than are kept."""
    NOT_A_MEMBER = "not_a_member"
    """Kept for a while, and its sender never joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMessage:
    """What one message says; nothing of it is believed yet."""

    room_id: str
    index: int
    key: Key
    member_id: str | None
    """The sender's member id; None where it does not say."""
    device_id: str | None
    """The device that it claims to come from; None where the encryption has to tell."""
    slot_id: str | None
    """None where that is left open."""
    sent_ts_ms: int | None
    """By the sender's clock."""


def write_key(slot: Slot, own: Member, index: int, key: Key, *, sent_ts_ms: int) -> JsonObject:
    """Write the content of a `WRITTEN_KEY_TYPE` message. It holds the key: encrypt it, and log none of it."""
    default = slot.slot_id == _ROOM_CALL
    return {
        "keys": {"index": index, "key": base64.b64encode(key.reveal()).decode()},
        "member": {"id": own.member_id, "claimed_device_id": own.device_id},
        "room_id": slot.room_id,
        "session": {
            "application": slot.application,
            "call_id": "" if default else slot.name,
            "scope": "m.room",
        },
        "sent_ts": sent_ts_ms,
    }


def read_key(event_type: str, content: object) -> KeyMessage | KeyRefusal:
    """Read a message of one of `KEY_TYPES`, whoever sent it."""
    if not isinstance(content, dict):
        return KeyRefusal.MALFORMED
    return _read_deployed(content) if event_type == WRITTEN_KEY_TYPE else _read_msc(content)


def _read_deployed(content: JsonObject) -> KeyMessage | KeyRefusal:
    reading, lax = Reading(), Reading()
    room_id = reading.string(content, "room_id")
    keys = reading.mapping(content, "keys") or {}
    member = reading.mapping(content, "member") or {}
    device_id = reading.string(member, "claimed_device_id")
    member_id = reading.string(member, "id", required=False)
    if room_id is None or device_id is None or reading.problems:
        return KeyRefusal.MALFORMED
    session = lax.mapping(content, "session", required=False) or {}
    application = lax.string(session, "application")
    call_id = lax.string(session, "call_id", empty=True)
    slot_id = None
    if application is not None and call_id is not None:
        slot_id = slot_id_of(application, call_id)
    return _with_key(
        keys,
        room_id=room_id,
        member_id=member_id,
        device_id=device_id,
        slot_id=None if slot_id == _ROOM_CALL else slot_id,
        sent_ts_ms=lax.integer(content, "sent_ts"),
    )


def _read_msc(content: JsonObject) -> KeyMessage | KeyRefusal:
    reading = Reading()
    room_id = reading.string(content, "room_id")
    member_id = reading.string(content, "member_id")
    media_key = reading.mapping(content, "media_key")
    if room_id is None or member_id is None or media_key is None:
        return KeyRefusal.MALFORMED
    said = (content.get("format", 0), content.get("version", "0"), media_key.get("format", 0))
    if any(isinstance(name, bool) or name not in _FORMATS for name in said):
        return KeyRefusal.UNKNOWN_FORMAT
    return _with_key(
        media_key,
        room_id=room_id,
        member_id=member_id,
        device_id=None,
        slot_id=None,
        sent_ts_ms=None,
    )


def _with_key(
    source: JsonObject,
    *,
    room_id: str,
    member_id: str | None,
    device_id: str | None,
    slot_id: str | None,
    sent_ts_ms: int | None,
) -> KeyMessage | KeyRefusal:
    reading, text = Reading(), source.get("key")
    index = reading.integer(source, "index")
    if index is None or index > MAX_INDEX:
        return KeyRefusal.BAD_INDEX
    if not isinstance(text, str) or len(text) > 2 * MAX_KEY_BYTES:
        return KeyRefusal.WRONG_LENGTH if isinstance(text, str) else KeyRefusal.MALFORMED
    try:
        # Deployed clients pad, the MSC does not.
        secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return KeyRefusal.BAD_KEY
    if not MIN_KEY_BYTES <= len(secret) <= MAX_KEY_BYTES:
        return KeyRefusal.WRONG_LENGTH
    return KeyMessage(
        room_id=room_id,
        index=index,
        key=Key(secret),
        member_id=member_id,
        device_id=device_id,
        slot_id=slot_id,
        sent_ts_ms=sent_ts_ms,
    )
