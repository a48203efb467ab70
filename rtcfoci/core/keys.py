"""Media keys of one call: ours to everybody in the session, theirs to our connections.

In: the machine that takes who is there, what olm delivered, what became of a message, and time; and gives
back messages to send, keys to install and conditions. Out: its two halves, our own key (`key_sharing`) and
those of others (`key_rings`); the wire (`key_messages`); asyncio and olm, which the driver has.

::

                  set_members, start, timer, sent, failed
    call ────────────────────────────────────────────────▶ KeySharing ──▶ SendKey, SetKey, UseKey
                  set_members, start, timer, receive, problem
    call ────────────────────────────────────────────────▶ KeyRings   ──▶ SetKey
                                                           both       ──▶ conditions

It is for rooms that are encrypted, and focus types that protect media by keys. Keys are in the effects, as
`Key`, which shows nothing of itself; they are in no condition, and in no counter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal

from rtcfoci.core.key_effects import KeyConfig, KeyOutput, SendKey, SetKey, UseKey
from rtcfoci.core.key_messages import KEY_TYPES, Key, KeyRefusal
from rtcfoci.core.key_rings import KeyRings
from rtcfoci.core.key_sharing import KeySharing
from rtcfoci.core.model import Member, Membership, Now, Slot

__all__ = [
    "KEY_TYPES",
    "Key",
    "KeyConfig",
    "KeyMachine",
    "KeyOutput",
    "KeyRefusal",
    "SendKey",
    "SetKey",
    "UseKey",
]


class KeyMachine:
    """The keys of one join.

    Every input takes the time and gives back what to do, in order. `next_timer_s` says when to call
    `timer`. Nothing that another sends raises, and what is kept of others is bounded.

    :param own: our member in this join.
    :param random_bytes: where keys come from.
    :param counters: where to count; a counter of its own unless given.
    """

    def __init__(
        self,
        slot: Slot,
        own: Member,
        *,
        random_bytes: Callable[[int], bytes],
        config: KeyConfig | None = None,
        counters: Counter[str] | None = None,
    ) -> None:
        config = config or KeyConfig()
        self.counters: Counter[str] = Counter() if counters is None else counters
        """`keys_sent`, `key_sends_failed`, `keys_rotated`, `keys_received`, `keys_early`, and
        `keys_refused.<reason>` with the reasons of `KeyRefusal`."""
        self._out: list[KeyOutput] = []
        self._sharing = KeySharing(own, config, random_bytes, self.counters, self._out.append)
        self._rings = KeyRings(slot, own, config, self.counters, self._out.append)

    def __repr__(self) -> str:
        return f"<KeyMachine {'not started' if self.index is None else f'key {self.index} in use'}>"

    @property
    def index(self) -> int | None:
        """Which of our keys to encrypt with; None before `start`."""
        return self._sharing.index

    @property
    def installed(self) -> dict[tuple[Member, int], Key]:
        """Every key that a new connection must be given before anything is published on it."""
        return {**self._rings.installed, **self._sharing.installed}

    @property
    def next_timer_s(self) -> float | None:
        """Monotonic time at which `timer` has something to do; None for never."""
        due_s = min(self._sharing.next_timer_s, self._rings.next_timer_s)
        return None if due_s == inf else due_s

    def start(self, now: Now) -> tuple[KeyOutput, ...]:
        """We are in the session: make a key, and give it to everybody there. Idempotent."""
        if self.index is None:
            self._sharing.start(now)
            self._rings.start(now)
        return self._drain()

    def set_members(
        self, now: Now, members: Sequence[Membership], *, lingering: Sequence[Membership] = ()
    ) -> tuple[KeyOutput, ...]:
        """Follow the session: everybody in it, ourselves included or not.

        :param lingering: who is out of it and still heard: they get no key of ours any more.
        """
        self._rings.set_members(now, (*lingering, *members))
        self._sharing.set_members(now, members)
        return self._drain()

    def receive(
        self,
        now: Now,
        event_type: str,
        content: object,
        *,
        sender: str,
        sender_device_id: str | None,
        encrypted: bool,
        trusted: bool = False,
    ) -> tuple[KeyOutput, ...]:
        """Take a message of one of `KEY_TYPES`.

        :param sender_device_id: the device that encrypted it, bound; not believed when it came in clear.
        :param encrypted: whether the message was.
        :param trusted: whether that device is cross-signed.
        """
        self._rings.receive(
            now,
            event_type,
            content,
            sender=sender,
            device_id=sender_device_id,
            encrypted=encrypted,
            trusted=trusted,
        )
        return self._drain()

    def problem(
        self, now: Now, member: Member, index: int, problem: Literal["missing", "failed"]
    ) -> tuple[KeyOutput, ...]:
        """Learn from a connection that it lacks a member's key, or that the key is wrong."""
        self._rings.problem(now, member, index, problem)
        return self._drain()

    def heard(self, member: Member) -> tuple[KeyOutput, ...]:
        """Learn from a connection that a member's media can be decrypted."""
        self._rings.heard(member)
        return self._drain()

    def sent(self, now: Now, id: int) -> tuple[KeyOutput, ...]:
        """Learn that the homeserver took the message of a `SendKey`."""
        self._sharing.sent(now, id)
        return self._drain()

    def failed(
        self,
        now: Now,
        id: int,
        *,
        cause: str,
        server: bool,
        untrusted: bool = False,
        retry_after_s: float | None = None,
    ) -> tuple[KeyOutput, ...]:
        """Learn that the message of a `SendKey` was not sent, or may not have been; it comes again.

        :param server: whether the homeserver did not answer, or asked to wait: nothing about the device.
        :param untrusted: whether the device is not cross-signed, which was required.
        """
        self._sharing.failed(
            now,
            id,
            cause=cause,
            server=server,
            untrusted=untrusted,
            retry_after_s=retry_after_s,
        )
        return self._drain()

    def timer(self, now: Now) -> tuple[KeyOutput, ...]:
        """Do what is due by now."""
        self._rings.timer(now)
        self._sharing.timer(now)
        return self._drain()

    def _drain(self) -> tuple[KeyOutput, ...]:
        out = tuple(self._out)
        self._out.clear()
        return out
