"""The suite that every backend passes."""

from __future__ import annotations

from rtcfoci_mesh import MESH
from rtcfoci_mesh.connection import MeshDrill

from rtcfoci.core.model import JsonObject
from rtcfoci.testing.conformance import BackendConformance
from rtcfoci.testing.stage import Participant, Stage


class TestMesh(BackendConformance):
    focus_type = MESH

    def config(self, name: str) -> JsonObject:
        return {"loopback": True}

    async def freeze(self, stage: Stage, who: Participant) -> None:
        stage.network.drop = lambda sender, to, payload: sender == who.member
        await self._suspend(who, True)

    async def thaw(self, stage: Stage, who: Participant) -> None:
        stage.network.drop = lambda sender, to, payload: False
        await self._suspend(who, False)

    async def kill(self, stage: Stage, who: Participant) -> None:
        await self.freeze(stage, who)

    async def _suspend(self, who: Participant, suspended: bool) -> None:
        drill = who.connection.extension(MeshDrill)
        assert drill is not None
        await drill.suspend(suspended)
