"""Participants of system tests: `rtcfoci join` in processes of their own, and what they report."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time


class Participant:
    """One `rtcfoci --json join` process; every line it prints is kept with its time of arrival."""

    def __init__(self, process, name, log):
        self.process = process
        self.name = name
        self.log = log
        self.records = []
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, synapse, person, room_id, folder, *options, focus="mesh"):
        folder.mkdir(parents=True, exist_ok=True)
        name = person.user_id.partition(":")[0].removeprefix("@")
        password = folder / "password"
        password.write_text("password")
        log = folder / f"log-{time.monotonic_ns()}.txt"
        command = [sys.executable, "-m", "rtcfoci.cli.main", "--json", "join", room_id]
        command += ["--homeserver", synapse.base_url, "--user", person.user_id]
        command += ["--password-file", str(password), "--device-store", str(folder / "device")]
        command += ["--focus", focus]
        if focus == "mesh":
            command += ["--focus-option", "mesh.loopback=true"]
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return cls(process, name, log)

    async def _read(self):
        async for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.records.append((time.monotonic(), json.loads(line)))

    def timed(self, event, **fields):
        """Pairs of when a line came (monotonic seconds) and the line itself."""
        return [
            (at_s, record)
            for at_s, record in self.records
            if record.get("event") == event and all(record.get(k) == v for k, v in fields.items())
        ]

    def events(self, event, **fields):
        return [record for _, record in self.timed(event, **fields)]

    @property
    def status(self):
        found = self.events("Status")
        return found[-1] if found else {"participants": [], "conditions": []}

    def frames(self, user_id, kind=None):
        """Frames received of somebody, as last reported."""
        return sum(
            track["frames"]
            for p in self.status["participants"]
            if p["user_id"] == user_id
            for track in p["tracks"]
            if kind in (None, track["kind"])
        )

    def sees(self, user_id):
        return any(p["user_id"] == user_id for p in self.status["participants"])

    def conditions(self):
        return {c["code"] for c in self.status["conditions"]}

    async def until(self, holds, what, timeout_s=20.0):
        end_s = time.monotonic() + timeout_s
        while not holds():
            code = self.process.returncode
            detail = f"{self.name}: {what}; exit code {code}; log: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < end_s, f"not within {timeout_s} s: {detail}"
            await asyncio.sleep(0.05)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)

    async def stop(self):
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                code = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise
        await self._reader
        return code


@contextlib.asynccontextmanager
async def cast():
    """Collect participants and end every one of them."""
    started = []
    try:
        yield started
    finally:
        for participant in started:
            if participant.process.returncode is None:
                participant.process.kill()
                await participant.process.wait()
