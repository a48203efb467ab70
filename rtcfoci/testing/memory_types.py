"""The hook module of the memory focus types; load it with `--plugin rtcfoci.testing.memory_types`."""

from __future__ import annotations

from collections.abc import Iterable

from rtcfoci.plugin import Capabilities, FocusType, Security, Topology, hookimpl

__all__ = ["rtcfoci_focus_types"]


@hookimpl
def rtcfoci_focus_types() -> Iterable[FocusType]:
    """Offer one type for each topology."""
    for topology in Topology:
        yield FocusType(
            type=f"memory.{topology.value}",
            backend=f"rtcfoci.testing.memory:{topology.name.title().replace('_', '')}",
            topology=topology,
            capabilities=Capabilities(
                audio=True,
                video=True,
                data=True,
                subscribe_only=True,
                needs_server=topology is not Topology.PAIRWISE,
                needs_signalling=topology is Topology.PAIRWISE,
                delegated_leave=topology is not Topology.PAIRWISE,
            ),
            media_security=Security.FRAME,
            data_security=Security.PEER,
            config_model="rtcfoci.testing.memory_world:MemoryConfig",
            stability="testing",
        )
