"""The published names of everything that is counted or measured of a call.

In: the tables, from which `Call.metrics`, the export (`prometheus`) and the page of the documentation are
made. Out: who counts (the parts of a call), and the figures themselves (`stats`).

Tools may rely on the names. A focus type counts under its own: `rtcfoci.mesh.signals_failed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Literal, TypeAlias

from rtcfoci.core.key_messages import KeyRefusal
from rtcfoci.core.signals import Refusal
from rtcfoci.plugin.stats import PairStats

__all__ = [
    "CALL_METRICS",
    "EXPORTED_METRICS",
    "METRICS",
    "PAIR_METRICS",
    "SHARED_METRICS",
    "ExportedMetric",
    "Metric",
    "MetricKind",
]

MetricKind: TypeAlias = Literal["counter", "gauge"]
_Read: TypeAlias = Callable[[PairStats], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of `Call.metrics`: a counter, or what is so now."""

    name: str
    """What stands behind a dot is the reason."""
    unit: str
    what: str
    kind: MetricKind = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMetric:
    """One family that Prometheus is given."""

    name: str
    kind: MetricKind
    unit: str
    what: str
    labels: tuple[str, ...] = ()
    """Beside those of the call, or of the pair."""
    reads: tuple[tuple[tuple[str, ...], _Read], ...] = ()
    """Of a pair: values of the labels, and how the figure is read."""


_REFUSED: Mapping[Refusal, str] = {
    Refusal.MALFORMED: "It cannot be read.",
    Refusal.OTHER_ROOM: "It is for another room.",
    Refusal.OTHER_SLOT: "It is for another slot.",
    Refusal.NOT_FOR_US: "It is for another device, or for an earlier join of ours.",
    Refusal.NOT_ENCRYPTED: "It came in clear in an encrypted room.",
    Refusal.OTHER_USER: "It was sent by another user than it claims.",
    Refusal.OTHER_DEVICE: "It was encrypted by another device than it claims.",
    Refusal.EXPIRED: "Its time was over.",
    Refusal.WRONG_CLOCK: "It was sent in our future.",
    Refusal.DUPLICATE: "It had come before.",
    Refusal.TOO_MANY: "More were waiting of its sender than are kept.",
    Refusal.NOT_A_MEMBER: "Its sender never joined.",
}

_KEYS_REFUSED: Mapping[KeyRefusal, str] = {
    KeyRefusal.MALFORMED: "It cannot be read.",
    KeyRefusal.BAD_INDEX: "Its index is not within 0 and 255.",
    KeyRefusal.BAD_KEY: "It is not base64.",
    KeyRefusal.WRONG_LENGTH: "It is not of 16 to 64 bytes.",
    KeyRefusal.UNKNOWN_FORMAT: "It is in a format that is not known.",
    KeyRefusal.OTHER_ROOM: "It is for another room.",
    KeyRefusal.OTHER_SLOT: "It is for another slot.",
    KeyRefusal.NOT_ENCRYPTED: "It came in clear.",
    KeyRefusal.OTHER_DEVICE: "It was encrypted by another device than it claims.",
    KeyRefusal.UNTRUSTED: "Its device is not cross-signed, which is required.",
    KeyRefusal.OUTDATED: "It was sent before the one of its index that we hold.",
    KeyRefusal.TOO_MANY: "More were waiting for members to join than are kept.",
    KeyRefusal.NOT_A_MEMBER: "Its sender never joined.",
}

CALL_METRICS: tuple[Metric, ...] = (
    *(
        Metric(name=f"signals_refused.{reason.value}", unit="signals", what=what)
        for reason, what in _REFUSED.items()
    ),
    Metric(
        name="signals_refused.untrusted",
        unit="signals",
        what="Its device is not cross-signed, which is required.",
    ),
    Metric(
        name="signals_refused.no_such_focus",
        unit="signals",
        what="It is for a focus that we are not on.",
    ),
    Metric(
        name="events_ignored",
        unit="events",
        what="Membership events that were not understood.",
    ),
    Metric(
        name="sealed_waiting",
        unit="events",
        what="Encrypted events of the room that wait for their key, now.",
        kind="gauge",
    ),
    Metric(
        name="sealed_dropped",
        unit="events",
        what="Encrypted events that were given up, since more were waiting than are kept.",
    ),
    Metric(
        name="sealed_refused",
        unit="events",
        what="Encrypted events that came again, or are of another room.",
    ),
    Metric(
        name="sealed_unbound",
        unit="events",
        what="Encrypted events that no known device of their sender encrypted.",
    ),
    Metric(
        name="events_dropped",
        unit="events",
        what="Data and speaking events that nobody read in time.",
    ),
    Metric(
        name="keys_sent", unit="messages", what="Media keys that the homeserver took for a device."
    ),
    Metric(
        name="key_sends_failed",
        unit="messages",
        what="Media keys that could not be sent, each time that it was tried.",
    ),
    Metric(name="keys_rotated", unit="keys", what="Media keys of ours, after the first."),
    Metric(name="keys_received", unit="messages", what="Media keys that were taken."),
    Metric(
        name="keys_early", unit="messages", what="Media keys that came before their member did."
    ),
    *(
        Metric(name=f"keys_refused.{reason.value}", unit="messages", what=what)
        for reason, what in _KEYS_REFUSED.items()
    ),
    Metric(
        name="keys_missing",
        unit="reports",
        what="Media that could not be decrypted, since its media key had not come.",
    ),
    Metric(
        name="keys_failed",
        unit="reports",
        what="Media that did not open with the media key that its sender gave.",
    ),
)
"""What every call counts."""
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in CALL_METRICS})
"""The same by name: each is in `Call.metrics` from the join on."""
SHARED_METRICS: tuple[Metric, ...] = (
    Metric(
        name="signals_failed", unit="signals", what="Signals at which the backend raised an error."
    ),
    Metric(name="signals_refused", unit="signals", what="Signals that the backend refused."),
    Metric(
        name="keys_failed", unit="keys", what="Media keys at which the backend raised an error."
    ),
    Metric(name="signals_unsent", unit="signals", what="Signals that the homeserver did not take."),
    Metric(name="malformed", unit="messages", what="Messages of the focus that could not be read."),
    Metric(
        name="others",
        unit="events",
        what="Whatever came after 500 different names had been counted in the call.",
    ),
)
"""What focus types count, each under its own name. One that counts more says so in its documentation."""

