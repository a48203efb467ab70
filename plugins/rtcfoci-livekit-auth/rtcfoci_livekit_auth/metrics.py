"""What the service has done, for Prometheus.

In: `Metrics`, its names, and the page that Prometheus reads. Out: counting, which the parts of the service
do by themselves, whether anybody asks or not (`openid`, `granting`, `delegation.engine`, …); the port
(`process`). Labels never hold users, rooms, servers or anything else that a client chooses.

Names are an interface: a test holds them against the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from rtcfoci_livekit_auth.delegation.engine import Delegations

__all__ = ["LEAVES", "METRICS", "Metrics", "metrics_app"]

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "rtcfoci_auth_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

LEAVES: Mapping[str, tuple[str, str]] = {
    "added": ("delegations_added", "Leaves that clients handed over."),
    "restored": ("delegations_restored", "Leaves taken up from an earlier process."),
    "adopted": ("delegations_adopted", "Leaves taken up from a replica that is gone."),
    "left": ("delegations_left", "Leaves that were sent, or found sent."),
    "lapsed": ("delegations_lapsed", "Leaves given up; the homeserver's own timer ends them."),
    "replaced": ("delegations_replaced", "Leaves whose member handed over another."),
    "restarts": (
        "homeserver_restarts",
        "Restarts of delayed events that homeservers were asked for.",
    ),
    "sends": ("homeserver_sends", "Delayed leaves that homeservers were asked to send."),
    "refusals": ("homeserver_refusals", "Of both, those not answered, or wanted later."),
    "unstored": ("delegations_unstored", "Leaves that the store did not take."),
}
"""Name and meaning by field of `delegation.engine.Counts`."""

_KINDS = {
    "openid_lookups": ("result", "OpenID tokens looked up at homeservers."),
    "rooms": ("result", "Rooms asked of the SFU."),
    "webhooks": ("result", "Webhooks of the SFU."),
    "rate_limited": ("by", "Requests refused for coming too often, by the rate that they exceed."),
}
"""Label and meaning by name of what a part of the service counts by kind."""


class Metrics:
    """The figures of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            _PREFIX + "requests",
            "Requests, by endpoint and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            _PREFIX + "request_seconds",
            "How long requests took, by endpoint.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        # Finding a child takes longer than counting.
        self._counted: dict[tuple[str, int], Callable[[], None]] = {}
        self._timed: dict[str, Callable[[float], None]] = {}
        ProcessCollector(registry=self._registry)

    def answered(self, endpoint: str, status: int, took_s: float) -> None:
        """Count a request."""
        count = self._counted.get((endpoint, status))
        if count is None:
            count = self._requests.labels(endpoint, str(status)).inc
            self._counted[endpoint, status] = count
        time = self._timed.get(endpoint)
        if time is None:
            time = self._timed[endpoint] = self._seconds.labels(endpoint).observe
        count()
        time(took_s)

    def watch_leaves(self, delegations: Delegations) -> None:
        """Tell of the leaves that are watched over."""
        self._registry.register(_Leaves(delegations))

    def watch_kinds(self, name: str, counts: Mapping[str, int]) -> None:
        """Tell of something that is counted by kind."""
        self._registry.register(_Kinds(name, counts))

    def watch_removed(self, removed: Callable[[], int]) -> None:
        """Tell of participants who were removed."""
        self._registry.register(_Removed(removed))

    def text(self) -> bytes:
        """Give what Prometheus reads."""
        return generate_latest(self._registry)


METRICS = web.AppKey("metrics", Metrics)


def metrics_app(metrics: Metrics) -> web.Application:
    """Make what answers Prometheus, at an address that no client reaches."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": _CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    return app


class _Leaves(Collector):
    def __init__(self, delegations: Delegations) -> None:
        self._delegations = delegations

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            _PREFIX + "delegations",
            "Leaves that are watched over now.",
            value=len(self._delegations),
        )
        for field, (name, meaning) in LEAVES.items():
            value = getattr(self._delegations.counts, field)
            yield CounterMetricFamily(_PREFIX + name, meaning, value=value)


class _Kinds(Collector):
    def __init__(self, name: str, counts: Mapping[str, int]) -> None:
        self._name = name
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        label, meaning = _KINDS[self._name]
        family = CounterMetricFamily(_PREFIX + self._name, meaning, labels=[label])
        for kind, count in self._counts.items():
            family.add_metric([kind], count)
        yield family


class _Removed(Collector):
    def __init__(self, removed: Callable[[], int]) -> None:
        self._removed = removed

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            _PREFIX + "leavers_removed",
            "Participants removed because their user is not in the Matrix room.",
            value=self._removed(),
        )
