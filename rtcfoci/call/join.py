"""Bringing a call up, and taking it down whatever happens.

In: `join`. Out: each step's own work: `preflight`, `foci`, `presence`, `call`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rtcfoci.call.call import Call
from rtcfoci.call.context import CallContext
from rtcfoci.call.foci import Accepted, Foci
from rtcfoci.call.keys import MediaKeys, takes_keys
from rtcfoci.call.preflight import RoomFacts, inspect_room, remarks, require_power
from rtcfoci.call.presence import Presence, Writer
from rtcfoci.call.ringing import Calling
from rtcfoci.call.sessions import (
    find_dialect,
    find_selection_policy,
    installed_dialects,
    writable_dialects,
)
from rtcfoci.call.signalling import Signalling
from rtcfoci.call.trust import TrustedHttp, TrustPolicy, origins_in
from rtcfoci.core.dialects import OwnEvent, OwnMembership, WritableDialect, is_livekit
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.dialects.state import state_member_id
from rtcfoci.core.keys import KeyConfig
from rtcfoci.core.lifecycle import LifecycleConfig
from rtcfoci.core.model import JsonObject, Member, Now, Slot, SlotStatus, Transport
from rtcfoci.core.session import Session
from rtcfoci.core.slots import SLOT_EVENT_TYPES
from rtcfoci.core.slots import open_slot as write_open_slot
from rtcfoci.errors import (
    ClientError,
    PreflightError,
    RtcfociError,
    SelectionError,
    UsageError,
)
from rtcfoci.matrix.adapted import adapted
from rtcfoci.matrix.client import MatrixClient, ServerSupport
from rtcfoci.matrix.rooms import resolve_alias
from rtcfoci.matrix.together import together
from rtcfoci.media.frames import Kind
from rtcfoci.plugin.hookspecs import FocusType, Security, Topology
from rtcfoci.plugin.manager import PluginManager

if TYPE_CHECKING:
    import nio

    from rtcfoci.call.trace import Trace

__all__ = ["Focus", "join"]

Focus = str | tuple[str, Mapping[str, object]]
"""A focus type by type string or alias, alone or with its configuration."""

_RTC_TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
_OWNED_STATE = ("org.matrix.msc3757", "org.matrix.msc3779")
"""Room versions in which users own the state keys that start with their id."""


@asynccontextmanager
async def join(
    client: MatrixClient | nio.AsyncClient,
    room: str,
    *,
    foci: Sequence[Focus],
    slot: str = "ROOM",
    application: str = "m.call",
    application_data: JsonObject | None = None,
    announce: Iterable[Kind] = (),
    dialect: str | None = None,
    force: bool = False,
    selection: str | None = None,
    open_slot: Literal["auto", "never"] = "auto",
    allow_insecure: bool = False,
    require_trusted: bool = False,
    trust: TrustPolicy | None = None,
    lifecycle: LifecycleConfig | None = None,
    plugins: PluginManager | None = None,
    trace: Path | None = None,
    now: Callable[[], Now] | None = None,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> AsyncIterator[Call]:
    """Join a call; on leaving the block, whatever the reason, the membership is withdrawn.

    Safe to cancel at any point. Before anything is sent a preflight refuses what cannot work.

    :param client: from `rtcfoci.connect`, or the matrix-nio client of a bot.
    :param room: room id or alias.
    :param foci: focus types to accept, in order of preference.
    :param slot: name of the slot; with the application it makes the slot id (`m.call#ROOM`).
    :param application: application type.
    :param application_data: the application's own data in the membership.
    :param announce: kinds of media that will be published; some foci decide by it who fits.
    :param dialect: membership dialect to write, such as `D3`; chosen by the rules of the house
        unless given.
    :param force: write a membership even if it would crash other people's clients
        (`rtcfoci.core.dialects.dangers`).
    :param selection: name of a selection policy; `oldest_membership` for elected types, else
        `each_its_own`.
    :param open_slot: `auto` opens an existing closed slot where our power permits; no slot is ever
        created or closed.
    :param allow_insecure: in an encrypted room, accept foci that protect media or data less.
    :param require_trusted: exchange media keys and signals with cross-signed devices alone; takes an
        encrypted room.
    :param plugins: what is installed, if it was loaded already.
    :param trace: a new file that records what goes into the core and what comes out, without secrets
        (`rtcfoci.call.trace`).
    :param now: both clocks; only tests need it.
    :param random_bytes: where ids come from; only tests need another source.
    :raises UsageError: for an unknown focus type, dialect or policy.
    :raises PreflightError: with everything that would make the join fail.
    :raises SelectionError: when no accepted focus type can be used.
    :raises ClientError: when the homeserver refuses or does not answer.
    """
    manager = plugins or PluginManager.load()
    chosen = _chosen(manager, foci)
    async with adapted(client) as adapter:
        room_id = await resolve_alias(adapter, room)
        place = Slot(room_id=room_id, application=application, name=slot)
        facts, support = await together(inspect_room(adapter, room_id), adapter.support())
        if require_trusted:
            _require_trust(facts, allow_insecure)
        usable = _secure_enough([kind for kind, _ in chosen], facts, allow_insecure)
        keyed = facts.encrypted and any(takes_keys(kind) for kind in usable)
        signals = facts.encrypted and any(k.capabilities.needs_signalling for k in usable)
        if signals or (keyed and not allow_insecure):
            _require_encryption(adapter)
        keyed = keyed and adapter.encrypts
        configs = [(kind, config) for kind, config in chosen if kind in usable]
        advertised = await _advertised(adapter, support, usable)
        written = _dialect(manager, dialect, usable, advertised, facts, support)
        sealed = facts.encrypted and written.sticky
        if sealed:
            _require_encryption(adapter)
        sent = "m.room.encrypted" if sealed else written.event_types[0]
        require_power(facts, adapter.user_id, sent, state=not written.sticky)
        call = Call(
            adapter,
            place,
            _own_member(adapter, written, random_bytes),
            encrypted=facts.encrypted,
            announced=frozenset(announce),
            now=now,
            random_bytes=random_bytes,
            trace=None if trace is None else _recorded(trace, manager),
        )
        call.insecure = allow_insecure
        call.clock.learn(facts.state, adapter.user_id)
        try:
            known = origins_in([*(c for _, c in configs), *(t.raw for t in advertised)])
            http = TrustedHttp(trust or TrustPolicy(), known)
            call.on_closing(http.aclose)
            call.foci = Foci(
                [_accept(manager, call, http, kind, config) for kind, config in configs],
                own=call.member,
                policy=find_selection_policy(manager, selection or _usual_policy(usable[0])),
                trust=http.policy,
                observer=call,
                spawn=call.spawn,
                now_s=lambda: call.now().s,
                explain=manager.explain,
                keyed=keyed,
            )
            if keyed:
                config = KeyConfig(require_trusted=require_trusted)
                call.keys = MediaKeys(call, config, random_bytes=_key_source(call))
            call.on_closing(call.foci.aclose)
            await call.foci.gather(advertised)
            await _while_it_lasts(
                call,
                _bring_up(
                    call,
                    manager,
                    written,
                    facts,
                    support,
                    application_data or {},
                    lifecycle,
                    force,
                    require_trusted,
                ),
            )
            if open_slot == "auto":
                await _open_closed_slot(call, facts)
            yield call
        finally:
            try:
                await _see_off(call)
            finally:
                if call.trace is not None:
                    call.trace.close()


async def _while_it_lasts(call: Call, work: Coroutine[object, object, None]) -> None:
    """Do a step of the join, which ends with an error when the call does meanwhile."""
    doing = asyncio.ensure_future(work)
    over = asyncio.ensure_future(call.wait_ended())
    try:
        await asyncio.wait((doing, over), return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
        doing.cancel()
        await asyncio.gather(doing, over, return_exceptions=True)
    condition = call.ended_by
    if condition is not None and (doing.cancelled() or doing.exception() is not None):
        raise RtcfociError(condition.what, why=condition.cause, do=condition.remedy)
    doing.result()


async def _see_off(call: Call) -> None:
    """Wait until we have left, even when told to stop meanwhile: the client is needed for it."""
    leaving = asyncio.ensure_future(call.leave())
    cancelled: asyncio.CancelledError | None = None
    while not leaving.done():
        try:
            await asyncio.wait((leaving,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    leaving.result()


async def _bring_up(
    call: Call,
    manager: PluginManager,
    written: WritableDialect,
    facts: RoomFacts,
    support: ServerSupport,
    application_data: JsonObject,
    lifecycle: LifecycleConfig | None,
    force: bool,
    require_trusted: bool,
) -> None:
    own = OwnMembership(
        slot=call.slot,
        member=call.member,
        transports=(call.foci.own_offer.transport,),
        can_subscribe=call.foci.types,
        application=application_data,
        owned_state=facts.room_version.startswith(_OWNED_STATE),
    )
    writer = Writer(written, own, writable_dialects(manager)).on(call.foci.own_offer)
    event = writer.join(lifetime_ms=own.lifetime_ms)
    if not force:
        _require_harmless(event, written.name)
    call.remarks = remarks(event, call.slot)
    session = Session(call.slot, installed_dialects(manager))
    call.calling = Calling(call, session, sticky=support.sticky_events)
    call.signalling = Signalling(call, session, require_trusted=require_trusted)
    call.presence = Presence(
        call.client,
        session,
        writer,
        support,
        call,
        encrypted=facts.encrypted,
        config=lifecycle,
    )
    if call.trace is not None:
        call.trace.watch("session", session, slot=call.slot, policy=session.policy.name)
        call.trace.watch("signals", call.signalling.inbox, slot=call.slot, own=call.member)
        call.trace.watch("notifications", call.calling.heard, own=call.member)
        if call.keys is not None:
            call.trace.watch(
                "keys",
                call.keys.machine,
                slot=call.slot,
                own=call.member,
                config=call.keys.config,
            )
        call.trace.watch("lifecycle", call.presence.lifecycle, config=lifecycle)
    # The focus gets ready while we become a member.
    call.spawn(call.presence.run(), name="presence", vital=True)
    call.spawn(call.foci.prepare(), name="prepare")
    call.on_closing(call.presence.leave)
    if call.keys is not None:
        call.spawn(call.keys.run(), name="media keys", vital=True)
        call.on_closing(call.keys.aclose)
    await call.presence.wait_primed()
    await call.presence.join(call.random_bytes(8).hex())
    if call.keys is not None:
        call.keys.start()
    call.foci.start()


def _key_source(call: Call) -> Callable[[int], bytes]:
    trace = call.trace
    return call.random_bytes if trace is None else trace.handles.making(call.random_bytes)


def _recorded(path: Path, manager: PluginManager) -> Trace:
    from rtcfoci.call.trace import Trace

    return Trace(path, installed_dialects(manager))


def _chosen(
    manager: PluginManager, foci: Sequence[Focus]
) -> list[tuple[FocusType, Mapping[str, object]]]:
    if not foci or isinstance(foci, str):
        raise UsageError(
            "no focus type is named",
            why="foci is a list of the types to accept, in order",
            do='for example foci=["mesh"]; rtcfoci plugins lists what is installed',
        )
    named = [(focus, {}) if isinstance(focus, str) else focus for focus in foci]
    return [(manager.focus_type(name), config) for name, config in named]


def _usual_policy(kind: FocusType) -> str:
    return "oldest_membership" if kind.topology is Topology.ELECTED else "each_its_own"


def _secure_enough(
    kinds: Sequence[FocusType], facts: RoomFacts, allow_insecure: bool
) -> list[FocusType]:
    """Leave out what protects media or data less than the room asks (design.md, invariant 4)."""
    if not facts.encrypted or allow_insecure:
        return list(kinds)
    weak = (Security.NONE, Security.HOP)
    usable = []
    for kind in kinds:
        can = kind.capabilities
        media_weak = (can.audio or can.video) and kind.media_security in weak
        if not media_weak and not (can.data and kind.data_security in weak):
            usable.append(kind)
    if not usable:
        raise SelectionError(
            "no accepted focus type protects media as this encrypted room asks",
            why=", ".join(
                f"{k.type}: media {k.media_security.value}, data {k.data_security.value}"
                for k in kinds
            ),
            do=(
                "accept a focus type with peer or frame security, or join with "
                "allow_insecure=True (--allow-insecure)"
            ),
        )
    return usable


def _require_trust(facts: RoomFacts, allow_insecure: bool) -> None:
    if facts.encrypted and not allow_insecure:
        return
    raise PreflightError(
        [
            RtcfociError(
                "no device can be trusted in this call",
                why="less protection is allowed"
                if facts.encrypted
                else "the room is not encrypted",
                do="join without allow_insecure"
                if facts.encrypted
                else "encrypt the room, or join without require_trusted (--require-trusted)",
            )
        ]
    )


def _require_encryption(client: MatrixClient) -> None:
    if not client.encrypts:
        raise PreflightError(
            [
                RtcfociError(
                    "this client cannot encrypt, and the room asks for it",
                    why="what has to be encrypted would let the homeserver into the call in clear",
                    do="connect with encrypted=True",
                )
            ]
        )


async def _advertised(
    client: MatrixClient, support: ServerSupport, kinds: Sequence[FocusType]
) -> list[Transport]:
    if not support.rtc_transports or not any(k.capabilities.needs_server for k in kinds):
        return []
    try:
        answer = await client.request("GET", _RTC_TRANSPORTS)
    except ClientError as error:
        if error.status in (403, 404):
            return []
        raise
    listed = answer.get("rtc_transports")
    return [
        Transport(item["type"], item)
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict) and isinstance(item.get("type"), str)
    ]


def _dialect(
    manager: PluginManager,
    name: str | None,
    kinds: Sequence[FocusType],
    advertised: Sequence[Transport],
    facts: RoomFacts,
    support: ServerSupport,
) -> WritableDialect:
    """Choose what to write by design.md, Wire choices.

    D3 is what deployed clients see. A member that has no focus they know is written as a
    sticky event where the server has them and the room is clear; and as D3 where there are no
    delayed events, since a sticky event would outlive a crash by an hour.
    """
    if name is not None:
        found = find_dialect(manager, name)
        if found.sticky and not support.sticky_events:
            raise UsageError(
                f"dialect {name} cannot be written here",
                why="the homeserver has no sticky events (MSC4354)",
                do="leave the dialect out, or ask the operator to set msc4354_enabled",
            )
        return found
    names = {name for kind in kinds for name in (kind.type, *kind.aliases)}
    deployed = any(is_livekit(t.raw) and t.type in names for t in advertised)
    sticky = support.sticky_events and support.delayed_events
    if sticky and not facts.encrypted and not deployed:
        return find_dialect(manager, "D6/D7")
    return find_dialect(manager, "D3")


def _require_harmless(event: OwnEvent, dialect: str) -> None:
    """Refuse a membership that would crash other people's clients (design.md, invariant 9)."""
    found = dangers(event.content, event.type)
    if found:
        raise PreflightError(
            [
                RtcfociError(
                    f"what dialect {dialect} writes would crash other people's clients",
                    why="; ".join(problem.message for problem in found),
                    do="choose another dialect, or join with force=True (--force)",
                )
            ]
        )


