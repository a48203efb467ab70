"""Figures of a pair: of the last seconds, and over every connection there was."""

from __future__ import annotations

import pytest
from rtcfoci_mesh.engine import SessionStats, Totals
from rtcfoci_mesh.meter import WINDOW_S, Meter

from rtcfoci.core.model import Member
from rtcfoci.plugin import PairStats, PathStats

BOB = Member(user_id="@bob:hs", device_id="B", member_id="bob")


def figures(meter: Meter, rtt_ms: float | None = None) -> PairStats:
    return meter.figures(BOB, state="connected", rebuilt=0, rtt_ms=rtt_ms, extras={})


def counted(**totals: int) -> SessionStats:
    return SessionStats(totals=Totals(**totals))


def test_before_anything_is_counted_nothing_is_known() -> None:
    found = figures(Meter())
    assert found.rtt_ms is found.bitrate_sent_bps is found.loss_sent_ratio is None
    assert found.path is found.connect_time_s is None


def test_rates_are_of_the_last_seconds_and_not_since_the_beginning() -> None:
    meter = Meter()
    for tick in range(41):  # 20 s of 1,000 bytes a second and then 20 s of 5,000
        received = 1000 * min(tick, 20) + 5000 * max(0, tick - 20)
        meter.take(counted(bytes_received=received, bytes_sent=2000 * tick), float(tick))
    found = figures(meter)
    assert found.bitrate_received_bps == pytest.approx(8 * 5000)
    assert found.bitrate_sent_bps == pytest.approx(8 * 2000)
    assert (found.bytes_received, found.bytes_sent) == (120_000, 80_000)


def test_the_window_is_spanned_however_often_it_is_asked() -> None:
    meter = Meter()
    for half in range(40):
        meter.take(counted(bytes_sent=500 * half), half / 2)
        for _ in range(5):
            figures(meter)
    (begin_s, _), (end_s, _) = meter._window[0], meter._window[-1]
    assert end_s - begin_s == WINDOW_S
    assert figures(meter).bitrate_sent_bps == 8000


def test_loss_of_both_directions_is_of_the_last_seconds() -> None:
    meter = Meter()
    meter.take(counted(packets_received=1000, packets_received_lost=500, packets_sent=1000), 0.0)
    meter.take(
        counted(
            packets_received=1090,
            packets_received_lost=510,
            packets_sent=1100,
            packets_sent_lost=25,
        ),
        2.0,
    )
    found = figures(meter)
    assert found.loss_received_ratio == pytest.approx(0.1)
    assert found.loss_sent_ratio == pytest.approx(0.25)
    assert (found.packets_received_lost, found.packets_sent_lost) == (510, 25)


def test_packets_that_come_late_make_no_negative_loss() -> None:
    meter = Meter()
    meter.take(counted(packets_received=100, packets_received_lost=10), 0.0)
    meter.take(counted(packets_received=150, packets_received_lost=5), 1.0)
    assert figures(meter).loss_received_ratio == 0.0


def test_counts_go_on_over_a_rebuilt_connection_and_measurements_do_not() -> None:
    meter = Meter()
    meter.opened(0.0)
    meter.connected(0.25)
    path = PathStats(local="host", remote="host")
    meter.take(SessionStats(totals=Totals(bytes_sent=700), path=path, jitter_ms=3.0), 1.0)
    assert figures(meter).connect_time_s == 0.25
    meter.ended()
    gone = figures(meter)
    assert (gone.bytes_sent, gone.path, gone.jitter_ms, gone.bitrate_sent_bps) == (
        700,
        None,
        None,
        None,
    )
    meter.opened(10.0)
    meter.take(counted(bytes_sent=100), 11.0)
    again = figures(meter)
    assert (again.bytes_sent, again.connect_time_s) == (800, None)


def test_concealed_frames_count_as_frames_too() -> None:
    meter = Meter()
    for concealed in (False, True, False):
        meter.frame(concealed=concealed)
    assert (figures(meter).frames_received, figures(meter).frames_concealed) == (3, 1)


def test_our_own_round_trip_is_preferred_to_the_engines() -> None:
    meter = Meter()
    meter.take(SessionStats(rtt_ms=80.0), 0.0)
    assert figures(meter).rtt_ms == 80.0
    assert figures(meter, rtt_ms=20.0).rtt_ms == 20.0
