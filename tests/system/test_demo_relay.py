"""`rtcfoci demo` over a type without media whose server it starts itself."""

import json
import socket
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

NAMES = ("ann", "bob", "cem")
RELAY = "rtcfoci relay --homeserver {homeserver} --port "


def demo(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rtcfoci.cli.main", "demo", "--focus", "relay", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def three_lines(done):
    """What an error said: what, why, what to do."""
    # asyncio of Python 3.11 says this of a child that ends while it is being told to.
    said = done.stderr.strip().splitlines()
    lines = [line for line in said if not line.startswith("Unknown child process")]
    assert [line.partition(":")[0] for line in lines] == ["error", "why", "do"], done.stderr
    return lines


@pytest.fixture
def place(port):
    return ("--focus-option", f"relay.url=ws://127.0.0.1:{port}")


def test_three_play_over_a_relay_that_the_demo_starts_and_stops(tmp_path, port, place):
    done = demo(*place, "--with", RELAY + port, "--rooms", "clear", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["ok"]
    found = {(finding["what"], finding["part"]) for finding in verdict["findings"]}
    pairs = {(f"{r} <- {s}", "data") for r in NAMES for s in NAMES if r != s}
    assert found == pairs | {("ann on cem", "membership"), ("bob on cem", "membership")}
    assert not list(tmp_path.glob("clear/*/*.mkv"))
    with pytest.raises(ConnectionRefusedError):  # the relay is gone
        socket.create_connection(("127.0.0.1", int(port)), timeout=5)


def test_a_relay_without_its_option_is_an_error_in_three_lines(tmp_path):
    done = demo("--rooms", "clear", "--out", tmp_path)
    assert done.returncode != 0
    what, why, _ = three_lines(done)
    assert "the configuration of focus type rtcfoci.relay is wrong" in what
    assert "url" in why


def test_a_helper_that_does_not_start_is_an_error_in_three_lines(tmp_path, place):
    done = demo(*place, "--with", "rtcfoci relay --port x", "--rooms", "clear", "--out", tmp_path)
    assert done.returncode != 0
    what, why, _ = three_lines(done)
    assert "did not start" in what
    assert "invalid int value" in why or "required" in why


@pytest.mark.parametrize("command", ["no-such-command --port 1", "", "'unbalanced"])
def test_a_helper_that_cannot_be_run_is_a_usage_error(tmp_path, place, command):
    done = demo(*place, "--with", command, "--rooms", "clear", "--out", tmp_path)
    assert done.returncode == 2
    assert "cannot be run" in three_lines(done)[0]


def test_an_encrypted_room_refuses_what_a_relay_could_read(tmp_path, port, place):
    done = demo(*place, "--with", RELAY + port, "--rooms", "encrypted", "--out", tmp_path)
    assert done.returncode != 0
    what, why, _ = three_lines(done)
    assert "encrypted room" in what
    assert "hop" in why
