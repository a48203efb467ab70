"""The media keys of one call: the asyncio driver of `KeyMachine`.

In: feeding the machine from the call, running its sends, its one timer, and handing on which keys every
connection needs. Out: whose key is believed and when ours changes (`rtcfoci.core.keys`), olm
(`rtcfoci.matrix`), bringing keys to one connection (`rtcfoci.call.link`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.key_messages import WRITTEN_KEY_TYPE, write_key
from rtcfoci.core.keys import (
    KEY_TYPES,
    Key,
    KeyConfig,
    KeyMachine,
    KeyOutput,
    SendKey,
    SetKey,
    UseKey,
)
from rtcfoci.core.model import Member, Membership, Now, Slot
from rtcfoci.errors import ClientError, UnreachableError, UntrustedError
from rtcfoci.matrix.client import MatrixClient, ToDevice
from rtcfoci.plugin.hookspecs import FocusType, Security

__all__ = ["KeyObserver", "MediaKeys", "takes_keys"]

_LONGEST_WAIT_S = 3600.0
_SERVER_STATUSES = frozenset({429, 502, 503})
"""The homeserver is busy or away, whoever the message was for."""
_log = logging.getLogger("rtcfoci.call")


def takes_keys(focus_type: FocusType) -> bool:
    """Tell whether a focus type protects what it carries by media keys."""
    return Security.FRAME in (focus_type.media_security, focus_type.data_security)


class KeyObserver(Protocol):
    """Whose keys these are; all on the call's loop."""

    client: MatrixClient
    slot: Slot
    member: Member
    counters: Counter[str]

    def now(self) -> Now: ...
    def spawn(
        self, work: Coroutine[object, object, None], *, name: str, vital: bool = False
    ) -> asyncio.Task[None]: ...
    def on_condition(self, code: str, subject: str, cause: str | None) -> None: ...
    def on_keys(self, keys: Mapping[tuple[Member, int], Key], index: int | None) -> None:
        """Every connection needs these keys now, and encrypts with that one of ours."""


class MediaKeys:
    """Exchanges the media keys of one call.

    :param random_bytes: where our keys come from.
    """

    def __init__(
        self,
        call: KeyObserver,
        config: KeyConfig,
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.config = config
        self._call = call
        self._machine = KeyMachine(
            call.slot,
            call.member,
            random_bytes=random_bytes,
            config=config,
            counters=call.counters,
        )
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def machine(self) -> KeyMachine:
        """The machine of the keys."""
        return self._machine

    async def run(self) -> None:
        """Keep the machine's time; runs until cancelled."""
        while True:
            due_s = self._machine.next_timer_s
            wait_s = _LONGEST_WAIT_S if due_s is None else due_s - self._call.now().s
            self._wake.clear()
            try:
                async with asyncio.timeout(min(max(0.0, wait_s), _LONGEST_WAIT_S)):
                    await self._wake.wait()
            except TimeoutError:
                self._apply(self._machine.timer(self._call.now()))

    def start(self) -> None:
        """We are a member: make our key and give it to everybody."""
        self._apply(self._machine.start(self._call.now()))

    async def aclose(self) -> None:
        """Send no key any more; idempotent."""
        self._closed = True

    def members_changed(
        self, members: Sequence[Membership], lingering: Sequence[Membership]
    ) -> None:
        """Follow who is in the session, and who is out of it and still sends."""
        now = self._call.now()
        self._apply(self._machine.set_members(now, members, lingering=lingering))

    def receive(self, message: ToDevice) -> None:
        """Take a to-device message; those that are not keys for this room are others' affair."""
        room_id = message.content.get("room_id")
        if message.type in KEY_TYPES and room_id == self._call.slot.room_id:
            self._apply(
                self._machine.receive(
                    self._call.now(),
                    message.type,
                    message.content,
                    sender=message.sender,
                    sender_device_id=message.sender_device_id,
                    encrypted=message.security != "clear",
                    trusted=message.security == "trusted",
                )
            )

    def problem(self, member: Member, index: int, problem: Literal["missing", "failed"]) -> None:
        """Learn from a connection that it cannot decrypt a member."""
        self._apply(self._machine.problem(self._call.now(), member, index, problem))

    def heard(self, member: Member) -> None:
        """Learn from a connection that it can."""
        self._apply(self._machine.heard(member))

    def _apply(self, outputs: Iterable[KeyOutput]) -> None:
        if self._closed:
            return
        changed = False
        for output in outputs:
            match output:
                case SendKey():
                    self._call.spawn(self._send(output), name=f"media key to {output.to}")
                case SetKey() | UseKey():
                    changed = True
                case RaiseCondition(code=code, subject=subject, cause=cause):
                    self._call.on_condition(code, subject, cause)
                case ClearCondition(code=code, subject=subject):
                    self._call.on_condition(code, subject, None)
        if changed:
            self._call.on_keys(self._machine.installed, self._machine.index)
        self._wake.set()

    async def _send(self, effect: SendKey) -> None:
        call, to = self._call, effect.to
        content = write_key(
            call.slot, call.member, effect.index, effect.key, sent_ts_ms=call.now().ts_ms
        )
        try:
            async with asyncio.timeout(effect.timeout_s):
                await call.client.send_to_device(
                    WRITTEN_KEY_TYPE,
                    to.user_id,
                    to.device_id or "",
                    content,
                    encrypt=True,
                    trusted=effect.trusted,
                )
        except UntrustedError as error:
            self._failed(effect, error.why, server=False, untrusted=True)
        except ClientError as error:
            self._failed(
                effect,
                f"{error.what}: {error.why}" if error.why else error.what,
                server=isinstance(error, UnreachableError) or error.status in _SERVER_STATUSES,
                retry_after_s=(error.retry_after_ms or 0) / 1000,
            )
        except TimeoutError:
            self._failed(effect, f"no answer within {effect.timeout_s:g} s", server=False)
        except Exception as error:
            # Its text could hold the message; the machine must have its answer all the same.
            _log.error("a media key could not be sent: %s", type(error).__name__)
            self._failed(effect, type(error).__name__, server=False)
        else:
            self._apply(self._machine.sent(call.now(), effect.id))

    def _failed(
        self,
        effect: SendKey,
        cause: str,
        *,
        server: bool,
        untrusted: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        self._apply(
            self._machine.failed(
                self._call.now(),
                effect.id,
                cause=cause,
                server=server,
                untrusted=untrusted,
                retry_after_s=retry_after_s,
            )
        )
