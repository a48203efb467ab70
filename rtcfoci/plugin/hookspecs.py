"""The hooks: one page, all synchronous, all cheap, all returning descriptors.

A plugin is a module (or object) behind an entry point of the group `rtcfoci` whose functions carry
`@hookimpl`. Hook modules import only the standard library and `rtcfoci.plugin`; whatever is heavy is
named as `module:attribute` and imported on first use. Asynchronous work belongs to the backend
(`rtcfoci.plugin.backend`), never to a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from pluggy import HookimplMarker, HookspecMarker

__all__ = [
    "CONTRACT",
    "Capabilities",
    "CliCommand",
    "DialectInfo",
    "FocusType",
    "ReadingPolicyInfo",
    "Security",
    "SelectionPolicyInfo",
    "Topology",
    "hookimpl",
    "hookspec",
    "rtcfoci_cli_commands",
    "rtcfoci_dialects",
    "rtcfoci_focus_types",
    "rtcfoci_reading_policies",
    "rtcfoci_selection_policies",
]

CONTRACT = 1
"""The contract version this rtcfoci speaks; every descriptor states the one it was written for."""

_F = TypeVar("_F", bound=Callable[..., object])
hookspec: HookspecMarker = HookspecMarker("rtcfoci")
hookimpl: HookimplMarker = HookimplMarker("rtcfoci")


class Topology(Enum):
    """Who meets whom on a focus."""

    PAIRWISE = "pairwise"
    """One connection object; its pairs are its own affair (a mesh)."""
    PER_MEMBER = "per_member"
    """Each publishes on its own focus, others subscribe there (MSC4195)."""
    ELECTED = "elected"
    """All on one focus, chosen by the selection policy."""
    LINKED = "linked"
    """Each publishes and subscribes on its own focus, and the foci forward to each other."""


class Security(Enum):
    """What protects the payload, from least to most."""

    NONE = "none"
    HOP = "hop"
    """Encrypted up to the focus, which can read it."""
    PEER = "peer"
    """End to end by the transport itself."""
    FRAME = "frame"
    """End to end by media keys (`Connection.set_key`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a focus type can do; suites and commands ask these, never a type's name."""

    audio: bool = False
    video: bool = False
    data: bool = False
    needs_signalling: bool = False
    needs_server: bool = False
    subscribe_only: bool = False
    """A member can receive without publishing."""
    delegated_leave: bool = False
    max_members: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusType:
    """One focus type: the type string on the wire, and where its code is."""

    type: str
    backend: str
    """`module:attribute` of a `Backend` subclass."""
    topology: Topology
    capabilities: Capabilities
    media_security: Security = Security.NONE
    data_security: Security = Security.NONE
    aliases: tuple[str, ...] = ()
    """Other type strings that mean the same focus, and short names for people (`mesh`)."""
    transport_model: str = ""
    """`module:attribute` of a pydantic model of the descriptor that keeps unknown keys; optional."""
    config_model: str = ""
    """`module:attribute` of a pydantic model of the type's configuration; optional."""
    stability: str = "experimental"
    spec_url: str = ""
    contract: int = CONTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectInfo:
    """One wire generation of memberships."""

    name: str
    """Such as `D3`."""
    dialect: str
    """`module:attribute` of a `rtcfoci.core.dialects.Dialect`, or of a `WritableDialect`."""
    event_types: tuple[str, ...]
    writable: bool = True
    summary: str = ""
    contract: int = CONTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionPolicyInfo:
    """One rule for choosing a focus."""

    name: str
    policy: str
    """`module:attribute` of a `rtcfoci.core.selection.SelectionPolicy`."""
    summary: str = ""
    contract: int = CONTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPolicyInfo:
    """One rule for which memberships count."""

    name: str
    policy: str
    """`module:attribute` of a `rtcfoci.core.policies.ReadingPolicy`."""
    summary: str = ""
    contract: int = CONTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class CliCommand:
    """One subcommand of `rtcfoci`; `--help` loads nothing but this."""

    name: str
    summary: str
    run: str
    """`module:attribute` of `run(arguments: list[str]) -> int` (an exit code)."""
    contract: int = CONTRACT
    aliases: tuple[str, ...] = field(default=())


@hookspec
def rtcfoci_focus_types() -> Iterable[FocusType]:
    """Return the focus types this plugin implements."""
    raise AssertionError("a specification is never called")


@hookspec
def rtcfoci_dialects() -> Iterable[DialectInfo]:
    """Return the membership dialects this plugin reads or writes."""
    raise AssertionError("a specification is never called")


@hookspec
def rtcfoci_selection_policies() -> Iterable[SelectionPolicyInfo]:
    """Return the selection policies this plugin offers."""
    raise AssertionError("a specification is never called")


@hookspec
def rtcfoci_reading_policies() -> Iterable[ReadingPolicyInfo]:
    """Return the reading policies this plugin offers."""
    raise AssertionError("a specification is never called")


@hookspec
def rtcfoci_cli_commands() -> Iterable[CliCommand]:
    """Return the subcommands this plugin adds to `rtcfoci`."""
    raise AssertionError("a specification is never called")
