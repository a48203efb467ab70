"""Real calls on a real Synapse, recorded, replayed byte for byte, and kept in a file."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import sys

import pytest

import rtcfoci
from rtcfoci.cli.main import main
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.testing import Synapse, SynapseOptions
from rtcfoci.testing.memory import MemoryConnection
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

MEMORY = "rtcfoci.testing.memory_types"
"""Its types protect media by keys, as a LiveKit focus does."""
DELAY_IDS = '"delay_id":"syd_'
"""How Synapse's begin; a recording holds handles."""


def replayed(path, capsys):
    assert main(["--plugin", MEMORY, "--json", "replay", str(path)]) == 0
    return json.loads(capsys.readouterr().out)


def seen_keys(monkeypatch):
    """Collect every media key that a connection of this process is given."""
    seen, set_key = set(), MemoryConnection.set_key

    async def spy(self, member, index, key):
        seen.add(key)
        await set_key(self, member, index, key)

    monkeypatch.setattr(MemoryConnection, "set_key", spy)
    return seen


def forms(key):
    """The forms in which a key could be written down."""
    return key.hex(), base64.b64encode(key).decode().rstrip("="), repr(key)[2:-1]


async def join(synapse, person, room_id, folder, *options):
    own = folder / person.user_id[1:4]
    return await Participant.start(
        synapse, person, room_id, own, "--source", "tone", "--leave-delay", "10", *options
    )


async def holds(path, word):
    """Wait until a file holds a word; it can be read at every moment."""
    async with asyncio.timeout(30):
        while not path.exists() or word not in path.read_text():
            if path.exists():
                json.loads(path.read_text())
            await asyncio.sleep(0.05)


async def decline_first(client, room_id):
    """Wait for the first who calls us in a room, and decline."""
    async for news in rtcfoci.listen(client, room_id):
        if isinstance(news, rtcfoci.NotificationStarted):
            await rtcfoci.decline(client, news.notification)
            return


async def test_a_recorded_call_is_replayed_byte_for_byte(tmp_path, capsys, monkeypatch):
    """With a call that is declined, media keys, a guest on another focus, a participant who is killed, and
    an outage of the homeserver longer than the delay.

    `tests/lab/call.jsonl` is such a recording: `RTCFOCI_KEEP_TRACE=tests/lab/call.jsonl` makes it anew.
    """
    secrets = seen_keys(monkeypatch)
    trace, cut = tmp_path / "ann.jsonl", tmp_path / "bob.jsonl"
    async with (
        Synapse(tmp_path / "homeserver", SynapseOptions()) as synapse,
        cast() as started,
        contextlib.AsyncExitStack() as stack,
    ):
        people = [await synapse.register(name, "password") for name in ("ann", "bob", "cem")]
        room_id = await synapse.create_room(people[0].access_token, encrypted=True)
        for person in people[1:]:
            await synapse.join_room(person.access_token, room_id)
        cem = await rtcfoci.connect(synapse.base_url, token=people[2].access_token, encrypted=True)
        stack.push_async_callback(cem.aclose)
        declining = asyncio.create_task(decline_first(cem, room_id))
        keyed = ("--plugin", MEMORY, "--focus", "memory.elected")
        ring = ("--ring", people[2].user_id)
        ann = await join(
            synapse, people[0], room_id, tmp_path, *keyed, *ring, "--trace", str(trace)
        )
        started.append(ann)
        await ann.until(lambda: ann.records, "is in the call", 40)
        bob = await join(synapse, people[1], room_id, tmp_path, *keyed, "--trace", str(cut))
        started.append(bob)
        await ann.until(lambda: ann.events("CallDeclined"), "is declined", 40)
        await declining
        await ann.until(lambda: ann.frames(people[1].user_id) > 20, "hears bob", 40)
        async with rtcfoci.join(
            cem, room_id, foci=["memory.elected"], plugins=PluginManager.load(plugins=(MEMORY,))
        ) as call:
            await ann.until(lambda: ann.sees(people[2].user_id), "sees cem", 20)
            async with asyncio.timeout(20):
                while call.metrics["keys_received"] < 2:  # noqa: ASYNC110 - counted, not told
                    await asyncio.sleep(0.05)
            assert {p["trusted"] for p in ann.status["participants"]} == {False}
            bob.kill()
            await asyncio.sleep(2)
        await ann.until(lambda: not ann.sees(people[2].user_id), "sees cem leave", 20)
        await ann.until(lambda: not ann.sees(people[1].user_id), "bob is withdrawn", 20)
        synapse.kill()
        await asyncio.sleep(12)
        await synapse.restart()
        await ann.until(
            lambda: "homeserver_unreachable" not in ann.conditions(), "sees it back", 15
        )
        await asyncio.sleep(5)
        assert await ann.stop() == 0
    whole = replayed(trace, capsys)
    assert whole["equal"]
    assert whole["complete"]
    broken_off = replayed(cut, capsys)
    assert (broken_off["equal"], broken_off["complete"]) == (True, False)
    for path in (trace, cut):
        picture = path.with_suffix(".txt")
        assert main(["timeline", str(path), "-o", str(picture)]) == 0
        assert "our delayed leave" in picture.read_text()
    assert "homeserver_unreachable" in trace.with_suffix(".txt").read_text()
    told = trace.read_text()
    did = {
        record["effect"]["is"]
        for record in map(json.loads, told.splitlines())
        if "effect" in record
    }
    assert {
        "ScheduleLeave", "RestartLeave", "SendMembership", "MemberLeft", "Signal", "SendKey", "SetKey",
        "UseKey", "NotificationIgnored", "NotificationDeclined",
    } <= did  # fmt: skip
    rings = [
        line for line in told.splitlines() if "notifications.receive" in line and "rtc." in line
    ]
    assert len(rings) == 2
    assert all('"encrypted":true' in line for line in rings)
    assert '"delay-1"' in told
    assert '"own-1"' in told
    assert len(secrets) >= 3, "its own, ann's and bob's"
    tokens = [person.access_token for person in people]
    for text in (told, cut.read_text()):
        assert not [secret for secret in (*tokens, DELAY_IDS, "syt_", "syd_") if secret in text]
        assert not [form for key in secrets for form in forms(key) if form in text]
        assert "ice" not in text.casefold().replace("device", "").replace("notice", "")
    if keep := os.environ.get("RTCFOCI_KEEP_TRACE"):
        shutil.copyfile(trace, keep)


