"""The figures of calls for Prometheus: one collector, any number of calls.

In: labels, their bounds, serving them over HTTP. Out: the names (`metrics`), the figures (`stats`), the
counters (`Call.metrics`).

A scrape comes from a thread of its own and must neither wait for the call's loop nor touch it, so it
reads the newest snapshot, which the loop renews every second. Needs the extra `prometheus`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtcfoci.call.metrics import EXPORTED_METRICS, METRICS, PAIR_METRICS, ExportedMetric
from rtcfoci.errors import UsageError
from rtcfoci.plugin.stats import PairStats

if TYPE_CHECKING:
    from rtcfoci.call.call import Call
    from rtcfoci.call.stats import FocusStats

__all__ = ["PrometheusExporter"]

_EVERY_S = 1.0
_MAX_PAIRS = 256
"""Of one call: every member is a set of series, and anybody in the room can be a member."""
_MAX_COUNTERS = 200
"""Of those that backends name."""
_MAX_LABEL = 255
_CALL = ("room", "slot", "device")
_PAIR = (*_CALL, "focus", "member")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    participants: int
    conditions: Mapping[tuple[str, bool], int]
    counters: Mapping[str, int]
    foci: tuple[FocusStats, ...]


class PrometheusExporter:
    """A collector for `prometheus_client`, to which calls are added.

    ::

        exporter = PrometheusExporter()
        prometheus_client.REGISTRY.register(exporter)
        exporter.add(call)

    :raises UsageError: when the extra is not installed.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._snapshots: dict[tuple[str, ...], _Snapshot] = {}

    def add(self, call: Call) -> None:
        """Export a call from now on, until it ends."""
        call.spawn(self._follow(call), name="prometheus")

    def serve(self, port: int, address: str = "127.0.0.1") -> tuple[int, Callable[[], None]]:
        """Serve `/metrics`; gives the port (0: any free one) and what ends it.

        :raises UsageError: when the port cannot be had.
        """
        registry = self._library.CollectorRegistry()
        registry.register(self)
        try:
            server, thread = self._library.start_http_server(port, address, registry)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"metrics cannot be served on {address}:{port}",
                why=getattr(error, "strerror", None) or str(error),
                do="choose another port, or 0 for any",
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, stop

    async def _follow(self, call: Call) -> None:
        device = f"{call.member.user_id}/{call.member.device_id}"
        key = tuple(map(_label, (call.room_id, call.slot.slot_id, device)))
        try:
            while True:
                foci = await call.stats()
                self._snapshots[key] = _Snapshot(
                    participants=len(call.participants),
                    conditions=Counter((c.code, c.terminal) for c in call.conditions),
                    counters=call.metrics,
                    foci=foci,
                )
                await asyncio.sleep(_EVERY_S)
        finally:
            self._snapshots.pop(key, None)

    def describe(self) -> Iterable[Any]:
        """Name no family beforehand: registering must not need a call."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Give the families, from any thread."""
        families = _Families(self._library)
        for call, snapshot in tuple(self._snapshots.items()):
            families.call(call, snapshot)
            pairs = {
                (*call, _label(focus.focus_type), _label(str(pair.member or ""))): pair
                for focus in snapshot.foci
                for pair in focus.pairs[:_MAX_PAIRS]
            }
            for labels, pair in tuple(pairs.items())[:_MAX_PAIRS]:
                families.pair(labels, pair)
        yield from families.made.values()


class _Families:
    """The families of one scrape."""

    def __init__(self, library: ModuleType) -> None:
        self._core = library.core
        self.made: dict[str, Any] = {}

    def call(self, call: tuple[str, ...], snapshot: _Snapshot) -> None:
        participants, conditions, waiting, events = EXPORTED_METRICS
        self._add(participants, _CALL, call, snapshot.participants)
        for (code, terminal), count in snapshot.conditions.items():
            labels = (*call, _label(code), str(terminal).lower())
            self._add(conditions, _CALL, labels, count)
        self._add(waiting, _CALL, call, snapshot.counters.get(waiting.name, 0))
        own = [name for name in snapshot.counters if name not in METRICS]
        published = [name for name, metric in METRICS.items() if metric.kind == "counter"]
        for name in (*published, *sorted(own)[:_MAX_COUNTERS]):
            # The name of a focus type has dots itself.
            event, _, reason = name.rpartition(".") if "." in name else (name, "", "")
            labels = (*call, _label(event), _label(reason))
            self._add(events, _CALL, labels, snapshot.counters.get(name, 0))

    def pair(self, labels: tuple[str, ...], pair: PairStats) -> None:
        for metric in PAIR_METRICS:
            for ways, read in metric.reads:
                self._add(metric, _PAIR, (*labels, *ways), read(pair))
        path = pair.path
        told = (path.local, path.remote, path.protocol) if path else ("", "", "")
        relayed = str(path.relayed).lower() if path else ""
        codecs = (pair.audio_codec or "", pair.video_codec or "")
        self._add(PAIR_METRICS[-1], _PAIR, (*labels, *map(_label, (*told, relayed, *codecs))), 1)

    def _add(
        self,
        metric: ExportedMetric,
        of: tuple[str, ...],
        labels: Iterable[str],
        value: float | None,
    ) -> None:
        if value is None:  # not known: no sample, rather than a zero that looks measured
            return
        family = self.made.get(metric.name)
        if family is None:
            kind = (
                self._core.CounterMetricFamily
                if metric.kind == "counter"
                else self._core.GaugeMetricFamily
            )
            family = self.made[metric.name] = kind(
                f"rtcfoci_{metric.name}", metric.what, labels=(*of, *metric.labels)
            )
        family.add_metric(tuple(labels), float(value))


def _label(text: str) -> str:
    """Strangers choose names: bounded, printable, and what UTF-8 can write."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_LABEL])


def _library() -> ModuleType:
    try:
        library = importlib.import_module("prometheus_client")
        importlib.import_module("prometheus_client.core")
    except ImportError as error:
        raise UsageError(
            "metrics cannot be exported for Prometheus",
            why="the library prometheus_client is not installed",
            do='pip install "rtcfoci[prometheus]"',
        ) from error
    return library