_RECEIVED, _SENT = ("received",), ("sent",)


def _connected(pair: PairStats) -> float:
    return float(pair.state == "connected")


def _seconds(name: str) -> _Read:
    def read(pair: PairStats) -> float | None:
        value: float | None = getattr(pair, name)
        return None if value is None else value / 1000

    return read


def _gauge(name: str, unit: str, what: str, read: _Read) -> ExportedMetric:
    return ExportedMetric(name=name, kind="gauge", unit=unit, what=what, reads=(((), read),))


def _counter(name: str, unit: str, what: str, read: _Read) -> ExportedMetric:
    return ExportedMetric(name=name, kind="counter", unit=unit, what=what, reads=(((), read),))


def _both_ways(
    name: str, kind: MetricKind, unit: str, what: str, received: str, sent: str
) -> ExportedMetric:
    return ExportedMetric(
        name=name,
        kind=kind,
        unit=unit,
        what=what,
        labels=("direction",),
        reads=((_RECEIVED, attrgetter(received)), (_SENT, attrgetter(sent))),
    )


EXPORTED_METRICS: tuple[ExportedMetric, ...] = (
    ExportedMetric(
        name="participants", kind="gauge", unit="members", what="Other members in the session."
    ),
    ExportedMetric(
        name="conditions",
        kind="gauge",
        unit="conditions",
        what="Conditions that hold now.",
        labels=("code", "terminal"),
    ),
    ExportedMetric(
        name="sealed_waiting",
        kind="gauge",
        unit="events",
        what="Encrypted events of the room that wait for their key.",
    ),
    ExportedMetric(
        name="events",
        kind="counter",
        unit="events",
        what="The counters of `call.metrics`.",
        labels=("event", "reason"),
    ),
)
"""Of a call."""
PAIR_METRICS: tuple[ExportedMetric, ...] = (
    _gauge("pair_connected", "", "1 while media can flow, else 0.", _connected),
    _gauge(
        "pair_connect_seconds",
        "seconds",
        "How long the newest connection took.",
        attrgetter("connect_time_s"),
    ),
    _counter(
        "pair_rebuilds", "connections", "Connections after the first.", attrgetter("rebuilt")
    ),
    _gauge("pair_round_trip_seconds", "seconds", "There and back.", _seconds("rtt_ms")),
    _gauge("pair_jitter_seconds", "seconds", "Of what is received.", _seconds("jitter_ms")),
    _both_ways(
        "pair_loss_ratio", "gauge", "ratio", "Media packets lost in the last seconds, 0 to 1.",
        "loss_received_ratio", "loss_sent_ratio",
    ),
    _both_ways(
        "pair_bitrate_bits_per_second", "gauge", "bits a second",
        "Everything on the transport, in the last seconds.",
        "bitrate_received_bps", "bitrate_sent_bps",
    ),
    _both_ways(
        "pair_bytes", "counter", "bytes", "Everything on the transport.",
        "bytes_received", "bytes_sent",
    ),
    _both_ways(
        "pair_packets", "counter", "packets", "Media packets.",
        "packets_received", "packets_sent",
    ),
    _both_ways(
        "pair_packets_lost", "counter", "packets", "Media packets that did not arrive.",
        "packets_received_lost", "packets_sent_lost",
    ),
    _counter(
        "pair_frames", "frames", "Audio frames and pictures handed out.",
        attrgetter("frames_received"),
    ),
    _counter(
        "pair_frames_concealed", "frames", "Those that were made up for what was lost.",
        attrgetter("frames_concealed"),
    ),
    ExportedMetric(
        name="pair_info",
        kind="gauge",
        unit="",
        what="Always 1; the path and the codecs are in the labels.",
        labels=("local_candidate", "remote_candidate", "protocol", "relayed", "audio_codec",
                "video_codec"),
    ),
)  # fmt: skip
"""Of a pair: what is between us and a member, or a focus's server."""