async def test_a_room_is_kept_without_taking_part_and_through_a_kill(
    synapse, new_user, tmp_path, capsys
):
    people = [await new_user("ann"), await new_user("bob")]
    room_id = await synapse.create_room(people[0].access_token)
    await synapse.join_room(people[1].access_token, room_id)
    (tmp_path / "password").write_text("password")
    kept = {"plain": tmp_path / "plain.json", "hidden": tmp_path / "hidden.json"}
    watchers = []
    async with cast() as started:
        for name, path in kept.items():
            command = [sys.executable, "-m", "rtcfoci.cli.main", "--json", "watch", room_id]
            command += ["--homeserver", synapse.base_url, "--user", people[1].user_id]
            command += ["--password-file", str(tmp_path / "password"), "--save", str(path)]
            command += ["--device-store", str(tmp_path / name)]
            watchers.append(
                await asyncio.create_subprocess_exec(
                    *command,
                    *(["--pseudonyms"] if name == "hidden" else []),
                    stdout=asyncio.subprocess.DEVNULL,
                )
            )
        try:
            for path in kept.values():
                await holds(path, "m.room.member")
            ann = await join(synapse, people[0], room_id, tmp_path)
            started.append(ann)
            await ann.until(lambda: ann.events("Status"), "is in the call", 40)
            for path in kept.values():
                await holds(path, "msc4354_sticky_key")
        finally:
            for watcher in watchers:
                watcher.send_signal(signal.SIGKILL)
                await watcher.wait()
        assert await ann.stop() == 0
    told = {}
    for name, path in kept.items():
        assert main(["--json", "session", str(path), "--policy", "tolerant"]) == 0
        told[name] = json.loads(capsys.readouterr().out)
        picture = path.with_suffix(".svg")
        assert main(["timeline", str(path), "-o", str(picture), "--policy", "tolerant"]) == 0
        assert told[name]["members"][0]["user_id"] in picture.read_text()
    (member,), (hidden,) = told["plain"]["members"], told["hidden"]["members"]
    assert member["user_id"] == people[0].user_id
    assert (member["dialect"], member["created_ts_ms"]) == (
        hidden["dialect"],
        hidden["created_ts_ms"],
    )
    assert len(told["plain"]["ignored"]) == len(told["hidden"]["ignored"])
    text = kept["hidden"].read_text()
    for name in (room_id, people[0].user_id, people[0].user_id[1:].partition(":")[0], "localhost"):
        assert name not in text
    assert "displayname" not in kept["plain"].read_text()
