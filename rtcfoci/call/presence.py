"""Our membership and the session around it: the asyncio driver of the core's machines.

In: feeding sync, results and timers to `Session`, `Lifecycle` and `SignalInbox`, running the effects
they ask for. Out: what the machines decide (`rtcfoci.core`), connections (`foci`), the face (`call`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from rtcfoci.call.clock import ServerClock
from rtcfoci.call.link import Offer
from rtcfoci.core import effects as fx
from rtcfoci.core.dialects import OwnEvent, OwnMembership, WritableDialect
from rtcfoci.core.lifecycle import Goal, Lifecycle, LifecycleConfig
from rtcfoci.core.model import Member, Membership, Now, RoomEvent, SlotStatus, Transport
from rtcfoci.core.session import (
    EventIgnored,
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    Session,
    SessionDiff,
    SlotChanged,
)
from rtcfoci.core.unread import Unread
from rtcfoci.errors import ClientError, Problem, RtcfociError
from rtcfoci.matrix.client import Connectivity, MatrixClient, RoomUpdate, ServerSupport, ToDevice

__all__ = ["Presence", "PresenceObserver", "Writer"]

_GONE = frozenset({LeftReason.LEFT, LeftReason.EXPIRED, LeftReason.REDACTED, LeftReason.INVALID})
_log = logging.getLogger("rtcfoci.call")
_LONGEST_WAIT_S = 3600.0
"""One wait is never longer, so that no remote time can overflow a timer."""


class Writer:
    """Writes the events of one join in one dialect, and knows the leaves that this device left behind.

    :param written: every dialect that can be written; a crashed process may have used another one.
    """

    def __init__(
        self, dialect: WritableDialect, own: OwnMembership, written: Sequence[WritableDialect]
    ) -> None:
        self.dialect = dialect
        self.own = own
        self.written = written

    def on(self, offer: Offer) -> Writer:
        """Write the same membership with another transport."""
        raw = offer.backend.render(offer.transport, self.dialect.name)
        transport = Transport(str(raw.get("type", offer.transport.type)), raw)
        return Writer(self.dialect, replace(self.own, transports=(transport,)), self.written)

    def join(self, *, lifetime_ms: int) -> OwnEvent:
        return self.dialect.join(replace(self.own, lifetime_ms=lifetime_ms))

    def refresh(self, *, created_ts_ms: int, now_ts_ms: int, lifetime_ms: int) -> OwnEvent:
        return self.dialect.refresh(
            replace(self.own, lifetime_ms=lifetime_ms),
            created_ts_ms=created_ts_ms,
            now_ts_ms=now_ts_ms,
        )

    def leave(self) -> OwnEvent:
        return self.dialect.leave(self.own)

    def owns(self, held: fx.HeldEvent) -> bool:
        for dialect in self.written:
            if held.type not in dialect.event_types:
                continue
            if held.state_key is not None:
                leaves = (dialect.leave(replace(self.own, owned_state=o)) for o in (False, True))
                if not dialect.sticky and any(held.state_key == e.state_key for e in leaves):
                    return True
            elif dialect.sticky:
                member = held.content.get("member")
                device_id = member.get("device_id") if isinstance(member, dict) else None
                slot_id = held.content.get("slot_id")
                return device_id == self.own.member.device_id and slot_id == self.own.slot.slot_id
        return False


class PresenceObserver(Protocol):
    """Who is told about the session and our health in it; all on the call's loop."""

    clock: ServerClock
    member: Member

    def now(self) -> Now: ...
    def on_joined(self, membership: Membership) -> None: ...
    def on_changed(self, membership: Membership) -> None: ...
    def on_left(self, member: Member, reason: str) -> None: ...
    def on_members(self, members: Sequence[Membership]) -> None: ...
    def on_condition(
        self, code: str, subject: str, cause: str | None, retry_at_s: float | None = None
    ) -> None: ...
    def on_event(self, event: RoomEvent, changes: Sequence[SessionDiff], now: Now) -> None: ...
    def on_ignored(self, sender: str, problems: Sequence[Problem]) -> None: ...
    def on_to_device(self, message: ToDevice) -> None: ...


