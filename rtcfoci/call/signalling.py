"""Signals between members: wrapped, sent to one device, and believed only from who they claim to be.

In: the driver of `SignalInbox`. Out: its rules (`rtcfoci.core.signals`), and the payload, which is the
backend's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from rtcfoci.core.model import JsonObject, Member, Now, Slot
from rtcfoci.core.session import Session
from rtcfoci.core.signals import (
    SIGNAL_TYPE,
    Refusal,
    Refused,
    Signal,
    SignalInbox,
    build_signal,
)
from rtcfoci.errors import BackendError, UntrustedError
from rtcfoci.matrix.client import MatrixClient, ToDevice

__all__ = ["SignalObserver", "Signalling"]

_SUSPECT = frozenset({Refusal.NOT_ENCRYPTED, Refusal.OTHER_USER, Refusal.OTHER_DEVICE})
"""Refusals that a well-behaved member's client never earns."""

_MAX_SUSPECTS = 16
"""Anybody can send us messages: of more users than these, refusals are only counted."""


class SignalObserver(Protocol):
    """Whose signals these are."""

    client: MatrixClient
    slot: Slot
    member: Member
    encrypted: bool
    counters: Counter[str]
    random_bytes: Callable[[int], bytes]

    def now(self) -> Now: ...
    def on_signal(self, signal: Signal) -> None: ...
    def on_condition(self, code: str, subject: str, cause: str | None) -> None: ...


class Signalling:
    """Sends and receives the signals of one call.

    :param require_trusted: whether they are exchanged with cross-signed devices alone.
    """

    def __init__(
        self, call: SignalObserver, session: Session, *, require_trusted: bool = False
    ) -> None:
        self._call = call
        self._require_trusted = require_trusted
        self.inbox: SignalInbox = SignalInbox(call.slot, call.member, session.has)
        self._attempt = call.random_bytes(8).hex()
        self._sent: Counter[Member] = Counter()
        self._known: frozenset[Member] = frozenset()
        self._suspects: set[str] = set()
        """Users of whom the condition `signal_refused` tells, for as long as the call lasts."""

    async def send(self, focus_type: str, member: Member, payload: JsonObject) -> None:
        """Wrap a backend's payload and send it to a member's device; olm where the room is encrypted.

        :raises BackendError: when the member's device is not known.
        """
        call = self._call
        if member.device_id is None:
            raise BackendError(
                f"{member.user_id} cannot be signalled",
                why="its membership came in clear and names no device",
                do="nothing: it needs a client that says which device it is",
            )
        self._sent[member] += 1
        content = build_signal(
            call.slot,
            call.member,
            member,
            focus_type=focus_type,
            payload=payload,
            attempt=self._attempt,
            seq=self._sent[member],
            message_id=call.random_bytes(16).hex(),
            now_ts_ms=call.now().ts_ms,
        )
        try:
            await call.client.send_to_device(
                SIGNAL_TYPE,
                member.user_id,
                member.device_id,
                content,
                encrypt=call.encrypted,
                trusted=self._require_trusted,
            )
        except UntrustedError as error:
            call.on_condition("device_untrusted", str(member), error.why)
            raise

    def receive(self, message: ToDevice) -> None:
        """Take a to-device message; those that are not signals of this room are others' affair."""
        call = self._call
        if message.type != SIGNAL_TYPE or message.content.get("room_id") != call.slot.room_id:
            return
        if self._require_trusted and not self._is_trusted(message):
            return
        verdict = self.inbox.receive(
            message.content,
            call.now(),
            sender=message.sender,
            sender_device_id=message.sender_device_id,
            security=message.security,
            encrypted=call.encrypted,
        )
        match verdict:
            case Signal():
                call.on_signal(verdict)
            case Refused(reason, sender):
                call.counters[f"signals_refused.{reason.value}"] += 1
                if reason in _SUSPECT and len(self._suspects | {sender}) <= _MAX_SUSPECTS:
                    self._suspects.add(sender)
                    call.on_condition("signal_refused", sender, f"{reason.value} from {sender}")

    def _is_trusted(self, message: ToDevice) -> bool:
        """Tell whether a signal is of a cross-signed device, and what is known of the member's by it."""
        trusted = message.security == "trusted"
        if not trusted:
            self._call.counters["signals_refused.untrusted"] += 1
        for member in self._known:
            if (member.user_id, member.device_id) == (message.sender, message.sender_device_id):
                cause = None if trusted else UntrustedError.WHY
                self._call.on_condition("device_untrusted", str(member), cause)
        return trusted

    def members_changed(self, members: Iterable[Member]) -> None:
        """Deliver what was held for members that are in the session now; the foci know them already."""
        present = frozenset(members)
        for member in self._known - present if self._require_trusted else ():
            self._call.on_condition("device_untrusted", str(member), None)
        for member in sorted(present - self._known, key=lambda m: m.order):
            for signal in self.inbox.member_joined(member, self._call.now()):
                self._call.on_signal(signal)
        self._known = present
