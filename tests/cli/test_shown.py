"""What strangers write is shown and filed as text, and commands neither terminal nor file system."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from rtcfoci.call import events as ev
from rtcfoci.call.remotes import Participant
from rtcfoci.cli.monitor import JsonReporter, TableReporter
from rtcfoci.cli.options import print_error
from rtcfoci.cli.recordings import Recordings
from rtcfoci.cli.watch import _JsonLines, _LiveTable
from rtcfoci.core.conditions import Conditions
from rtcfoci.core.model import FocusSelection, Member, Membership, Now, Slot, SlotStatus, Transport
from rtcfoci.errors import RtcfociError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import RemoteTrack, TrackId

HOSTILE = ["[/nothing]", "\x1b]0;title\x07", "[bold]", "\ud800", "a\nb", "\x9b2J"]
SLOT = Slot(room_id="!room:hs")


def member(text):
    return Member(user_id="@mallory:hs", device_id=text, member_id=text)


def membership(text):
    return Membership(
        member=member(text),
        slot_id=SLOT.slot_id,
        transports=(Transport(text, {"type": text}),),
        can_subscribe=None,
        focus_selection=FocusSelection.OWN,
        application={},
        created_ts_ms=-(10**18),
        expires_ts_ms=10**18,
        dialect="D3",
        event_id="$e",
        room_id=SLOT.room_id,
    )


def track(text):
    return RemoteTrack(TrackId(member(text), text, text), Kind.AUDIO)


def conditions(text):
    found = Conditions()
    found.raise_("focus_failed", Now(0.0, 0), cause=text, subject=text, what=text, remedy=text)
    return tuple(found)


def call(text):
    return SimpleNamespace(
        slot=SLOT,
        room_id=SLOT.room_id,
        focus_type="x",
        participants=(
            Participant(membership(text), lambda *_: None),
            Participant(membership(text + "2"), lambda *_: None),
        ),
        conditions=conditions(text),
    )


def events(text):
    (condition,) = conditions(text)
    return (
        ev.ParticipantJoined(Participant(membership(text), lambda *_: None)),
        ev.TrackAdded(track(text)),
        ev.ConditionRaised(condition),
        ev.ParticipantLeft(Participant(membership(text), lambda *_: None), "left"),
    )


def harmless(shown):
    shown.encode()
    assert not [char for char in shown if not char.isprintable() and char != "\n"]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_table_of_a_call(text, monkeypatch):
    reporter = TableReporter(call(text))
    reporter._console = Console(file=io.StringIO(), width=200)
    for event in events(text):
        reporter.on_event(event)
    reporter._console.print(reporter._table())
    shown = reporter._console.file.getvalue()
    harmless(shown)
    if text.startswith("["):
        assert shown.count(text) > 8
    reporter.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_the_lines_of_a_call(text):
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    reporter = JsonReporter(call(text), out)
    for event in events(text):
        reporter.on_event(event)
    reporter.tick()
    out.seek(0)
    assert [json.loads(line)["event"] for line in out][-1] == "Status"
    reporter.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_what_watch_shows(text, capsys):
    session = SimpleNamespace(slot_status=SlotStatus.OPEN, members=(membership(text),))
    table = _LiveTable(SLOT)
    table._console = Console(file=io.StringIO(), width=200)
    table.update(session)
    shown = table._console.file.getvalue()
    harmless(shown)
    if text.startswith("["):
        assert shown.count(text) == 2
    _JsonLines(SLOT).update(session)
    line = capsys.readouterr().out
    line.encode()
    assert json.loads(line)["members"][0]["device_id"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error(text):
    out = io.StringIO()
    print_error(RtcfociError(text, why=text, do=text), as_json=False, out=out)
    harmless(out.getvalue())
    assert len(out.getvalue().splitlines()) == 3


@pytest.mark.parametrize("text", [*HOSTILE, "../../x", "\u6f22" * 200, "", "."])
def test_the_files_of_a_recording(text, tmp_path):
    recordings = Recordings(tmp_path, pytest.fail)
    for payload in (b'{"n": 1}', b"[" * 50_000, b"\xff", b'"\\ud800"', b"1" * 9000):
        recordings.note(member(text), payload)
    for log in recordings._logs.values():
        log.close()
    (path,) = tmp_path.rglob("*")
    assert path.parent == tmp_path
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[0]) == {"n": 1}
    assert json.loads(lines[1]) == {"hex": (b"[" * 50_000).hex()}
