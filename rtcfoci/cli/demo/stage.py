"""The stage of the demo: a homeserver of its own, its people, an encrypted and a clear room.

In: all that happens before anybody joins a call. Out: Synapse itself (`rtcfoci.testing.synapse`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rtcfoci.testing.synapse import Synapse, SynapseOptions

__all__ = ["Stage"]


class Stage:
    """A homeserver in a scratch folder, with everybody registered and in both rooms.

    :param folder: where the homeserver lives, and the people's passwords and device stores.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.rooms: dict[str, str] = {}
        """Room ids of `encrypted` and `clear`."""
        self._names = names
        # Synapse's own limits stay: everything passes under them.
        self._synapse = Synapse(folder, SynapseOptions(default_rate_limits=True))

    @property
    def base_url(self) -> str:
        return self._synapse.base_url

    def user_id(self, name: str) -> str:
        """The Matrix id of one of the people."""
        return f"@{name}:{self._synapse.server_name}"

    def password_file(self, name: str) -> Path:
        """The file with somebody's password, readable by the owner alone."""
        return self.folder / f"{name}.password"

    def device_store(self, name: str) -> Path:
        """The folder of somebody's device."""
        return self.folder / "devices" / name

    async def __aenter__(self) -> Self:
        await self._synapse.start()
        try:
            await self._furnish()
        except BaseException:
            await self._synapse.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._synapse.stop()

    async def _furnish(self) -> None:
        tokens = await asyncio.gather(*(self._register(name) for name in self._names))
        made = (self._make_room(room, tokens) for room in ("encrypted", "clear"))
        await asyncio.gather(*made)

    async def _register(self, name: str) -> str:
        password = secrets.token_urlsafe(16)
        path = self.password_file(name)
        path.touch(mode=0o600)
        await asyncio.to_thread(path.write_text, password)
        return (await self._synapse.register(name, password)).access_token

    async def _make_room(self, room: str, tokens: Sequence[str]) -> None:
        room_id = await self._synapse.create_room(tokens[0], encrypted=room == "encrypted")
        self.rooms[room] = room_id
        for token in tokens[1:]:
            await self._synapse.join_room(token, room_id)
