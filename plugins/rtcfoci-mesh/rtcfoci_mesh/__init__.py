"""Full mesh: one WebRTC connection per pair of members, no server.

In: what the plugin registers. Out: everything heavy, which `backend` loads on first use.
"""

from __future__ import annotations

from rtcfoci.plugin import Capabilities, FocusType, Security, Topology, hookimpl

__all__ = ["MESH", "rtcfoci_focus_types"]

MESH = FocusType(
    type="rtcfoci.mesh",
    aliases=("mesh",),
    backend="rtcfoci_mesh.backend:MeshBackend",
    topology=Topology.PAIRWISE,
    capabilities=Capabilities(
        audio=True,
        video=True,
        data=True,
        needs_signalling=True,
        subscribe_only=True,
        max_members=16,
    ),
    media_security=Security.PEER,
    data_security=Security.PEER,
    transport_model="rtcfoci_mesh.config:MeshTransport",
    config_model="rtcfoci_mesh.config:MeshConfig",
)


@hookimpl
def rtcfoci_focus_types() -> list[FocusType]:
    """Register the mesh."""
    return [MESH]
