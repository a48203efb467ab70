"""What stands in a recording for a secret: a handle, the same for the same as long as the recording lasts.

In: handles of delay ids, payloads and media keys, and what is kept of a message that holds some.
Out: the recording (`rtcfoci.call.trace`), and feeding it through the core again (`rtcfoci.lab.replay`).

Delay ids and media keys are numbered as they come: `delay-1`, `key-1`, and `own-1` for a key that we made.
A message keeps its form, so that the core reads a replayed one as it read the first: in the place of a key
stands its handle, filled up to the same length, and `Key` takes that for a key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping

from rtcfoci.core.dialects.reading import MAX_DEPTH, is_shallow
from rtcfoci.core.key_messages import MAX_KEY_BYTES, Key

__all__ = ["Handles", "as_key", "handle_of", "own_keys"]

_MEMBER = dict.fromkeys(("user_id", "device_id", "member_id"))
_SIGNAL = {
    **dict.fromkeys(
        ("room_id", "slot_id", "focus_type", "attempt", "message_id", "seq", "sent_ts_ms",
         "expires_ts_ms")
    ),
    "from": _MEMBER,
    "to": _MEMBER,
}  # fmt: skip
_KEY = {
    **dict.fromkeys(("room_id", "member_id", "sent_ts", "format", "version")),
    "member": dict.fromkeys(("id", "claimed_device_id")),
    "session": dict.fromkeys(("application", "call_id")),
    "keys": dict.fromkeys(("index", "key")),
    "media_key": dict.fromkeys(("index", "key", "format")),
}
"""What the core reads of each; below a name, what it reads of that."""
_FILL = b"."
_MOST_BYTES = 1024
"""A recording may ask for keys of any length."""


class Handles:
    """The handles of one recording."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        self._delays: dict[object, str] = {}
        self._keys: dict[bytes, str] = {}
        self._own = 0

    def withhold(self, name: str, secret: object) -> object:
        """Give the handle of a field: a delay id, a payload, or a media key."""
        if name == "delay_id":
            return self._delays.setdefault(secret, f"delay-{len(self._delays) + 1}")
        if isinstance(secret, Key):
            return self._of_key(secret.reveal())
        if not isinstance(secret, dict) or not is_shallow(secret):
            deep: object = {}
            for _ in range(MAX_DEPTH + 1):
                deep = {"withheld": deep}
            return deep
        digest = hmac.new(self._salt, json.dumps(secret).encode(), hashlib.sha256).hexdigest()
        return {"withheld": f"payload-{digest[:16]}"}

    def making(self, random_bytes: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """Note the keys that are made of these random bytes as our own."""

        def made(length: int) -> bytes:
            secret = random_bytes(length)
            self._own += 1
            self._keys[secret] = f"own-{self._own}"
            return secret

        return made

    def signal(self, content: object) -> object:
        """Keep of a signal what the core reads of it."""
        kept = _kept(content, _SIGNAL)
        if isinstance(kept, dict) and isinstance(content, Mapping) and "payload" in content:
            payload = content["payload"]
            kept["payload"] = (
                self.withhold("payload", payload) if isinstance(payload, dict) else None
            )
        return kept

    def key_message(self, content: object) -> object:
        """Keep of a message with a media key what the core reads of it."""
        kept = _kept(content, _KEY)
        for name in ("keys", "media_key"):
            held = kept.get(name) if isinstance(kept, dict) else None
            if isinstance(held, dict) and "key" in held:
                held["key"] = self._written(held["key"])
        return kept

    def _written(self, text: object) -> str | None:
        """Write a handle as a key is written; what is none is another of the same kind."""
        if not isinstance(text, str):
            return None
        if len(text) > 2 * MAX_KEY_BYTES:
            return "." * len(text[: 2 * MAX_KEY_BYTES + 1])
        try:
            secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            return "."
        stand_in = as_key(self._of_key(secret), len(secret))
        return base64.b64encode(stand_in).decode()

    def _of_key(self, secret: bytes) -> str:
        return self._keys.setdefault(secret, f"key-{len(self._keys) - self._own + 1}")


def as_key(handle: str, length: int) -> bytes:
    """Fill a handle up to the length of the key that it stands for."""
    return handle.encode().ljust(length, _FILL)[:length]


def handle_of(key: Key) -> str:
    """Give the handle that a replayed key is."""
    return key.reveal().rstrip(_FILL).decode(errors="replace")


def own_keys() -> Callable[[int], bytes]:
    """Give the handles of our own keys, one after the other, in the place of random bytes."""
    number = 0

    def made(length: int) -> bytes:
        nonlocal number
        number += 1
        return as_key(f"own-{number}", min(length, _MOST_BYTES))

    return made


def _kept(content: object, fields: Mapping[str, Mapping[str, None] | None]) -> object:
    if not isinstance(content, Mapping):
        return None
    kept: dict[str, object] = {}
    for name, inner in fields.items():
        if name in content:
            value = content[name]
            kept[name] = _bare(value) if inner is None else _kept(value, dict.fromkeys(inner))
    return kept


def _bare(value: object) -> object:
    """Empty what should hold one value only and holds more: nothing of that is read."""
    if isinstance(value, Mapping):
        return {}
    return [] if isinstance(value, list | tuple) else value
