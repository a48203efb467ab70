"""Processes of the command line that are watched, stopped and looked at, on a real Synapse."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import time

import pytest

from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(150)]

_MEMBER_TYPES = ("org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member")


@pytest.fixture
async def people(synapse, new_user):
    found = [await new_user("ann"), await new_user("bob")]
    room_id = await synapse.create_room(found[0].access_token, encrypted=True)
    await synapse.join_room(found[1].access_token, room_id)
    return found, room_id


async def members(synapse, token, room_id):
    """User ids with a membership that is not empty in the room's state."""
    path = f"/_matrix/client/v3/rooms/{room_id}/state"
    answer = await asyncio.to_thread(_get_list, synapse.base_url + path, token)
    return {e["sender"] for e in answer if e["type"] in _MEMBER_TYPES and e["content"]}


def _get_list(url, token):
    import urllib.request

    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def command(synapse, person, folder, *words):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text("password")
    account = ["--homeserver", synapse.base_url, "--user", person.user_id]
    account += ["--password-file", str(folder / "password")]
    account += ["--device-store", str(folder / "device")]
    return [sys.executable, "-m", "rtcfoci.cli.main", *words, *account]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_participant_told_to_stop_withdraws_at_once(synapse, people, tmp_path, how):
    (ann, _), room_id = people
    async with cast() as started:
        participant = await Participant.start(
            synapse, ann, room_id, tmp_path / "ann", "--source", "tone"
        )
        started.append(participant)
        await participant.until(lambda: participant.events("Status"), "is in the call", 40)
        assert await members(synapse, ann.access_token, room_id) == {ann.user_id}
        participant.process.send_signal(how)
        async with asyncio.timeout(15):
            assert await participant.process.wait() == 0
        assert await members(synapse, ann.access_token, room_id) == set()
        await participant.until(lambda: participant.events("CallEnded"), "says that it left", 5)
        assert participant.log.read_text() == ""


async def test_stopped_while_joining_it_leaves_no_membership(synapse, people, tmp_path):
    (ann, _), room_id = people
    mesh = ("--focus", "mesh", "--focus-option", "mesh.loopback=true")
    words = command(synapse, ann, tmp_path / "ann", "--json", "join", room_id, *mesh)
    codes = set()
    for delay_s in (2.0, 3.0, 4.0, 5.0):
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await asyncio.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, err = await process.communicate()
        codes.add(process.returncode)
        assert err == b""
        assert await members(synapse, ann.access_token, room_id) == set()
    # 130: while joining; 0: it was in the call already; -15: before Python could handle it.
    assert codes <= {130, 0, -signal.SIGTERM}
    assert codes & {130, 0}


async def test_watch_prints_a_line_for_every_change(synapse, people, tmp_path):
    (ann, bob), room_id = people
    words = command(synapse, bob, tmp_path / "watcher", "--json", "watch", room_id)
    watching = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)

    async def line():
        async with asyncio.timeout(40):
            return json.loads(await watching.stdout.readline())

    try:
        first = await line()
        assert first == {"slot": {"id": "m.call#ROOM", "status": "absent"}, "members": []}
        async with cast() as started:
            participant = await Participant.start(synapse, ann, room_id, tmp_path / "ann")
            started.append(participant)
            (member,) = (await line())["members"]
            assert member["user_id"] == ann.user_id
            assert [t["type"] for t in member["transports"]] == ["rtcfoci.mesh"]
            await participant.until(lambda: participant.events("Status"), "is in the call", 40)
            assert await participant.stop() == 0
        assert (await line())["members"] == []
        watching.send_signal(signal.SIGINT)
        async with asyncio.timeout(15):
            assert await watching.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            watching.kill()
        await watching.wait()


async def test_on_a_terminal_a_live_table_is_drawn(synapse, people, tmp_path):
    (ann, bob), room_id = people
    mesh = ("--focus", "mesh", "--focus-option", "mesh.loopback=true")
    words = command(synapse, bob, tmp_path / "bob", "join", room_id, *mesh)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    async with cast() as started:
        started.append(
            await Participant.start(synapse, ann, room_id, tmp_path / "ann", "--source", "tone")
        )
        process = await asyncio.create_subprocess_exec(
            *words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        seen, deadline_s = b"", time.monotonic() + 60
        try:
            while not re.search(rb"microphone.*\b(4\d|5\d)\b.*0\.\d s", seen):
                assert time.monotonic() < deadline_s, seen[-2000:].decode(errors="replace")
                with contextlib.suppress(BlockingIOError):
                    seen += os.read(ours, 65536)
                await asyncio.sleep(0.1)
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(15):
                while process.returncode is None:
                    with contextlib.suppress(BlockingIOError, OSError):
                        seen += os.read(ours, 65536)
                    await asyncio.sleep(0.1)
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace"))
    assert f"{ann.user_id}" in text
    assert "publishes microphone" in text
    assert "Traceback" not in text
