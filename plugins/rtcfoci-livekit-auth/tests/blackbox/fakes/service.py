"""The service under test: a command, its environment, its process.

In: start, wait until healthy, signals, output; one method for each endpoint. Out: what it should say.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fakes.client import Reply, call

__all__ = ["COMMAND", "Service", "free_port"]

COMMAND = shlex.split(os.environ.get("RTCFOCI_AUTH_COMMAND", "")) or [
    sys.executable,
    "-m",
    "rtcfoci_livekit_auth",
    "serve",
]


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """One process. Nothing of this machine's own settings for such services reaches it."""

    def __init__(
        self, env: dict[str, str], scratch: Path, *, command: list[str] | None = None
    ) -> None:
        self._command = command or COMMAND
        self.port = free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LIVEKIT_", "SSL_"))}
        # What it keeps in files, it keeps to itself.
        self.folder = scratch / f"service-{self.port}"
        self.folder.mkdir(exist_ok=True)
        state = {"XDG_STATE_HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        self.env = {**inherited, **state, "LIVEKIT_JWT_BIND": f"127.0.0.1:{self.port}", **env}
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> Service:
        """Start the process and do not wait."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self.env, cwd=self.folder, stdout=log, stderr=log
            )
        return self

    def start(self, within_s: float = 45.0) -> Service:
        """Start the process and wait until it calls itself healthy."""
        self.launch()
        deadline = time.monotonic() + within_s
        while True:
            if (status := self.poll()) is not None:
                raise AssertionError(f"the service ended with {status}:\n{self.output()[-2000:]}")
            try:
                if self.get("/healthz").status == 200:
                    return self
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"not healthy within {within_s} s:\n{self.output()[-2000:]}")
            time.sleep(0.02)

    def poll(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def wait(self, within_s: float = 45.0) -> int:
        """Wait for the end and give the exit status."""
        assert self.process is not None
        return self.process.wait(within_s)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def stop(self) -> None:
        """Ask it to end, and make it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def output(self) -> str:
        """Give everything it printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def get(self, path: str) -> Reply:
        return call("GET", self.url + path)

    def post(self, path: str, body: Any, **more: Any) -> Reply:
        return call("POST", self.url + path, body, **more)
