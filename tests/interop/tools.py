"""The other side of interop tests: packages of npm, a LiveKit server, processes that drive them.

Nothing of what is installed here is part of this project, and nothing of it is kept in it.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from rtcfoci.testing import skip_or_fail
from rtcfoci.testing.synapse_env import cache_folder

JS_SDK = {"matrix-js-sdk": "43.0.0"}
LIVEKIT_CLIENT = {"livekit-client": "2.23.0"}
ELEMENT_CALL = {"@element-hq/element-call-embedded": "0.26.1", "playwright-core": "1.65.1"}
LIVEKIT_VERSION = "1.13.5"
RUMA_VERSION = "0.35.2"
SCRIPTS = Path(__file__).with_name("js")


def npm_folder(packages):
    """Install packages once, in a folder named after them, and give the folder."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip_or_fail("node", "node and npm are not on PATH")
    wanted = [f"{name}@{version}" for name, version in packages.items()]
    folder = cache_folder() / "npm-packages" / "_".join(wanted).replace("/", "-").replace("@", "-")
    with _locked(folder):
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "package.json").write_text('{"private": true}')
            options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            _build("node", ["npm", "install", *options, *wanted], folder)
            (folder / "complete").touch()
    return folder


def livekit_server():
    """Give the path of the LiveKit server, compiled once."""
    folder = cache_folder() / f"livekit-server-{LIVEKIT_VERSION}"
    server = folder / "server"
    with _locked(folder):
        if not server.is_file():
            if shutil.which("go") is None:
                skip_or_fail("livekit", "no livekit-server was built yet, and go is not on PATH")
            module = f"github.com/livekit/livekit-server/cmd/server@v{LIVEKIT_VERSION}"
            folder.mkdir(parents=True, exist_ok=True)
            _build("livekit", ["go", "install", module], folder, GOBIN=str(folder))
    return server


def ruma_reader():
    """Give the path of the program that reads events with ruma-events, compiled once."""
    source = Path(__file__).with_name("ruma")
    folder = cache_folder() / f"ruma-events-{RUMA_VERSION}"
    program = folder / "target" / "debug" / "read-events"
    files = [file.name for file in sorted(source.iterdir()) if file.is_file()]
    with _locked(folder):
        old = not program.is_file() or any(
            (folder / name).read_bytes() != (source / name).read_bytes() for name in files
        )
        if old:
            if shutil.which("cargo") is None:
                skip_or_fail("cargo", "cargo is not on PATH")
            folder.mkdir(parents=True, exist_ok=True)
            for name in files:
                shutil.copy(source / name, folder / name)
            _build("cargo", ["cargo", "build", "--quiet", "--target-dir", "target"], folder)
    return program


def chromium():
    """Give the path of Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        skip_or_fail("chromium", "it is not on PATH")
    return found


@contextlib.contextmanager
def _locked(folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(tool, command, folder, **env):
    try:
        subprocess.run(
            command, cwd=folder, env={**os.environ, **env}, check=True, timeout=1200,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        skip_or_fail(tool, f"{' '.join(command)} failed:\n{error.stdout[-2000:]}")


class Driver:
    """A script in Node that answers requests, one JSON line each, in a process group of its own."""

    def __init__(self, process, log):
        self.process = process
        self.log = log

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, log, script, *arguments):
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                "node", str(SCRIPTS / script), *map(str, arguments),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield cls(process, log)
        finally:
            process.stdin.close()  # both scripts end with their input, the browser with its script
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def ask(self, do, timeout_s=60.0, **fields):
        self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        async with asyncio.timeout(timeout_s):
            line = await self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        assert "error" not in answer, f"{do}: {answer['error']}\n{self.log_tail()}"
        return answer

    async def until(self, holds, what, timeout_s=60.0, do="look", **fields):
        """Look until it holds; give what was seen then."""
        seen = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    seen = await self.ask(do, **fields)
                    if holds(seen):
                        return seen
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(
                f"not within {timeout_s} s: {what}; last seen: {seen}\n{self.log_tail()}"
            ) from None

    def log_tail(self):
        return self.log.read_text(errors="replace")[-3000:]


def by_user(seen):
    """Sort the members of one look by user id; two of one user are an error by themselves."""
    members = {member["userId"]: member for member in seen["members"]}
    assert len(members) == len(seen["members"]), seen["members"]
    return members
