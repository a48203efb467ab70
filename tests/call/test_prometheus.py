"""What Prometheus is told: scraped over HTTP, read by the library's own parser."""

import asyncio
import sys
import urllib.request
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from rtcfoci.call.metrics import EXPORTED_METRICS, METRICS, PAIR_METRICS
from rtcfoci.call.prometheus import PrometheusExporter
from rtcfoci.call.stats import FocusStats
from rtcfoci.core.conditions import Conditions
from rtcfoci.core.model import Member, Now, Slot
from rtcfoci.errors import UsageError
from rtcfoci.plugin import PairStats, PathStats

parser = pytest.importorskip("prometheus_client.parser", reason="the extra prometheus is absent")

ALICE = Member(user_id="@alice:hs", device_id="A", member_id="a")
CALL = {"room": "!room:hs", "slot": "m.call#ROOM", "device": "@alice:hs/A"}
PAIR = PairStats(
    member=Member(user_id="@bob:hs", device_id="B", member_id="b"),
    state="connected",
    connect_time_s=0.5,
    rebuilt=2,
    rtt_ms=25.0,
    jitter_ms=4.0,
    loss_received_ratio=0.125,
    bitrate_received_bps=64_000.0,
    bytes_received=1000,
    bytes_sent=500,
    packets_sent_lost=3,
    frames_received=50,
    frames_concealed=4,
    path=PathStats(local="relay", remote="host"),
    audio_codec="opus",
)


class PretendedCall:
    """As much of a call as is exported."""

    def __init__(self, *pairs, member=ALICE):
        self.slot, self.member, self.room_id = Slot(room_id="!room:hs"), member, "!room:hs"
        self.pairs, self.tasks = pairs, []
        self.participants = tuple(range(len(pairs)))
        self.metrics = {
            "signals_refused.expired": 7,
            "events_ignored": 1,
            "rtcfoci.mesh.signals_unsent": 3,
            "sealed_waiting": 4,
        }
        held = Conditions()
        for subject in "xy":
            held.raise_("focus_failed", Now(0.0, 0), cause="secret?", subject=subject)
        self.conditions = tuple(held)

    async def stats(self):
        return (FocusStats("rtcfoci.mesh", "all", self.pairs, {}),)

    def spawn(self, work, *, name):
        self.tasks.append(asyncio.create_task(work, name=name))


async def scrape(*calls):
    """Serve calls, and read what is served as (name, labels without the call's) -> value."""
    exporter = PrometheusExporter()
    port, stop = exporter.serve(0)
    try:
        for call in calls:
            exporter.add(call)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        url = f"http://127.0.0.1:{port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        found = {}
        for family in parser.text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found, f"{key} twice: a scrape of it would fail"
                found[key] = sample.value
        return found, text
    finally:
        for call in calls:
            for task in call.tasks:
                task.cancel()
            await asyncio.gather(*call.tasks, return_exceptions=True)
        await asyncio.to_thread(stop)


def value(found, name, **labels):
    return found[name, frozenset({**CALL, **labels}.items())]


async def test_every_figure_of_a_pair_is_told_in_base_units():
    found, text = await scrape(PretendedCall(PAIR))
    bob = {"focus": "rtcfoci.mesh", "member": "@bob:hs/B"}
    for name, labels, expected in (
        ("connected", {}, 1),
        ("connect_seconds", {}, 0.5),
        ("rebuilds_total", {}, 2),
        ("round_trip_seconds", {}, 0.025),
        ("jitter_seconds", {}, 0.004),
        ("loss_ratio", {"direction": "received"}, 0.125),
        ("bitrate_bits_per_second", {"direction": "received"}, 64_000),
        ("bytes_total", {"direction": "received"}, 1000),
        ("bytes_total", {"direction": "sent"}, 500),
        ("packets_lost_total", {"direction": "sent"}, 3),
        ("frames_total", {}, 50),
        ("frames_concealed_total", {}, 4),
    ):
        assert value(found, f"rtcfoci_pair_{name}", **bob, **labels) == expected
    info = {"local_candidate": "relay", "remote_candidate": "host", "protocol": "udp"}
    info |= {"relayed": "true", "audio_codec": "opus", "video_codec": ""}
    assert value(found, "rtcfoci_pair_info", **bob, **info) == 1
    assert "rtcfoci_pair_loss_ratio{" in text
    assert not [key for key in found if key[0] == "rtcfoci_pair_loss_ratio" and
                ("direction", "sent") in key[1]], "a figure that is not known is told"  # fmt: skip


