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

from tests.system.history import current
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(150)]


@pytest.fixture
async def people(synapse, new_user):
    found = [await new_user("ann"), await new_user("bob")]
    room_id = await synapse.create_room(found[0].access_token, encrypted=True)
    await synapse.join_room(found[1].access_token, room_id)
    return found, room_id


def command(synapse, person, folder, *words):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text("password")
    account = ["--homeserver", synapse.base_url, "--user", person.user_id]
    account += ["--password-file", str(folder / "password")]
    account += ["--device-store", str(folder / "device")]
    return [sys.executable, "-m", "rtcfoci.cli.main", *words, *account]


def complaints(told):
    """What stands on standard error beside notes, such as who will not show a member of a mesh."""
    return [line for line in told.splitlines() if not line.startswith("note: ")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_participant_told_to_stop_withdraws_at_once(synapse, people, tmp_path, how):
    (ann, _), room_id = people
    async with cast() as started:
        participant = await Participant.start(
            synapse, ann, room_id, tmp_path / "ann", "--source", "tone"
        )
        started.append(participant)
        await participant.until(lambda: participant.events("Status"), "is in the call", 40)
        assert await current(synapse, ann.access_token, room_id) == [ann.user_id]
        participant.process.send_signal(how)
        async with asyncio.timeout(15):
            assert await participant.process.wait() == 0
        assert await current(synapse, ann.access_token, room_id) == []
        await participant.until(lambda: participant.events("CallEnded"), "says that it left", 5)
        assert complaints(participant.log.read_text()) == []


async def test_stopped_while_joining_it_leaves_no_membership(synapse, people, tmp_path):
    (ann, _), room_id = people
    mesh = ("--focus", "mesh", "--focus-option", "mesh.loopback=true")
    words = command(synapse, ann, tmp_path / "ann", "--json", "join", room_id, *mesh)

    async def run(stop_after_s):
        """Stop it after a time, or when it is in the call; give how long it ran and its code."""
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        began_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stop_after_s):
                await process.stdout.readline()
        took_s = time.monotonic() - began_s
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, err = await process.communicate()
        assert complaints(err.decode()) == []
        assert await current(synapse, ann.access_token, room_id) == []
        return took_s, process.returncode

    # The first makes the device; the second says how long it takes to be in the call: the first
    # thing that somebody alone prints is the state after a second there.
    for _ in range(2):
        whole_s, code = await run(40)
        assert code == 0
    joining_s = whole_s - 1.0
    codes = [(await run(joining_s * share))[1] for share in (0.5, 0.65, 0.8, 0.9, 0.95)]
    # 130: while joining; 0: it was in the call already; -15: before Python could handle it.
    assert set(codes) <= {130, 0, -signal.SIGTERM}
    assert 130 in codes, codes


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
