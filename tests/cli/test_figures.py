"""The figures of a call in the table and in the lines: readable at 100 columns, whole at 80."""

import io
import json
import socket
import sys

import pytest
from rich.console import Console

from rtcfoci.call.stats import FocusStats
from rtcfoci.cli.figures import figures_json, figures_table
from rtcfoci.cli.main import main
from rtcfoci.core.model import Member
from rtcfoci.plugin import PairStats, PathStats

BOB = PairStats(
    member=Member(
        user_id="@bob.with-a-name:matrix.example.org", device_id="ABCDEFGHIJ", member_id="b"
    ),
    state="connected",
    rtt_ms=123.4,
    jitter_ms=4.26,
    loss_received_ratio=0.025,
    loss_sent_ratio=0.0,
    bitrate_received_bps=1_345_678.0,
    bitrate_sent_bps=98_000.0,
    path=PathStats(local="srflx", remote="relay"),
    audio_codec="opus",
    video_codec="VP8",
)
SERVER = PairStats(member=None, state="connected", rtt_ms=9.0)
WAITING = PairStats(
    member=Member(user_id="@carol:hs", device_id="C", member_id="c"), state="waiting"
)
FOCI = (FocusStats("rtcfoci.mesh", "all", (BOB, SERVER, WAITING), {"lag_ms": 0.5}),)


def drawn(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(figures_table(FOCI, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_row_is_a_line_and_no_figure_is_cut(width):
    shown = drawn(width)
    rows = [line for line in shown.splitlines() if "@" in line or "server" in line]
    assert len(rows) == 3
    assert max(map(len, shown.splitlines())) <= width
    for figure in ("123 ", "2.5/0", "1346/98", "srflx-relay udp", "waiting"):
        assert figure in shown
    assert ("opus VP8" in shown) == ("4.3" in shown) == (width == 100)


def test_without_a_pair_there_is_no_table():
    assert figures_table((), 100) is None
    assert figures_table((FocusStats("rtcfoci.relay", "x", (), {}),), 100) is None


def test_the_lines_have_the_names_of_the_contract():
    (focus,) = json.loads(json.dumps(figures_json(FOCI)))
    assert (focus["focus"], focus["extras"]) == ("rtcfoci.mesh", {"lag_ms": 0.5})
    bob, server, waiting = focus["pairs"]
    assert bob["rtt_ms"] == 123.4
    assert bob["path"] == {"local": "srflx", "remote": "relay", "protocol": "udp", "relayed": True}
    assert bob["member"]["device_id"] == "ABCDEFGHIJ"
    assert server["member"] is None
    assert waiting["rtt_ms"] is waiting["path"] is None


OF_MEMORY = ("--plugin", "rtcfoci.testing.memory_types", "--focus", "memory.pairwise")


def told(capsys):
    return capsys.readouterr().err


def test_metrics_without_the_extra_say_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["join", "!r:hs", "--metrics-port", "0", *OF_MEMORY]) == 2
    assert 'pip install "rtcfoci[prometheus]"' in told(capsys)


def test_a_port_that_cannot_be_had_is_said_before_the_homeserver_is_asked(capsys):
    pytest.importorskip("prometheus_client", reason="the extra prometheus is absent")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["join", "!r:hs", "--metrics-port", str(port), *OF_MEMORY]) == 2
    assert f"127.0.0.1:{port}" in told(capsys)