def _own_member(
    client: MatrixClient, written: WritableDialect, random_bytes: Callable[[int], bytes]
) -> Member:
    # State dialects have one identity for each device; sticky ones a new one for each join.
    member_id = (
        random_bytes(16).hex()
        if written.sticky
        else state_member_id(client.user_id, client.device_id)
    )
    return Member(user_id=client.user_id, device_id=client.device_id, member_id=member_id)


def _accept(
    manager: PluginManager,
    call: Call,
    http: TrustedHttp,
    kind: FocusType,
    config: Mapping[str, object],
) -> Accepted:
    context = CallContext(call, kind.type, http)
    return Accepted(kind, manager.create_backend(kind, context, config), context)


async def _open_closed_slot(call: Call, facts: RoomFacts) -> None:
    event_type = SLOT_EVENT_TYPES[0]
    if facts.slot_status(call.slot.slot_id) is not SlotStatus.CLOSED:
        return
    if not facts.may_send(event_type):
        return  # the condition slot_closed says so already, with the remedy
    current = facts.find(event_type, call.slot.slot_id)
    event = write_open_slot(call.slot, room_encrypted=facts.encrypted, current=current)
    try:
        await call.client.send_state(call.room_id, event.type, call.slot.slot_id, event.content)
    except ClientError as error:  # we are in the call all the same
        cause = f"it could not be opened: {error.what}"
        call.on_condition("slot_closed", "", cause)
