"""A process that the demo's focus needs beside the homeserver, such as its server.

In: starting it when the homeserver's URL is known, waiting until it is ready, stopping it.
Out: what it is; the command comes from `rtcfoci demo --with`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import Self

from rtcfoci.errors import RtcfociError, UsageError

__all__ = ["Helper"]

_READY_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 5.0


class Helper:
    """Runs as long as it is entered; ready when it has printed its first line.

    :param command: as a shell would split it; `{homeserver}` stands for the homeserver's URL, and
        `rtcfoci` for this very installation.
    :param folder: where its output goes.
    :raises UsageError: when the command cannot be split.
    """

    def __init__(self, command: str, folder: Path) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise _unusable(command, str(error)) from None
        if not self._words:
            raise _unusable(command, "it is empty")
        self._command = command
        self._out = folder / f"{Path(self._words[0]).name}-out.txt"
        self._log = folder / f"{Path(self._words[0]).name}-log.txt"
        self._homeserver = ""
        self._process: asyncio.subprocess.Process | None = None

    def beside(self, homeserver: str) -> Self:
        """Say where the homeserver is; before entering."""
        self._homeserver = homeserver
        return self

    async def __aenter__(self) -> Self:
        words = [word.replace("{homeserver}", self._homeserver) for word in self._words]
        if words[0] == "rtcfoci":
            words[:1] = [sys.executable, "-m", "rtcfoci.cli.main"]
        try:
            with self._out.open("wb") as out, self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
        except OSError as error:
            raise _unusable(self._command, str(error)) from None
        try:
            await self._wait_ready(self._process)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _READY_TIMEOUT_S
        while not self._out.stat().st_size:
            late = loop.time() > end_s
            if late or process.returncode is not None:
                lines = self._log.read_text(errors="replace").strip().splitlines()
                silent = f"it printed nothing within {_READY_TIMEOUT_S:.0f} s"
                ended = f"it ended with code {process.returncode}"
                raise RtcfociError(
                    f"{self._command!r} did not start",
                    why=" ".join(lines[-3:]) or (silent if late else ended),
                    do=f"see {self._log}, or try the command by itself",
                )
            await asyncio.sleep(0.05)

    async def _stop(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _unusable(command: str, why: str) -> UsageError:
    return UsageError(
        f"--with {command!r} cannot be run",
        why=why,
        do="for example: --with 'my-focus-server --homeserver {homeserver}'",
    )
