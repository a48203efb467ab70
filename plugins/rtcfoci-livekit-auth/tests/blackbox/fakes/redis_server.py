"""A real Redis of its own: no persistence, a free port of loopback, ended with its user.

In: the process. Out: its client.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from fakes.service import free_port

__all__ = ["RedisServer", "redis_missing"]


def redis_missing() -> str | None:
    """Say why there can be no Redis here, or `None`."""
    return (
        None
        if shutil.which("redis-server")
        else "redis-server is not on PATH (Debian's package redis-server)"
    )


class RedisServer:
    """One `redis-server`; it may be ended and started again on its port, and forgets everything then."""

    def __init__(self, scratch: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--dir", str(self._scratch), "--daemonize", "no"]
        with (self._scratch / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as link:
                    link.sendall(b"PING\r\n")
                    if link.recv(16).startswith(b"+PONG"):
                        return self
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("redis-server did not answer within 10 s")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
