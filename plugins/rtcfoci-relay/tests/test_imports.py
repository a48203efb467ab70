"""The relay runs where no media library is installed: nothing it loads is one, client and server."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("av", "aiortc", "numpy", "PIL", "rtcfoci_mesh"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv[1])
from test_conformance import TestRelay, userinfo
from rtcfoci.testing.conformance_base import data_of
from rtcfoci_relay.server import start

async def play():
    suite = TestRelay()
    homeserver = await asyncio.start_server(userinfo, "127.0.0.1", 0)
    port = homeserver.sockets[0].getsockname()[1]
    server = await start(f"http://127.0.0.1:{port}", 0)
    suite.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with suite.open_stage() as stage:
        alice, bob = await stage.join("alice", "bob")
        await suite.connected(stage, alice, bob)
        heard = [event.payload.decode() for event in data_of(bob, "hello")]
    server.close()
    homeserver.close()
    await server.wait_closed()
    await homeserver.wait_closed()
    return heard

heard = asyncio.run(play())
print(json.dumps({"heard": heard, "modules": [*sys.modules]}))
"""


def test_client_and_server_run_without_a_media_library():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, Path(__file__).parent],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "hello" in told["heard"]
    loaded = {name.partition(".")[0] for name in told["modules"]}
    assert {"rtcfoci_relay", "rtcfoci"} <= loaded
    assert not loaded & {"av", "aiortc", "numpy", "PIL"}
