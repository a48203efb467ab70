"""The figures of calls for Prometheus: one collector, any number of calls.

In: names, labels, their bounds, serving them over HTTP. Out: the figures (`stats`), the counters
(`Call.metrics`). The names are listed in docs/reference/metrics.md; a renamed one breaks dashboards.

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
        self._gauge(
            "participants", "Other members in the session.", _CALL, call, snapshot.participants
        )
        for (code, terminal), count in snapshot.conditions.items():
            self._gauge(
                "conditions",
                "Conditions that hold now, by code.",
                (*_CALL, "code", "terminal"),
                (*call, _label(code), str(terminal).lower()),
                count,
            )
        for name in sorted(snapshot.counters)[:_MAX_COUNTERS]:
            event, _, reason = name.partition(".")
            self._counter(
                "events",
                "What was refused, ignored or dropped, and what else is counted.",
                (*_CALL, "event", "reason"),
                (*call, _label(event), _label(reason)),
                snapshot.counters[name],
            )

    def pair(self, labels: tuple[str, ...], pair: PairStats) -> None:
        def gauge(name: str, what: str, value: float | None, *ways: str) -> None:
            names = (*_PAIR, "direction") if ways else _PAIR
            self._gauge(f"pair_{name}", what, names, (*labels, *ways), value)

        def counter(name: str, what: str, value: float | None, *ways: str) -> None:
            names = (*_PAIR, "direction") if ways else _PAIR
            self._counter(f"pair_{name}", what, names, (*labels, *ways), value)

        gauge("connected", "Whether media can flow.", float(pair.state == "connected"))
        gauge("connect_seconds", "How long the newest connection took.", pair.connect_time_s)
        counter("rebuilds", "Connections after the first.", pair.rebuilt)
        gauge("round_trip_seconds", "There and back.", _seconds(pair.rtt_ms))
        gauge("jitter_seconds", "Of what is received.", _seconds(pair.jitter_ms))
        counter("frames", "Audio frames and pictures handed out.", pair.frames_received)
        counter("frames_concealed", "Frames made up for what was lost.", pair.frames_concealed)
        for way, loss, bitrate, size, packets, lost in (
            ("received", pair.loss_received_ratio, pair.bitrate_received_bps, pair.bytes_received,
             pair.packets_received, pair.packets_received_lost),
            ("sent", pair.loss_sent_ratio, pair.bitrate_sent_bps, pair.bytes_sent,
             pair.packets_sent, pair.packets_sent_lost),
        ):  # fmt: skip
            gauge("loss_ratio", "Media packets lost in the last seconds, 0 to 1.", loss, way)
            gauge("bitrate_bits_per_second", "Of the last seconds.", bitrate, way)
            counter("bytes", "Bytes on the transport.", size, way)
            counter("packets", "Media packets.", packets, way)
            counter("packets_lost", "Media packets that did not arrive.", lost, way)
        path = pair.path
        self._gauge(
            "pair_info",
            "Always 1; the path and the codecs are in the labels.",
            (*_PAIR, "local_candidate", "remote_candidate", "protocol", "relayed", "audio_codec",
             "video_codec"),
            (
                *labels,
                *(map(_label, (path.local, path.remote, path.protocol)) if path else ("", "", "")),
                str(path.relayed).lower() if path else "",
                _label(pair.audio_codec or ""),
                _label(pair.video_codec or ""),
            ),
            1,
        )  # fmt: skip

    def _gauge(
        self, name: str, what: str, names: Iterable[str], labels: Iterable[str], value: float | None
    ) -> None:
        self._add(self._core.GaugeMetricFamily, name, what, names, labels, value)

    def _counter(
        self, name: str, what: str, names: Iterable[str], labels: Iterable[str], value: float | None
    ) -> None:
        self._add(self._core.CounterMetricFamily, name, what, names, labels, value)

    def _add(
        self,
        kind: Callable[..., Any],
        name: str,
        what: str,
        names: Iterable[str],
        labels: Iterable[str],
        value: float | None,
    ) -> None:
        if value is None:  # not known: no sample, rather than a zero that looks measured
            return
        family = self.made.get(name)
        if family is None:
            family = self.made[name] = kind(f"rtcfoci_{name}", what, labels=tuple(names))
        family.add_metric(tuple(labels), float(value))


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


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
