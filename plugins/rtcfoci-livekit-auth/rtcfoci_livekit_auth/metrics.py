"""What the service has done, for Prometheus.

In: `Metrics`, its names, and the text that Prometheus reads. Out: counting (who does the work), serving it
(`app`). Labels never hold users, rooms, servers or anything else that a client chooses.

Names are an interface: a test holds them against the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from rtcfoci_livekit_auth.delegation.engine import Delegations

__all__ = ["CONTENT_TYPE", "ENDPOINTS", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENDPOINTS = (
    "/sfu/get",
    "/get_token",
    "/delegate_delayed_leave",
    "/sfu_webhook",
    "client",
    "federation",
)
"""Values of the label `endpoint`; the last two are the homeserver's endpoints."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_COUNTS = {
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


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rtcfoci_auth_requests",
            "Requests, by endpoint and status.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "rtcfoci_auth_request_seconds",
            "How long requests took, by endpoint.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.lookups = Counter(
            "rtcfoci_auth_openid_lookups",
            "OpenID tokens looked up at homeservers: accepted, refused.",
            ["result"],
            registry=self.registry,
        )
        self.rooms = Counter(
            "rtcfoci_auth_rooms",
            "Rooms asked of the SFU: made, failed.",
            ["result"],
            registry=self.registry,
        )
        self.webhooks = Counter(
            "rtcfoci_auth_webhooks",
            "Webhooks of the SFU: heard, refused (signature or form).",
            ["result"],
            registry=self.registry,
        )

    def watch(self, delegations: Delegations) -> None:
        """Tell of the leaves that are watched over, too."""
        self.registry.register(_Leaves(delegations))

    def text(self) -> bytes:
        """Give what Prometheus reads."""
        return generate_latest(self.registry)


class _Leaves(Collector):
    """Reads the engine's own counts when asked, so that it need not know of Prometheus."""

    def __init__(self, delegations: Delegations) -> None:
        self._delegations = delegations

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "rtcfoci_auth_delegations",
            "Leaves that are watched over now.",
            value=len(self._delegations),
        )
        for field, (name, meaning) in _COUNTS.items():
            value = getattr(self._delegations.counts, field)
            yield CounterMetricFamily(f"rtcfoci_auth_{name}", meaning, value=value)