class Presence:
    """Keeps us in the session, and everybody informed of it.

    :param writer: writes our membership; replaced when our transports change.
    :param encrypted: whether the room is; what is not state is encrypted there (MSC4143).
    """

    def __init__(
        self,
        client: MatrixClient,
        session: Session,
        writer: Writer,
        support: ServerSupport,
        observer: PresenceObserver,
        *,
        encrypted: bool = False,
        config: LifecycleConfig | None = None,
    ) -> None:
        self.session = session
        self._encrypted = encrypted
        self._client = client
        self._writer = writer
        self._support = support
        self._observer = observer
        self._room_id = session.slot.room_id
        self._lifecycle = Lifecycle(config)
        self._unread = Unread(session.in_room)
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._effects: set[asyncio.Task[None]] = set()
        self._primed = asyncio.Event()

    @property
    def lifecycle(self) -> Lifecycle:
        """The machine of our membership."""
        return self._lifecycle

    async def run(self) -> None:
        """Follow the room and the timers; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep_time())

    async def wait_primed(self) -> None:
        """Wait until the room's whole current state was folded in."""
        await self._primed.wait()

    async def join(self, txn_prefix: str) -> None:
        """Become a member, and wait for it.

        :raises RtcfociError: when the homeserver refuses for good.
        """
        self._apply(
            self._lifecycle.join(
                self._observer.now(),
                self._writer,
                txn_prefix=txn_prefix,
                delayed_events=self._support.delayed_events,
                max_delay_ms=self._support.max_delay_ms,
            )
        )
        await self._until(lambda: self._lifecycle.joined or self._lifecycle.goal is not Goal.IN)
        if not self._lifecycle.joined:
            raise RtcfociError(
                "the homeserver did not take our membership",
                why=self._lifecycle.reason or "we were told to leave meanwhile",
                do="see the conditions of the call",
            )

    def move_to(self, offer: Offer) -> None:
        """Announce that we publish on this offer from now on, as the same member."""
        self._writer = self._writer.on(offer)
        if self._lifecycle.goal is Goal.IN:
            self._apply(self._lifecycle.update(self._observer.now(), self._writer))

    async def leave(self) -> None:
        """Withdraw our membership and wait until that is confirmed, given up, or impossible."""
        if self._lifecycle.goal is Goal.NONE:
            return
        self._apply(self._lifecycle.leave(self._observer.now()))
        while self._lifecycle.goal not in (Goal.ENDED, Goal.REVOKED):
            # Its own clock: leaving must come to an end even if `run` has failed.
            self._settled.clear()
            now_s, due_s = self._observer.now().s, self._lifecycle.next_timer_s
            try:
                async with asyncio.timeout(None if due_s is None else max(0.0, due_s - now_s)):
                    await self._settled.wait()
            except TimeoutError:
                self._apply(self._lifecycle.timer(self._observer.now()))
        await asyncio.gather(*self._effects, return_exceptions=True)

    # Sync and time.

    async def _follow(self) -> None:
        async for update in self._client.updates(self._room_id):
            match update:
                case RoomUpdate():
                    self._room_update(update)
                    self._primed.set()
                case ToDevice():
                    self._observer.on_to_device(update)
                    await self._client.ack(update)
                case Connectivity(online=online, cause=cause, token_revoked=token_revoked):
                    now = self._observer.now()
                    if token_revoked:
                        self._primed.set()
                        self._apply(
                            self._lifecycle.token_revoked(now, cause or "by the homeserver")
                        )
                    elif online:
                        self._apply(self._lifecycle.online(now))
                    else:
                        self._apply(self._lifecycle.offline(now, cause))

    async def _keep_time(self) -> None:
        while True:
            now = self._observer.now()
            due_s = [_LONGEST_WAIT_S]
            if self.session.next_timer_ts_ms is not None:
                due_s.append((self.session.next_timer_ts_ms - now.ts_ms) / 1000)
            if self._unread.next_timer_ts_ms is not None:
                due_s.append((self._unread.next_timer_ts_ms - now.ts_ms) / 1000)
            if self._lifecycle.next_timer_s is not None:
                due_s.append(self._lifecycle.next_timer_s - now.s)
            self._wake.clear()
            try:
                async with asyncio.timeout(max(0.0, min(due_s))):
                    await self._wake.wait()
            except TimeoutError:
                now = self._observer.now()
                if self._tell(self.session.handle_timer(now), None):
                    self._changed()
                self._apply((*self._unread.timer(now), *self._lifecycle.timer(now)))

    def _room_update(self, update: RoomUpdate) -> None:
        changed = False
        clock = self._observer.clock
        clock.learn(update.events, self._client.user_id)
        now = self._observer.now()
        for event in update.events:
            if event.state_key is None:  # its time is counted by the clock that the session goes by
                event = replace(event, received_ts_ms=clock.heard_ts_ms(event))
            changes = self.session.receive(event, now)
            changed |= self._tell(changes, event)
            self._apply(self._unread.receive(event, now))
            self._observer.on_event(event, changes, now)
            if event.type == "m.room.tombstone" and event.state_key == "":
                replacement = event.content.get("replacement_room")
                self._observer.on_condition("room_upgraded", "", f"replaced by {replacement}")
        if changed:
            self._changed()
        if update.membership != "join":
            self._evicted(update)

    def _evicted(self, update: RoomUpdate) -> None:
        code, cause = "kicked", "we are no longer in the room"
        for event in update.events:
            if event.type == "m.room.member" and event.state_key == self._client.user_id:
                banned = event.content.get("membership") == "ban"
                code = "banned" if banned else "kicked"
                reason = event.content.get("reason")
                by = (
                    "ourselves, elsewhere" if event.sender == self._client.user_id else event.sender
                )
                cause = f"by {by}" + (f": {reason}" if isinstance(reason, str) else "")
        self._apply(self._lifecycle.evicted(self._observer.now()))
        self._observer.on_condition(code, "", cause)

    def _changed(self) -> None:
        """Hand on who is there: once for all events that came together."""
        self._observer.on_members(self.session.members)
        self._wake.set()

    def _tell(self, diffs: Sequence[SessionDiff], event: RoomEvent | None) -> bool:
        """Tell what changed, one by one; give back whether anything did."""
        now = self._observer.now()
        own = self._observer.member
        for diff in diffs:
            match diff:
                case MemberJoined(membership):
                    if membership.member == own and event is not None:
                        self._see(now, event, membership)
                    self._observer.on_joined(membership)
                case MemberChanged(_, new):
                    if new.member == own and event is not None:
                        self._see(now, event, new)
                    self._observer.on_changed(new)
                case MemberRefreshed(_, new):
                    if new.member == own and event is not None:
                        self._see(now, event, new)
                case MemberLeft(membership, reason):
                    if membership.member == own and reason in _GONE:
                        self._apply(self._lifecycle.gone(now))
                    self._observer.on_left(membership.member, reason.value)
                case SlotChanged(status):
                    closed = status is SlotStatus.CLOSED
                    self._observer.on_condition(
                        "slot_closed", "", "the slot event says so" if closed else None
                    )
                case EventIgnored(_, sender, problems):
                    self._observer.on_ignored(sender, problems)
        return bool(diffs)

    def _see(self, now: Now, event: RoomEvent, membership: Membership) -> None:
        if membership.event_id == event.event_id:
            self._apply(
                self._lifecycle.seen(now, event.event_id, created_ts_ms=event.origin_server_ts_ms)
            )

    # Effects.

    def _apply(self, outputs: Sequence[fx.Output]) -> None:
        for output in outputs:
            match output:
                case fx.RaiseCondition(code=code, cause=cause, retry_at_s=retry_at_s):
                    self._observer.on_condition(code, "", cause, retry_at_s)
                case fx.ClearCondition(code=code):
                    self._observer.on_condition(code, "", None)
                case _:
                    task = asyncio.get_running_loop().create_task(self._run_effect(output))
                    self._effects.add(task)
                    task.add_done_callback(self._effects.discard)
        self._wake.set()
        self._settled.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._settled.clear()
            await self._settled.wait()

    async def _run_effect(self, effect: fx.Effect) -> None:
        result: fx.Result
        try:
            async with asyncio.timeout(effect.timeout_s):
                result = await self._perform(effect)
        except TimeoutError:
            result = fx.Failure(
                outcome=fx.Outcome.UNREACHABLE, cause=f"no answer within {effect.timeout_s:g} s"
            )
        except ClientError as error:
            result = fx.Failure.of(error)
        except asyncio.CancelledError:
            result = fx.Failure(outcome=fx.Outcome.UNREACHABLE, cause="the request was cancelled")
        except Exception as error:
            # A bug below us: the machine must have its answer all the same, or it waits for ever.
            _log.exception("%s failed unexpectedly", type(effect).__name__)
            result = fx.Failure(outcome=fx.Outcome.REJECTED, cause=type(error).__name__)
        self._apply(self._lifecycle.result(self._observer.now(), effect.id, result))

    async def _perform(self, effect: fx.Effect) -> fx.Result:
        client, room_id = self._client, self._room_id
        match effect:
            case fx.ListDelayed():
                held = await client.list_delayed()
                return fx.Listed(events=tuple(e for e in held if e.room_id == room_id))
            case fx.ScheduleLeave(event=event, delay_ms=delay_ms, txn_id=txn_id):
                delay_id = await client.schedule_delayed(
                    room_id,
                    event.type,
                    event.content,
                    delay_ms=delay_ms,
                    txn_id=txn_id,
                    state_key=event.state_key,
                    sticky_duration_ms=event.sticky_duration_ms,
                    encrypt=self._encrypted and event.state_key is None,
                )
                return fx.Scheduled(delay_id=delay_id)
            case fx.RestartLeave(delay_id=delay_id):
                await client.manage_delayed(delay_id, "restart")
            case fx.CancelLeave(delay_id=delay_id):
                await client.manage_delayed(delay_id, "cancel")
            case fx.SendHeldLeave(delay_id=delay_id):
                await client.manage_delayed(delay_id, "send")
            case (
                fx.SendMembership(event=event, txn_id=txn_id)
                | fx.SendLeave(event=event, txn_id=txn_id)
            ):
                return fx.Sent(event_id=await self._send(event, txn_id))
        return fx.Done()

    async def _send(self, event: fx.Event, txn_id: str) -> str:
        if event.state_key is not None:
            return await self._client.send_state(
                self._room_id, event.type, event.state_key, event.content
            )
        return await self._client.send_event(
            self._room_id,
            event.type,
            event.content,
            txn_id=txn_id,
            sticky_duration_ms=event.sticky_duration_ms,
            encrypt=self._encrypted,
        )