async def test_exactly_the_published_names_are_told():
    everything = {part.name: 1 for part in fields(PairStats) if part.default is None}
    found, text = await scrape(PretendedCall(replace(PAIR, **{
        name: number for name, number in everything.items() if getattr(PAIR, name) is None
        and not name.endswith("_codec")})))  # fmt: skip
    published = (*EXPORTED_METRICS, *PAIR_METRICS)
    suffix = {"counter": "_total", "gauge": ""}
    assert {name for name, _ in found} == {f"rtcfoci_{m.name}{suffix[m.kind]}" for m in published}
    for metric in published:
        assert f"# HELP rtcfoci_{metric.name}{suffix[metric.kind]} {metric.what}" in text


async def test_every_counter_of_a_call_is_told_even_if_it_is_zero():
    found, _ = await scrape(PretendedCall())
    told = {
        ".".join(filter(None, (dict(labels)["event"], dict(labels)["reason"])))
        for name, labels in found
        if name == "rtcfoci_events_total"
    }
    counters = {name for name, metric in METRICS.items() if metric.kind == "counter"}
    assert told == {*counters, "rtcfoci.mesh.signals_unsent"}
    unsent = value(found, "rtcfoci_events_total", event="rtcfoci.mesh", reason="signals_unsent")
    assert unsent == 3


async def test_counters_and_conditions_of_the_call_are_told():
    found, text = await scrape(PretendedCall())
    assert value(found, "rtcfoci_participants") == 0
    assert value(found, "rtcfoci_sealed_waiting") == 4
    refused = value(found, "rtcfoci_events_total", event="signals_refused", reason="expired")
    assert refused == 7
    assert value(found, "rtcfoci_events_total", event="events_ignored", reason="") == 1
    assert value(found, "rtcfoci_conditions", code="focus_failed", terminal="false") == 2
    assert "secret" not in text


async def test_several_calls_share_one_exporter_and_a_call_that_ended_is_gone():
    other = Member(user_id="@alice:hs", device_id="OTHER", member_id="a")
    exporter = PrometheusExporter()
    found, _ = await scrape(PretendedCall(PAIR), PretendedCall(PAIR, member=other))
    assert value(found, "rtcfoci_participants", device="@alice:hs/OTHER") == 1
    assert value(found, "rtcfoci_participants") == 1
    call = PretendedCall(PAIR)
    exporter.add(call)
    await asyncio.sleep(0)
    assert list(exporter.collect())
    call.tasks[0].cancel()
    await asyncio.wait(call.tasks)
    assert not list(exporter.collect())


async def test_what_strangers_chose_is_bounded_and_breaks_no_scrape():
    hostile = [
        Member(user_id="@m:hs", device_id=text, member_id=str(number))
        for number, text in enumerate(['"}\n# x', "\ud800", "x" * 5000, "same", "same"])
    ]
    crowd = [Member(user_id="@m:hs", device_id=f"{n}", member_id=f"{n}") for n in range(2000)]
    pairs = [PairStats(member=member, state="waiting") for member in (*hostile, *crowd)]
    found, _ = await scrape(PretendedCall(*pairs))
    connected = [key for key in found if key[0] == "rtcfoci_pair_connected"]
    assert 200 < len(connected) <= 256
    assert max(len(dict(labels)["member"]) for _, labels in connected) <= 255


async def test_only_this_machine_is_served_and_a_taken_port_is_said_with_a_remedy():
    exporter = PrometheusExporter()
    port, stop = exporter.serve(0)
    try:
        with pytest.raises(UsageError) as error:
            exporter.serve(port)
        assert str(port) in error.value.what
        assert error.value.do
        with pytest.raises(UsageError):
            exporter.serve(99_999)
    finally:
        await asyncio.to_thread(stop)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError) as error:
        PrometheusExporter()
    assert "rtcfoci[prometheus]" in error.value.do


def test_a_pretended_call_has_what_a_call_has():
    from rtcfoci.call.call import Call

    pretended = SimpleNamespace(**vars(PretendedCall()))
    for name in vars(pretended):
        if name not in {"pairs", "tasks"}:
            assert hasattr(Call, name) or name in {"slot", "member"}
