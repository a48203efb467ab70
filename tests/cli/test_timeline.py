"""`rtcfoci timeline`: its files, and what is said of those that are none."""

import io
import json
import sys
from pathlib import Path

import pytest

from rtcfoci.cli.main import main
from tests.cli.test_session import joined, state

CALL = Path(__file__).parents[1] / "lab/call.jsonl"
BEGINS = {"svg": "<svg ", "html": "<!doctype html>", "txt": "!room:hs\n"}


@pytest.fixture
def room(tmp_path):
    path = tmp_path / "room.json"
    events = [joined("@ann:hs"), state("@ann:hs", "$ann")]
    path.write_text(json.dumps({"room_id": "!room:hs", "events": events}))
    return path


@pytest.mark.parametrize("ending", BEGINS)
def test_the_name_says_the_form(room, tmp_path, capsys, ending):
    out = tmp_path / f"out.{ending}"
    assert main(["timeline", str(room), "-o", str(out)]) == 0
    assert out.read_text().startswith(BEGINS[ending])
    assert "@ann:hs/DEV" in out.read_text()
    assert capsys.readouterr().out == ""


def test_of_a_recording_and_of_standard_input(tmp_path, monkeypatch, capsys):
    out = tmp_path / "call.TXT"
    assert main(["--json", "timeline", str(CALL), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"picture": str(out)}
    text = out.read_text()
    assert "our delayed leave" in text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CALL.read_bytes())))
    assert main(["timeline", "-", "-o", str(out)]) == 0
    assert out.read_text() == text


def test_the_policy_is_that_of_session(room, tmp_path):
    out = tmp_path / "out.txt"
    assert main(["timeline", str(room), "-o", str(out), "--policy", "strict"]) == 0
    assert "policy strict" in out.read_text()
    assert "m.call#ROOM: nobody" in out.read_text()


@pytest.mark.parametrize(
    ("text", "out", "said"),
    [
        ("{", "out.svg", "The file cannot be used."),
        ("[]", "out.svg", "The file cannot be used."),
        ('{"room_id": "!r:hs", "events": []}', "out.png", "is no form of picture"),
        ('{"room_id": "!r:hs", "events": []}', "out", "is no form of picture"),
        ('{"room_id": "!r:hs", "events": []}', "nowhere/out.svg", "cannot be written"),
        ('{"rtcfoci_trace":2}\n', "out.svg", "another version"),
        ('{"rtcfoci_trace":1,"dialects":[]}\n', "out.svg", "cannot be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, capsys, text, out, said):
    path = tmp_path / "file"
    path.write_text(text)
    assert main(["--json", "timeline", str(path), "-o", str(tmp_path / out)]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert said in error["what"]
    assert error["why"]
    assert error["do"]
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["timeline", str(tmp_path / "none"), "-o", str(tmp_path / "out.svg")]) == 2
    assert "cannot be read" in capsys.readouterr().err
