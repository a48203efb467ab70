"""Calls that are recorded, and replayed byte for byte."""

import asyncio
import json

import pytest

from rtcfoci.call.join import join
from rtcfoci.cli.main import main
from rtcfoci.core.model import Now
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby

PLUGIN = ("--plugin", "rtcfoci.testing.memory_types")


@pytest.fixture
def recorded(tmp_path):
    """The recording of a call with a peer, an outage and a guest who vanishes, and the secrets of it."""
    path, secrets = tmp_path / "call.jsonl", []

    async def main():
        async with Lobby() as lobby:
            client, line = await lobby.client("me")
            schedule = client.schedule_delayed

            async def noted(*args, **kwargs):
                secrets.append(await schedule(*args, **kwargs))
                return secrets[-1]

            client.schedule_delayed = noted
            secrets.append(lobby._people["me"].access_token)
            async with join(
                client,
                lobby.room_id,
                foci=lobby.foci,
                plugins=lobby.plugins,
                now=lobby.now,
                trace=path,
            ) as call:
                ann = await lobby.peer("ann")
                await ann.publish(Kind.AUDIO)
                await ann.until(lambda: call.tracks)
                await client.send_event(
                    lobby.room_id, "m.room.message", {"body": "a private word"}, txn_id="1"
                )
                line.cut = True
                await asyncio.sleep(40)
                line.cut = False
                await asyncio.sleep(10)
                await ann.vanish()
                await asyncio.sleep(30)

    run(main())
    return path, secrets


def replayed(path, capsys, code=0):
    assert main([*PLUGIN, "--json", "replay", str(path)]) == code
    return json.loads(capsys.readouterr().out)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_recorded_call_has_the_same_effects_again(recorded, capsys):
    path, secrets = recorded
    found = replayed(path, capsys)
    last = records(path)[-1]
    assert found["equal"]
    assert found["complete"]
    assert last["end"] == {"inputs": found["inputs"], "effects": found["effects"]}
    kinds = {record["effect"]["is"] for record in records(path) if "effect" in record}
    assert {
        "ScheduleLeave", "SendMembership", "RestartLeave", "MemberJoined", "MemberLeft", "RaiseCondition",
        "Condition",
    } <= kinds  # fmt: skip
    text = path.read_text()
    assert len(secrets) >= 2
    assert not [secret for secret in secrets if secret in text]
    assert '"delay_id":"delay-1"' in text
    assert "a private word" not in text
    assert main([*PLUGIN, "replay", str(path)]) == 0
    said = f"{found['inputs']} inputs, {found['effects']} effects, equal\n"
    assert capsys.readouterr().out == said


def test_a_recording_that_breaks_off_is_replayed_as_far_as_it_goes(recorded, capsys, tmp_path):
    whole = recorded[0].read_text()
    cut = tmp_path / "cut.jsonl"
    for share in (0.5, 0.9, 0.999):
        cut.write_text(whole[: int(len(whole) * share)])
        found = replayed(cut, capsys)
        assert (found["equal"], found["complete"]) == (True, False)
        assert found["inputs"] > 0


def test_what_comes_out_otherwise_is_shown(recorded, capsys, tmp_path):
    lines = recorded[0].read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if '"is":"SendMembership"' in line)
    lines[place] = lines[place].replace('"timeout_s":', '"timeout_s":1')
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(lines) + "\n")
    found = replayed(other, capsys, 1)
    assert not found["equal"]
    assert found["difference"]["line"] < place + 2
    assert found["difference"]["recorded"] != found["difference"]["replayed"]
    assert main([*PLUGIN, "replay", str(other)]) == 1
    assert "not equal at line" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no recording"),
        ("{}\n", "no recording"),
        ('{"rtcfoci_trace": 2}\n', "another version"),
        ('{"rtcfoci_trace": 1, "dialects": ["D99"]}\n', "not installed"),
        ('{"rtcfoci_trace": 1}\n?\n', "line 2 of the recording is damaged"),
        ('{"rtcfoci_trace": 1}\n{"machine": "clock"}\n', "cannot be replayed"),
        ('{"rtcfoci_trace": 1}\n{"machine": "session", "policy": "tolerant"}\n', "damaged"),
        ('{"rtcfoci_trace": 1}\n{"input": "session.receive"}\n', "cannot be replayed"),
        (
            '{"rtcfoci_trace": 1}\n{"machine": "conditions"}\n{"input": "conditions.clear", "now": 7}\n',
            "damaged",
        ),
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path, capsys, text, what):
    path = tmp_path / "wrong.jsonl"
    path.write_text(text)
    assert main(["--json", "replay", str(path)]) == 2
    assert what in " ".join(json.loads(capsys.readouterr().err)["error"].values())


def test_nothing_is_recorded_over(tmp_path, capsys):
    path = tmp_path / "call.jsonl"
    path.write_text("kept")
    for place in (path, tmp_path / "nowhere" / "call.jsonl"):
        arguments = ["--focus", "memory.pairwise", "--homeserver", "http://127.0.0.1:1"]
        code = main([*PLUGIN, "--json", "join", "!r:hs", *arguments, "--trace", str(place)])
        assert code == 2
        assert str(place) in json.loads(capsys.readouterr().err)["error"]["what"]
    assert path.read_text() == "kept"


def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path, monkeypatch, caplog):
    from rtcfoci.call import trace
    from rtcfoci.core.conditions import Conditions

    conditions = Conditions()
    recorder = trace.Trace(tmp_path / "t", ())
    recorder.watch("conditions", conditions)

    def full(_file, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trace.os, "write", full)
    assert conditions.raise_("kicked", Now(0.0, 0), cause="x") is not None
    assert conditions.clear("kicked") is not None
    assert "ends early" in caplog.text
    recorder.close()
