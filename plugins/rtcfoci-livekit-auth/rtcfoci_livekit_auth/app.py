"""The service: everything made in order, started, and ended in reverse.

In: `build_app`, and what lives as long as it does. Out: the process around it (`process`), what handlers do
(`endpoints`), what is configured (`settings`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from rtcfoci_livekit_auth.delegation.delayed_events import DelayedEvents
from rtcfoci_livekit_auth.delegation.engine import Delegations
from rtcfoci_livekit_auth.delegation.store import JobStore, MemoryStore
from rtcfoci_livekit_auth.discovery import Discovery
from rtcfoci_livekit_auth.endpoints import Endpoints
from rtcfoci_livekit_auth.granting import Granting
from rtcfoci_livekit_auth.guard import Outgoing
from rtcfoci_livekit_auth.limits import Gate, Handler, Heads
from rtcfoci_livekit_auth.observing import observing
from rtcfoci_livekit_auth.openid import OpenId
from rtcfoci_livekit_auth.settings import Settings
from rtcfoci_livekit_auth.sfus import Sfus
from rtcfoci_livekit_auth.webhooks import ParticipantEvent

if TYPE_CHECKING:
    from rtcfoci_livekit_auth.appservice.behind import BehindHomeserver
    from rtcfoci_livekit_auth.metrics import Metrics

__all__ = ["READY", "RUNNER", "build_app"]

_LOG = logging.getLogger(__name__)

_HEAD_S = 15.0

RUNNER = web.AppKey("runner", web.AppRunner)
"""Whoever runs the app; it knows the connections."""
READY = web.AppKey("ready", asyncio.Event)
"""Set while requests are wanted: stored delegations are restored, and no end is near."""


def build_app(settings: Settings) -> web.Application:
    """Make the service; it connects to what it needs when it is started."""
    metrics = _metrics(settings)
    app = web.Application(middlewares=[observing(metrics.answered if metrics else None)])
    if metrics is not None:
        from rtcfoci_livekit_auth.metrics import METRICS

        app[METRICS] = metrics
    app[READY] = asyncio.Event()
    app.cleanup_ctx.append(lambda app: _life(app, settings, metrics))
    return app


async def _life(
    app: web.Application, settings: Settings, metrics: Metrics | None
) -> AsyncIterator[None]:
    outgoing = Outgoing(settings)
    discovery = Discovery(settings, outgoing)
    sfus = Sfus(settings, outgoing.sfu_session())
    delayed_events = _delayed_events(settings, outgoing, discovery)
    delegations = Delegations(
        store=_store(settings),
        delayed_events=delayed_events,
        sfus=sfus,
        settings=settings.delegation,
    )
    heads = Heads(lambda: _connections(app), within_s=_HEAD_S)
    gate = Gate(settings)
    behind = _behind(settings, outgoing, discovery, sfus)
    granting = Granting(
        settings.policy,
        discovery,
        delegations,
        attributes=behind.attributes if behind and settings.policy.kick_leavers else None,
    )

    def on_event(event: ParticipantEvent) -> None:
        delegations.handle(event)
        if behind is not None and settings.policy.kick_leavers:
            behind.leavers.handle(event)

    if behind is not None:
        behind.endpoints(granting, gate, heads, delayed_events).add_routes(app.router)
    openid = OpenId(outgoing, discovery, tries=settings.policy.lookup_tries)
    endpoints = Endpoints(
        settings=settings,
        openid=openid,
        granting=granting,
        sfus=sfus,
        gate=gate,
        heads=heads,
        on_event=on_event,
        is_ready=app[READY].is_set,
        check_joined=behind.check_joined if behind and settings.policy.check_membership else None,
    )
    endpoints.add_routes(app.router)
    if metrics is not None:
        metrics.watch_leaves(delegations)
        metrics.watch_kinds("openid_lookups", openid.lookups)
        metrics.watch_kinds("rooms", granting.rooms)
        metrics.watch_kinds("webhooks", endpoints.webhooks)
        metrics.watch_kinds("rate_limited", gate.refused)
        if behind is not None:
            leavers = behind.leavers
            metrics.watch_removed(lambda: leavers.removed)
    running: list[asyncio.Task[None]] = []
    try:
        await delegations.start()
        app[READY].set()
        running.append(asyncio.create_task(heads.watch()))
        if behind is not None and settings.policy.kick_leavers:
            running.append(asyncio.create_task(behind.leavers.run()))
        yield
        await delegations.stop(drain_s=settings.drain_s)
    finally:
        for task in running:
            task.cancel()
        if behind is not None:
            await behind.leavers.stop()
        await outgoing.aclose()


def _metrics(settings: Settings) -> Metrics | None:
    """Count for Prometheus where the operator has given it a place to ask."""
    if settings.metrics_bind is None:
        return None
    from rtcfoci_livekit_auth.metrics import Metrics

    return Metrics()


def _behind(
    settings: Settings, outgoing: Outgoing, discovery: Discovery, sfus: Sfus
) -> BehindHomeserver | None:
    if settings.appservice is None:
        return None
    from rtcfoci_livekit_auth.appservice.behind import BehindHomeserver

    return BehindHomeserver(settings, settings.appservice, outgoing, discovery, sfus)


def _delayed_events(settings: Settings, outgoing: Outgoing, discovery: Discovery) -> DelayedEvents:
    service = settings.appservice
    return DelayedEvents(
        outgoing,
        discovery,
        as_tokens={} if service is None else {service.server_name: service.as_token},
        doubt_answers=settings.delegation.doubt_answers,
        timeout_s=settings.delegation.call_timeout_s,
    )


def _store(settings: Settings) -> JobStore:
    """Choose where delegations are kept: what the operator named, else what can be opened."""
    if settings.redis_url is not None:
        from rtcfoci_livekit_auth.delegation.redis import RedisStore

        return RedisStore(
            settings.redis_url,
            password=settings.redis_password or None,
            extras=settings.delegation.remember,
            replica=settings.replica,
            lease_s=settings.lease_s,
        )
    if settings.state_file is not None:
        from rtcfoci_livekit_auth.delegation.sqlite import SqliteStore

        if settings.state_file_required or _writable(settings.state_file):
            return SqliteStore(settings.state_file)
        _LOG.warning(
            "%s cannot be written: delegated leaves do not survive a restart; "
            "set RTCFOCI_AUTH_STATE_FILE, or LIVEKIT_REDIS_URL",
            settings.state_file,
        )
    return MemoryStore()


def _writable(path: Path) -> bool:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path if path.exists() else path.parent, os.W_OK)


def _connections(app: web.Application) -> Sequence[Handler]:
    server = app[RUNNER].server if RUNNER in app else None
    return server.connections if server is not None else ()
