"""The bot of the first tutorial in a real room, started as its reader starts it, and started again."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest

import rtcfoci

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

TUTORIAL = Path(__file__).parent.parent / "docs/tutorial/first-call.md"
WAIT_S = 30.0


@pytest.fixture
def folder(tmp_path):
    (code,) = re.findall(r"^:caption: echo\.py\n\n(.*?)^```$", TUTORIAL.read_text(), re.M | re.S)
    (tmp_path / "echo.py").write_text(code)
    (tmp_path / "password.txt").write_text("password\n")
    return tmp_path


async def until(holds):
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - it may hold for any reason
            await asyncio.sleep(0.05)


async def test_the_bot_comes_and_goes_as_the_same_device(synapse, alice, new_user, folder):
    echo = await new_user("echo")
    room_id = await synapse.create_room(alice.access_token)
    await synapse.join_room(echo.access_token, room_id)
    client = await rtcfoci.connect(synapse.base_url, token=alice.access_token)
    devices = []
    async with rtcfoci.join(client, room_id, foci=[("mesh", {"loopback": True})]) as call:
        for _ in range(2):
            arguments = (synapse.base_url, echo.user_id, "password.txt", room_id)
            bot = await asyncio.create_subprocess_exec(
                sys.executable, "echo.py", *arguments, cwd=folder, stderr=asyncio.subprocess.PIPE
            )
            try:
                await until(lambda bot=bot: call.participants or bot.returncode is not None)
                assert call.participants, (await bot.stderr.read()).decode()
                devices.append(call.participants[0].device_id)
                bot.send_signal(signal.SIGINT)
                await until(lambda: not call.participants)
            finally:
                if bot.returncode is None:
                    bot.kill()
                await bot.communicate()
    await client.aclose()
    assert devices[0] not in (None, echo.device_id)
    assert devices == devices[:1] * 2
