"""The mesh as a focus type: the factory that the plugin registers.

In: our transport, which transports are ours, opening the one connection of a call.
Out: everything that the connection does (`connection`).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from typing import ClassVar

from rtcfoci.core.model import Member, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind
from rtcfoci.plugin import Backend, Connection, Context, FocusType, Role
from rtcfoci_mesh import MESH
from rtcfoci_mesh.config import MeshConfig
from rtcfoci_mesh.connection import MeshConnection
from rtcfoci_mesh.engine import MeshEngine
from rtcfoci_mesh.ice import IceServers

__all__ = ["MeshBackend"]


class MeshBackend(Backend):
    """Full mesh in one call."""

    focus_type: ClassVar[FocusType] = MESH
    """What this is the backend of."""

    def __init__(self, context: Context, config: object | None) -> None:
        super().__init__(context, config)
        if config is not None and not isinstance(config, MeshConfig):
            raise BackendError(
                "The mesh's configuration is not a MeshConfig.",
                why=f"it is a {type(config).__name__}",
                do="validate it with the type's config_model",
            )
        self._config = config or MeshConfig()
        self._ice = IceServers(context, self._config)
        self._own: Transport | None = None

    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        """Offer the mesh, with the time at which we came."""
        if self._own is None:
            now_ms = self.context.now().ts_ms
            video = self._config.video
            if video is None:
                video = Kind.VIDEO in self.context.announced
            kind = self.focus_type.type
            self._own = Transport(kind, {"type": kind, "joined_ts_ms": now_ms, "video": video})
        return (self._own,)

    def connection_key(
        self, transport: Transport, member: Member, local_transports: Sequence[Transport]
    ) -> str | None:
        """Give the one key of a pairwise type."""
        return "all" if transport.type in self._types else None

    async def prepare(self, transport: Transport) -> None:
        """Load the engine and fetch TURN credentials, so that `connect` is quick."""
        await asyncio.gather(self._engine(), self._ice.get())

    async def connect(self, key: str, transport: Transport, roles: frozenset[Role]) -> Connection:
        """Open the connection; the members follow with `set_members`."""
        engine = await self._engine()
        (own,) = await self.local_transports(())
        return self._open(engine, own)

    @property
    def _types(self) -> tuple[str, ...]:
        return (self.focus_type.type, *self.focus_type.aliases)

    async def _engine(self) -> MeshEngine:
        return await asyncio.to_thread(_load_engine)

    def _open(self, engine: MeshEngine, own: Transport) -> MeshConnection:
        return MeshConnection(self.context, self._config, engine, self._ice, own, types=self._types)


def _load_engine() -> MeshEngine:
    """Import aiortc: half a second that nobody pays who does not call."""
    try:
        module = importlib.import_module("rtcfoci_mesh.aiortc_engine")
    except ImportError as error:
        raise BackendError(
            "The mesh's media engine cannot be loaded.",
            why=str(error),
            do="install it again: pip install --force-reinstall rtcfoci-mesh",
        ) from error
    engine: MeshEngine = module.AiortcEngine()
    return engine
