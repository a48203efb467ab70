"""What the key machine asks of its driver, and how it can be set.

In: effects (imperative) and the configuration. Out: when which effect is due (`key_sharing`, `key_rings`),
what goes over the wire (`key_messages`).

Only `SendKey` is answered, exactly once, by `KeyMachine.sent` or `KeyMachine.failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.key_messages import Key
from rtcfoci.core.model import Member

__all__ = ["KeyConfig", "KeyOutput", "SendKey", "SetKey", "UseKey"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyConfig:
    """The times of MSC4143 (Rotating keys, text of 2026-07-24), and the length of a key."""

    use_delay_s: float = 5.0
    """A new key is used after this long at the latest: the MSC's recommendation."""
    settle_s: float = 1.0
    """And this long after the homeserver has taken it for everybody: all the delay that matrix-js-sdk has."""
    grace_s: float = 10.0
    """Who joins before the newest key is older gets that; later a new one is made. The MSC's example."""
    rotate_every_s: float = 3600.0
    """A key is replaced when it is this old, whoever came or went."""
    key_bytes: int = 32
    """As MSC4143 asks; matrix-js-sdk 43 makes 16, and reads any length."""
    require_trusted: bool = False
    """Whether a device has to be cross-signed to get our key, and to have its own believed (a SHOULD of
    MSC4143, Distributing keys); *bound* it has to be always."""
    missing_after_s: float = 10.0
    """Somebody of whom no key has come for so long is a condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendKey:
    """Send one of our keys to the device of a member, encrypted for it."""

    id: int
    to: Member
    index: int
    key: Key
    trusted: bool = False
    """Only if that device is cross-signed."""
    timeout_s: float = 40.0
    """Give up after this long and answer with `failed`; a homeserver may ask to wait for 30 s of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetKey:
    """Install a key on every connection, now or when it is made: ours, or that of another member."""

    member: Member
    index: int
    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class UseKey:
    """Encrypt with our key of that index from now on; it has been set before."""

    index: int


KeyOutput: TypeAlias = SendKey | SetKey | UseKey | RaiseCondition | ClearCondition
