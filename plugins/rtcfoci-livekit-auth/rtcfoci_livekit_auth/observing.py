"""Every request gets a number for the log, and is counted.

In: the middleware around all handlers. Out: lines (`logs`), figures (`metrics`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from rtcfoci_livekit_auth.logs import REQUEST, new_request

__all__ = ["Answered", "observing"]

_LOG = logging.getLogger(__name__)

Answered = Callable[[str, int, float], None]
"""Told of an endpoint, a status, and how many seconds it took."""


def observing(answered: Answered | None) -> Middleware:
    """Make the middleware.

    :param answered: told of every request that asks for something, which a preflight does not.
    """

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        number = REQUEST.set(new_request())
        start_s = perf_counter()
        try:
            response = await handler(request)
            took_s = perf_counter() - start_s
            if answered is not None and request.method != "OPTIONS":
                answered(_endpoint(request), response.status, took_s)
            if _LOG.isEnabledFor(logging.DEBUG):
                told = {
                    "endpoint": _endpoint(request),
                    "status": response.status,
                    "took_ms": round(took_s * 1000, 1),
                }
                _LOG.debug("answered", extra=told)
            return response
        finally:
            REQUEST.reset(number)

    return observe


def _endpoint(request: web.Request) -> str:
    """Name an endpoint in words of ours: paths may hold anything."""
    resource = request.match_info.route.resource
    canonical = resource.canonical if resource is not None else ""
    return "other" if canonical in ("", "/{path}") else canonical
