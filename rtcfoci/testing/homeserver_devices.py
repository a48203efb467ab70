"""Devices of the in-memory homeserver: tokens, keys for olm, to-device messages on their way.

In: what one device and its user hold, cross-signing keys as tests put them there. Out: requests
(`homeserver`) and syncs (`homeserver_sync`); uploading cross-signing keys, and key backup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rtcfoci.testing.homeserver_rooms import mapping

__all__ = ["Device", "DeviceMessage", "Devices", "User"]

_LETTERS = str.maketrans("0123456789-_", "ABCDEFGHIJKL")
"""Device ids of Synapse are ten capitals."""


@dataclass(frozen=True, slots=True)
class DeviceMessage:
    """One to-device message, as tests may drop, double, delay or reorder it."""

    type: str
    sender: str
    user_id: str
    device_id: str
    content: Mapping[str, object] = field(repr=False)
    position: int = 0


@dataclass(slots=True, eq=False)
class Device:
    """One device of one user."""

    user_id: str
    device_id: str
    token: str = field(repr=False)
    inbox: list[DeviceMessage] = field(default_factory=list, repr=False)
    keys: Mapping[str, object] | None = field(default=None, repr=False)
    one_time_keys: dict[str, object] = field(default_factory=dict, repr=False)
    fallback_keys: dict[str, tuple[object, bool]] = field(default_factory=dict, repr=False)
    """The key and whether it was used."""

    def count(self) -> dict[str, int]:
        """Count one-time keys by algorithm; `signed_curve25519` is always named."""
        counts = {"signed_curve25519": 0}
        for name in self.one_time_keys:
            algorithm = name.split(":", 1)[0]
            counts[algorithm] = counts.get(algorithm, 0) + 1
        return counts

    def unused_fallbacks(self) -> list[str]:
        return [name.split(":", 1)[0] for name, (_, used) in self.fallback_keys.items() if not used]

    def claim(self, algorithm: str) -> dict[str, object]:
        """Take a one-time key, or the fallback key, which stays."""
        for name in self.one_time_keys:
            if name.startswith(f"{algorithm}:"):
                return {name: self.one_time_keys.pop(name)}
        for name, (key, _) in self.fallback_keys.items():
            if name.startswith(f"{algorithm}:"):
                self.fallback_keys[name] = (key, True)
                return {name: key}
        return {}


@dataclass(slots=True)
class User:
    """One user."""

    user_id: str
    password: str = field(repr=False)
    devices: dict[str, Device] = field(default_factory=dict)
    keys_changed_at: int = 0
    """Position at which the keys of any device last changed."""
    filters: list[Mapping[str, object]] = field(default_factory=list)
    cross_signing: dict[str, Mapping[str, object]] = field(default_factory=dict)
    """`master` and `self_signing`, if there are any."""


class Devices:
    """All users and devices.

    :param advance: gives the next position of the server's one order.
    :param word: makes a random word of so many bytes.
    """

    def __init__(self, advance: Callable[[], int], word: Callable[[int], str]) -> None:
        self.users: dict[str, User] = {}
        self.hook: Callable[[DeviceMessage], Iterable[DeviceMessage]] | None = None
        """Called for each to-device message; what it gives is delivered instead."""
        self._advance = advance
        self._word = word
        self._tokens: dict[str, Device] = {}

    def add_user(self, user_id: str, password: str) -> User:
        user = self.users[user_id] = User(user_id, password)
        return user

    def log_in(self, user: User, device_id: str | None) -> Device:
        """Give a device a new token; an old one of the same device ends."""
        name = device_id or self._word(9)[:10].upper().translate(_LETTERS)
        token = f"mem_{self._word(24)}"
        device = user.devices.get(name)
        if device is None:
            device = user.devices[name] = Device(user.user_id, name, token)
            user.keys_changed_at = self._advance()
        else:
            self._tokens.pop(device.token, None)
            device.token = token
        self._tokens[token] = device
        return device

    def log_out(self, device: Device) -> None:
        self._tokens.pop(device.token, None)
        user = self.users[device.user_id]
        user.devices.pop(device.device_id, None)
        user.keys_changed_at = self._advance()

    def by_token(self, token: str) -> Device | None:
        return self._tokens.get(token)

    def send(self, sender: str, event_type: str, messages: Mapping[str, object]) -> None:
        """Put messages into inboxes; `*` means all devices of a user; unknown devices get none."""
        for user_id, per_device in messages.items():
            user = self.users.get(user_id)
            if user is None:
                continue
            for name, content in mapping(per_device).items():
                for device_id in list(user.devices) if name == "*" else [name]:
                    message = DeviceMessage(
                        event_type, sender, user_id, device_id, mapping(content)
                    )
                    for passed in (message,) if self.hook is None else self.hook(message):
                        self.deliver(passed)

    def deliver(self, message: DeviceMessage) -> None:
        """Put one message into its inbox now, past the hook."""
        user = self.users.get(message.user_id)
        device = user.devices.get(message.device_id) if user is not None else None
        if device is not None:
            device.inbox.append(replace(message, position=self._advance()))

    # --- keys -----------------------------------------------------------------------------------

    def upload(self, device: Device, body: Mapping[str, object]) -> dict[str, object]:
        keys = mapping(body.get("device_keys"))
        if keys and keys != device.keys:
            device.keys = keys
            self.users[device.user_id].keys_changed_at = self._advance()
        device.one_time_keys.update(mapping(body.get("one_time_keys")))
        for name, key in mapping(body.get("fallback_keys")).items():
            algorithm = name.split(":", 1)[0]
            for old in [n for n in device.fallback_keys if n.startswith(f"{algorithm}:")]:
                del device.fallback_keys[old]
            device.fallback_keys[name] = (key, False)
        return {"one_time_key_counts": device.count()}

    def cross_sign(
        self, user_id: str, master: Mapping[str, object], self_signing: Mapping[str, object]
    ) -> None:
        """Give a user an identity, or another one."""
        user = self.users[user_id]
        user.cross_signing = {"master": master, "self_signing": self_signing}
        user.keys_changed_at = self._advance()

    def sign(
        self, user_id: str, device_id: str, signed: Callable[[object], Mapping[str, object]]
    ) -> None:
        """Replace the keys of a device by the same with a signature."""
        device = self.users[user_id].devices[device_id]
        device.keys = signed(device.keys)
        self.users[user_id].keys_changed_at = self._advance()

    def query(self, wanted: Mapping[str, object]) -> dict[str, object]:
        found: dict[str, object] = {}
        for user_id, names in wanted.items():
            user = self.users.get(user_id)
            if user is not None:
                found[user_id] = {
                    device.device_id: {**device.keys, "unsigned": {}}
                    for device in user.devices.values()
                    if device.keys is not None and (not names or device.device_id in _names(names))
                }
        known = {user_id: self.users[user_id].cross_signing for user_id in found}
        cross_signing = {
            f"{usage}_keys": {user_id: keys[usage] for user_id, keys in known.items() if keys}
            for usage in ("master", "self_signing")
        }
        return {
            "device_keys": found,
            "failures": {},
            **cross_signing,
            "user_signing_keys": {},
        }

    def claim(self, wanted: Mapping[str, object]) -> dict[str, object]:
        claimed: dict[str, dict[str, object]] = {}
        for user_id, per_device in wanted.items():
            user = self.users.get(user_id)
            for device_id, algorithm in mapping(per_device).items():
                device = user.devices.get(device_id) if user is not None else None
                key = device.claim(str(algorithm)) if device is not None else {}
                if key:
                    claimed.setdefault(user_id, {})[device_id] = key
        return {"one_time_keys": claimed, "failures": {}}


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else []
