"""The process of the service: configuration, log, event loop, signals.

In: `serve` and its command. Out: the service itself (`app`), which is loaded once the configuration is right.

A service is ready once its stored delegations are restored; only then does its port open. On SIGTERM it
takes no new connections, finishes requests and leaves that are under way, and stores the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rtcfoci.errors import UsageError
from rtcfoci_livekit_auth.logs import loop_failed, set_up
from rtcfoci_livekit_auth.settings import Bind, Settings

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

__all__ = ["main", "serve"]

_LOG = logging.getLogger(__name__)

_MOST_HEADER_BYTES = 64 << 10


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises UsageError: when the address cannot be bound, or a store not be opened.
    """
    from aiohttp import web

    from rtcfoci_livekit_auth.app import READY, RUNNER, build_app
    from rtcfoci_livekit_auth.limits import KEEP_ALIVE_S

    stop = asyncio.Event()
    app = build_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_S,
        max_field_size=_MOST_HEADER_BYTES,
        max_line_size=_MOST_HEADER_BYTES,
        shutdown_timeout=settings.drain_s,
    )
    app[RUNNER] = runner
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(loop_failed)
    await runner.setup()
    told: AppRunner | None = None
    try:
        if settings.metrics_bind is not None:
            from rtcfoci_livekit_auth.metrics import METRICS, metrics_app

            told = web.AppRunner(metrics_app(app[METRICS]), access_log=None)
            await told.setup()
            await _listen(told, settings.metrics_bind, "RTCFOCI_AUTH_METRICS_BIND")
        await _listen(runner, Bind(settings.bind_host, settings.bind_port), "LIVEKIT_JWT_BIND")
        await stop.wait()
        _LOG.info("ending: requests and leaves under way have %g s", settings.drain_s)
        app[READY].clear()
    finally:
        await runner.cleanup()
        if told is not None:
            await told.cleanup()


async def _listen(runner: AppRunner, bind: Bind, variable: str) -> None:
    from aiohttp.web import TCPSite

    try:
        await TCPSite(runner, bind.host, bind.port, backlog=1024).start()
    except OSError as error:
        raise UsageError(
            f"{bind.host or ''}:{bind.port} cannot be bound",
            why=error.strerror or str(error),
            do=f"end what listens there, or set {variable} to another address",
        ) from None
    _LOG.info("listening on %s:%d (%s)", bind.host or "*", bind.port, variable)


def main(argv: Sequence[str]) -> int:
    """`serve`: read the environment and run.

    :raises SettingsError: when the environment is wrong.
    """
    if argv:
        raise UsageError(
            "`serve` takes no arguments",
            why="it is configured by environment variables",
            do="see `rtcfoci-livekit-auth check-config`",
        )
    settings = Settings.read()
    _take_what_is_there()
    set_up(level=settings.log_level, form=settings.log_format)
    _introduce(settings)
    with suppress(ImportError):  # not on every platform
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
            return 0
    asyncio.run(serve(settings))
    return 0


def _take_what_is_there() -> None:
    """Open as many connections, and look up as many names at once, as this machine lets us."""
    with suppress(ImportError, OSError, ValueError):  # not on every platform
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # libuv looks names up in four threads, and some names take long.
    os.environ.setdefault("UV_THREADPOOL_SIZE", "64")


def _introduce(settings: Settings) -> None:
    for warning in settings.warnings:
        _LOG.warning("%s", warning)
    _LOG.info(
        "policy %s, SFU %s, full access for %s, application service %s, TLS checked: %s",
        settings.policy.name,
        " ".join(sfu.url for sfu in settings.sfus),
        " ".join(sorted(settings.full_access)),
        settings.appservice.server_name if settings.appservice else "off",
        settings.verify_tls,
    )
