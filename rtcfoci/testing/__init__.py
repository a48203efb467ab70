"""For tests of call apps and focus plugins: clocks, homeservers and the conformance kit.

Names are resolved on first use (PEP 562), since pytest loads this package at every start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtcfoci.testing.accounts import Accounts, Credentials
    from rtcfoci.testing.clock import DeadlockError, VirtualClock, VirtualLoop, run
    from rtcfoci.testing.conformance import BackendConformance
    from rtcfoci.testing.context import FakeContext, FakeNetwork
    from rtcfoci.testing.dialect_suite import DialectConformance, ReadingPolicyConformance
    from rtcfoci.testing.homeserver import Line, MemoryHomeserver
    from rtcfoci.testing.homeserver_devices import DeviceMessage
    from rtcfoci.testing.lobby import Lobby, Peer
    from rtcfoci.testing.memory_world import MemoryWorld
    from rtcfoci.testing.require import required, skip_or_fail
    from rtcfoci.testing.selection_suite import SelectionConformance
    from rtcfoci.testing.stage import Participant, Stage
    from rtcfoci.testing.synapse import (
        SYNAPSE_VERSION,
        Synapse,
        SynapseOptions,
        federated_pair,
    )

__all__ = [
    "SYNAPSE_VERSION",
    "Accounts",
    "BackendConformance",
    "Credentials",
    "DeadlockError",
    "DeviceMessage",
    "DialectConformance",
    "FakeContext",
    "FakeNetwork",
    "Line",
    "Lobby",
    "MemoryHomeserver",
    "MemoryWorld",
    "Participant",
    "Peer",
    "ReadingPolicyConformance",
    "SelectionConformance",
    "Stage",
    "Synapse",
    "SynapseOptions",
    "VirtualClock",
    "VirtualLoop",
    "federated_pair",
    "required",
    "run",
    "skip_or_fail",
]

_HOMES = {
    "DeadlockError": "clock",
    "VirtualClock": "clock",
    "VirtualLoop": "clock",
    "run": "clock",
    "required": "require",
    "skip_or_fail": "require",
    "SYNAPSE_VERSION": "synapse",
    "BackendConformance": "conformance",
    "DialectConformance": "dialect_suite",
    "ReadingPolicyConformance": "dialect_suite",
    "SelectionConformance": "selection_suite",
    "FakeContext": "context",
    "FakeNetwork": "context",
    "Lobby": "lobby",
    "Peer": "lobby",
    "MemoryWorld": "memory_world",
    "Participant": "stage",
    "Stage": "stage",
    "Accounts": "accounts",
    "Credentials": "accounts",
    "DeviceMessage": "homeserver_devices",
    "Line": "homeserver",
    "MemoryHomeserver": "homeserver",
    "Synapse": "synapse",
    "SynapseOptions": "synapse",
    "federated_pair": "synapse",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
