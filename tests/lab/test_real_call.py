"""A real call, recorded with `rtcfoci join --trace` on a real Synapse, and replayed here byte for byte.

`tests/system/test_recordings.py` says how it is made anew, as a change of what the core decides asks for.
"""

import json
from pathlib import Path

from rtcfoci.cli.main import main

CALL = Path(__file__).with_name("call.jsonl")


def test_a_real_call_has_the_same_effects_again(capsys):
    assert main(["--json", "replay", str(CALL)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["complete"]) == (True, True)
    assert found["inputs"] > 100


def test_it_holds_every_machine_and_what_a_call_goes_through():
    text = CALL.read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["machine"] for record in records if "machine" in record] == [
        "conditions", "session", "signals", "notifications", "keys", "lifecycle",
    ]  # fmt: skip
    effects = {record["effect"]["is"] for record in records if "effect" in record}
    assert {
        "SendKey", "SetKey", "UseKey", "NotificationDeclined", "Signal", "MemberJoined", "MemberChanged",
        "MemberLeft", "ScheduleLeave", "RestartLeave", "SendMembership", "SendHeldLeave", "Condition",
    } <= effects  # fmt: skip
    assert not [word for word in ("syt_", "syd_", "candidate", "fingerprint") if word in text]


def test_what_the_core_decides_otherwise_is_found(capsys, tmp_path):
    """Of each machine one effect is taken away."""
    lines = CALL.read_text().splitlines(keepends=True)
    machine, tried = "", set()
    for place, line in enumerate(lines):
        record = json.loads(line)
        machine = record.get("input", machine).partition(".")[0]
        if "effect" not in record or machine in tried:
            continue
        tried.add(machine)
        other = tmp_path / "other.jsonl"
        other.write_text("".join(lines[:place] + lines[place + 1 :]))
        assert main(["--json", "replay", str(other)]) == 1
        found = json.loads(capsys.readouterr().out)
        assert found["difference"]["input"].startswith(f"{machine}.")
    assert len(tried) == 6
