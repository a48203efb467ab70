"""The participants of the demo: one `rtcfoci join` process each, and what they report.

In: starting, watching, killing and stopping them. Out: what the reports mean for the verdict:
nothing, it is read from the recordings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rtcfoci.errors import RtcfociError

if TYPE_CHECKING:
    from rtcfoci.cli.demo.stage import Stage
    from rtcfoci.media.signature import Signature
    from rtcfoci.plugin.hookspecs import Capabilities

__all__ = ["Cast", "Player"]

_STOP_TIMEOUT_S = 15.0
_STALE_S = 2.0
"""A track without a frame for this long counts as gone."""


class Player:
    """One participant: its process, and the last it said about itself."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.status: Mapping[str, object] = {}
        self.left: set[str] = set()
        """Names of those it saw leaving."""
        self.killed = False

    def tracks(self, sender: str) -> list[Mapping[str, object]]:
        """What it receives of a sender, as it reported last."""
        found: list[Mapping[str, object]] = []
        participants = self.status.get("participants")
        for participant in participants if isinstance(participants, list) else ():
            if _name(participant.get("user_id")) == sender:
                found += [t for t in participant.get("tracks", ()) if isinstance(t, dict)]
        return found

    def sees(self, sender: str) -> bool:
        """Whether a sender is in its session."""
        participants = self.status.get("participants")
        return any(
            _name(p.get("user_id")) == sender
            for p in (participants if isinstance(participants, list) else ())
        )

    def receives(self, sender: str, tracks: int) -> bool:
        """Whether that many tracks of a sender deliver frames."""
        return sum(bool(t.get("frames")) for t in self.tracks(sender)) >= tracks

    def media_of_gone(self, sender: str) -> bool:
        """Whether it knows that a sender's media stopped."""
        if sender in self.left:
            return True
        conditions = self.status.get("conditions")
        named = any(
            f"@{sender}:" in str(c.get("subject"))
            for c in (conditions if isinstance(conditions, list) else ())
        )
        silent = [t.get("silent_s") for t in self.tracks(sender)]
        return named or all(isinstance(s, float | int) and s > _STALE_S for s in silent)

    def has_left(self, sender: str) -> bool:
        """Whether it saw a sender's membership go."""
        return sender in self.left

    def hear(self, line: bytes) -> None:
        """Take one line of its output."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        if record.get("event") == "Status":
            self.status = record
        elif record.get("event") == "ParticipantLeft":
            self.left.add(_name(record.get("user_id")))
        elif record.get("event") == "ParticipantJoined":
            self.left.discard(_name(record.get("user_id")))


class Cast:
    """Everybody in one call.

    :param folder: each records into a folder of its own in there.
    """

    def __init__(
        self,
        stage: Stage,
        room_id: str,
        folder: Path,
        foci: list[tuple[str, Mapping[str, object]]],
        can: Capabilities,
        marks: Mapping[str, Signature],
        options: argparse.Namespace,
    ) -> None:
        self.names: tuple[str, ...] = tuple(marks)
        self._stage = stage
        self._room_id = room_id
        self._folder = folder
        self._foci = foci
        self._can = can
        self._marks = marks
        self._options = options
        self._players: dict[str, Player] = {}
        self._readers: list[asyncio.Task[None]] = []

    def __getitem__(self, name: str) -> Player:
        return self._players[name]

    async def __aenter__(self) -> Self:
        try:
            for name in self.names:
                await self._start(name)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def kill(self, name: str) -> None:
        """End a participant with SIGKILL."""
        self._players[name].killed = True
        self._players[name].process.kill()

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something to hold; False when it did not in time.

        :raises RtcfociError: when a participant ended by itself.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, timeout_s)):
                while not holds():
                    self._check()
                    await asyncio.sleep(0.1)
        return holds()

    async def wait_all_received(self, timeout_s: float) -> bool:
        """Wait until everybody receives everybody else, save what is blocked on purpose."""
        blocked = (self._options.sabotage or "").removeprefix("block:").split(":")
        pairs = [pair for pair in permutations(self.names, 2) if list(pair) != blocked]
        return await self.wait_until(
            lambda: all(self.is_received(receiver, sender) for receiver, sender in pairs), timeout_s
        )

    def is_received(self, receiver: str, sender: str) -> bool:
        """Whether everything of a sender arrives at a receiver."""
        player = self._players[receiver]
        return player.sees(sender) and player.receives(sender, self._can.audio + self._can.video)

    async def _start(self, name: str) -> None:
        own = self._folder / name
        own.mkdir(parents=True, exist_ok=True)
        log = own / "log.txt"
        mark = self._marks[name]
        command = [sys.executable, "-m", "rtcfoci.cli.main", "--json", "join", self._room_id]
        command += ["--homeserver", self._stage.base_url, "--user", self._stage.user_id(name)]
        command += ["--password-file", str(self._stage.password_file(name))]
        command += ["--device-store", str(self._stage.device_store(name))]
        command += ["--leave-delay", "6", "--record", str(own), "--record-as-user"]
        command += ["--application", self._options.application, "--slot", self._options.slot]
        for focus_type, config in self._foci:
            command += ["--focus", focus_type]
            for key, value in config.items():
                command += ["--focus-option", f"{focus_type}.{key}={json.dumps(value)}"]
        if self._can.audio:
            command += ["--source", f"tone:{mark.tone_hz}"]
        if self._can.video:
            command += ["--source", f"pattern:{mark.sender_id}"]
        if self._can.data:
            command += ["--count-data"]
        command += self._sabotage(name)
        for plugin in self._plugins():
            command += ["--plugin", plugin]
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                limit=1 << 20,
            )
        player = self._players[name] = Player(name, process, log)
        self._readers.append(asyncio.create_task(self._read(player)))

    @staticmethod
    def _plugins() -> tuple[str, ...]:
        from rtcfoci.cli.options import current

        return current().plugins

    def _sabotage(self, name: str) -> list[str]:
        words = (self._options.sabotage or "").split(":")
        if words[0] == "block" and words[1] == name:
            return ["--ignore", self._stage.user_id(words[2])]
        if words[0] == "distort" and words[1] == name:
            return ["--distort"]
        return []

    async def _read(self, player: Player) -> None:
        assert player.process.stdout is not None
        async for line in player.process.stdout:
            player.hear(line)

    def _check(self) -> None:
        for player in self._players.values():
            code = player.process.returncode
            if code is not None and not player.killed:
                raise _ended_by_itself(player, code)

    async def _stop(self) -> None:
        players = list(self._players.values())
        for player in players:
            if player.process.returncode is None:
                player.process.send_signal(signal.SIGTERM)
        for player in players:
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await player.process.wait()
            except TimeoutError:
                player.process.kill()
                await player.process.wait()
        for reader in self._readers:
            await reader


def _ended_by_itself(player: Player, code: int) -> RtcfociError:
    lines = player.log.read_text(errors="replace").strip().splitlines()
    try:
        told = json.loads(lines[-1])["error"]
        what, why, do = (str(told[key]) for key in ("what", "why", "do"))
    except (IndexError, KeyError, TypeError, ValueError):
        what, do = f"it ended with code {code}", f"see {player.log}"
        why = " ".join(lines[-3:]) or "it said nothing"
    return RtcfociError(f"{player.name} left by itself: {what}", why=why, do=do)


def _name(user_id: object) -> str:
    return str(user_id).removeprefix("@").partition(":")[0]
