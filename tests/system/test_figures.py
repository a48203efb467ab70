"""The figures of a real call: in the JSON lines, on a terminal of 100 columns, and for Prometheus."""

import asyncio
import os
import pty
import re
import subprocess
import sys
import urllib.request

import pytest

from tests.system.participants import Participant, cast

parser = pytest.importorskip("prometheus_client.parser", reason="the extra prometheus is absent")
pytestmark = [pytest.mark.system, pytest.mark.timeout(150)]
COLUMNS = 100


def scraped(url):
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    return {
        (sample.name, sample.labels.get("direction", "")): sample
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if "member" in sample.labels
    }


async def test_a_call_is_measured_on_screen_in_lines_and_for_prometheus(
    synapse, alice, bob, room_id, tmp_path
):
    async with cast() as started:
        ann = await Participant.start(
            synapse, alice, room_id, tmp_path / "ann", "--source", "tone", "--metrics-port", "0"
        )
        started.append(ann)
        screen = Screen(synapse, bob, room_id, tmp_path / "bob")
        try:
            name = f"{bob.user_id}/"
            await ann.until(lambda: figures(ann), "there are figures of bob", 40)
            await ann.until(
                lambda: (
                    figures(ann)["rtt_ms"] and (figures(ann)["bitrate_received_bps"] or 0) > 20_000
                ),
                "they are measured",
            )
            told = figures(ann)
            assert told["state"] == "connected"
            assert told["path"] == {
                "local": "host", "remote": "host", "protocol": "udp", "relayed": False,
            }  # fmt: skip
            assert told["audio_codec"] == "opus"
            assert 0 <= told["rtt_ms"] < 1000
            assert told["loss_received_ratio"] < 0.5

            url = re.search(r"http://127\.0\.0\.1:\d+/metrics", ann.log.read_text())[0]
            found = await asyncio.to_thread(scraped, url)
            assert found["rtcfoci_pair_connected", ""].labels["member"].startswith(name)
            assert found["rtcfoci_pair_connected", ""].value == 1
            assert 0 < found["rtcfoci_pair_round_trip_seconds", ""].value < 1
            assert found["rtcfoci_pair_bitrate_bits_per_second", "received"].value > 20_000
            assert found["rtcfoci_pair_packets_total", "sent"].value > 10
            assert found["rtcfoci_pair_info", ""].labels["audio_codec"] == "opus"

            await ann.until(lambda: re.search(r"host udp +opus", screen.text), "bob's screen tells")
            assert "in/out" in screen.text
        finally:
            screen.close()
        assert await ann.stop() == 0


def figures(participant):
    for focus in participant.status.get("stats", ()):
        for pair in focus["pairs"]:
            return pair
    return None


class Screen:
    """`rtcfoci join` on a terminal."""

    def __init__(self, synapse, person, room_id, folder):
        folder.mkdir()
        (folder / "password").write_text("password")
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "rtcfoci.cli.main", "join", room_id]
        command += ["--homeserver", synapse.base_url, "--user", person.user_id]
        command += ["--password-file", str(folder / "password")]
        command += ["--device-store", str(folder / "device"), "--source", "tone"]
        command += ["--focus-option", "mesh.loopback=true"]
        env = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "xterm"}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env
        )
        os.close(theirs)
        self._shown = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._ours, self._read)

    def _read(self):
        try:
            self._shown += os.read(self._ours, 65536)
        except OSError:  # the process has ended
            self._loop.remove_reader(self._ours)

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode(errors="replace"))

    def close(self):
        self._process.terminate()
        self._loop.remove_reader(self._ours)
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            os.close(self._ours)
