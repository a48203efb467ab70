"""What a plugin author imports: the hook marker, the descriptors, and the backend contract.

A whole plugin in two steps. First the hook module, named by an entry point of the group `rtcfoci`::

    from rtcfoci.plugin import Capabilities, FocusType, Topology, hookimpl

    @hookimpl
    def rtcfoci_focus_types():
        return [
            FocusType(
                type="org.example.relay",
                backend="example_relay.backend:RelayBackend",
                topology=Topology.ELECTED,
                capabilities=Capabilities(data=True),
            )
        ]

Then the class it names, a subclass of `Backend` whose `connect` returns a `Connection`.
The backend contract loads on first use, so that hook modules stay quick to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rtcfoci.plugin.hookspecs import (
    CONTRACT,
    Capabilities,
    CliCommand,
    DialectInfo,
    FocusType,
    ReadingPolicyInfo,
    Security,
    SelectionPolicyInfo,
    Topology,
    hookimpl,
)

if TYPE_CHECKING:
    from rtcfoci.plugin.backend import (
        Backend,
        Connection,
        DoctorHop,
        Health,
        LeaveDelegation,
        Quality,
        Role,
        SignalSecurity,
    )
    from rtcfoci.plugin.context import Context, HttpResponse, WebSocket
    from rtcfoci.plugin.events import (
        ConditionCleared,
        ConditionRaised,
        ConnectionEvent,
        DataReceived,
        FirstMedia,
        KeyProblem,
        Speaking,
        TrackAdded,
        TrackMuted,
        TrackRemoved,
    )
    from rtcfoci.plugin.stats import ConnectionStats, PairStats, PathStats

__all__ = [
    "CONTRACT",
    "Backend",
    "Capabilities",
    "CliCommand",
    "ConditionCleared",
    "ConditionRaised",
    "Connection",
    "ConnectionEvent",
    "ConnectionStats",
    "Context",
    "DataReceived",
    "DialectInfo",
    "DoctorHop",
    "FirstMedia",
    "FocusType",
    "Health",
    "HttpResponse",
    "KeyProblem",
    "LeaveDelegation",
    "PairStats",
    "PathStats",
    "Quality",
    "ReadingPolicyInfo",
    "Role",
    "Security",
    "SelectionPolicyInfo",
    "SignalSecurity",
    "Speaking",
    "Topology",
    "TrackAdded",
    "TrackMuted",
    "TrackRemoved",
    "WebSocket",
    "hookimpl",
]


_LAZY = ("backend", "context", "events", "stats")


def __getattr__(name: str) -> object:
    if name in __all__:
        for module_name in _LAZY:
            module = importlib.import_module(f"rtcfoci.plugin.{module_name}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
