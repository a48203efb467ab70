"""What rtcfoci itself brings, through the same hooks as everybody else."""

from __future__ import annotations

from collections.abc import Iterable

from rtcfoci.plugin.hookspecs import CliCommand, DialectInfo, SelectionPolicyInfo, hookimpl

__all__ = ["rtcfoci_cli_commands", "rtcfoci_dialects", "rtcfoci_selection_policies"]

_STATE_EVENTS = ("org.matrix.msc3401.call.member",)
_STICKY_EVENTS = ("org.matrix.msc4143.rtc.member", "m.rtc.member")


@hookimpl
def rtcfoci_dialects() -> Iterable[DialectInfo]:
    """Offer the wire generations that people's clients speak."""
    return (
        DialectInfo(name="D2", dialect="rtcfoci.core.dialects.d2:D2", event_types=_STATE_EVENTS),
        DialectInfo(name="D3", dialect="rtcfoci.core.dialects.d3:D3", event_types=_STATE_EVENTS),
        DialectInfo(
            name="D6/D7",
            dialect="rtcfoci.core.dialects.superset:Superset",
            event_types=_STICKY_EVENTS,
        ),
    )


@hookimpl
def rtcfoci_selection_policies() -> Iterable[SelectionPolicyInfo]:
    """Offer the two rules of deployed clients."""
    return (
        SelectionPolicyInfo(
            name="oldest_membership",
            policy="rtcfoci.core.selection:OldestMembership",
            summary="everybody uses the focus of the oldest member",
        ),
        SelectionPolicyInfo(
            name="each_its_own",
            policy="rtcfoci.core.selection:EachItsOwn",
            summary="each publishes on its own focus, others subscribe there",
        ),
    )


@hookimpl
def rtcfoci_cli_commands() -> Iterable[CliCommand]:
    """Offer the commands that are always there."""
    return (
        CliCommand(
            name="demo",
            summary="three participants, a real homeserver, one verdict",
            run="rtcfoci.cli.demo:run",
        ),
        CliCommand(name="join", summary="take part in a call", run="rtcfoci.cli.join:run"),
        CliCommand(
            name="plugins",
            summary="what is installed, what it can do, what failed and why",
            run="rtcfoci.cli.plugins:run",
        ),
        CliCommand(name="slot", summary="open or close a slot", run="rtcfoci.cli.slot:run"),
        CliCommand(
            name="watch", summary="show a room's session as it changes", run="rtcfoci.cli.watch:run"
        ),
    )
