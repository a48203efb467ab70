"""What rtcfoci itself brings, through the same hooks as everybody else."""

from __future__ import annotations

from collections.abc import Iterable

from rtcfoci.plugin.hookspecs import (
    CliCommand,
    DialectInfo,
    ReadingPolicyInfo,
    SelectionPolicyInfo,
    hookimpl,
)

__all__ = [
    "rtcfoci_cli_commands",
    "rtcfoci_dialects",
    "rtcfoci_reading_policies",
    "rtcfoci_selection_policies",
]

_STATE_EVENTS = ("org.matrix.msc3401.call.member", "m.call.member")
_DRAFT_EVENTS = ("org.matrix.msc3401.call.member", "m.rtc.member")
_STICKY_EVENTS = ("org.matrix.msc4143.rtc.member", "m.rtc.member")


@hookimpl
def rtcfoci_dialects() -> Iterable[DialectInfo]:
    """Offer the wire generations that people's clients speak."""
    return (
        DialectInfo(
            name="D0",
            dialect="rtcfoci.core.dialects.d0:D0",
            event_types=_STATE_EVENTS,
            writable=False,
            summary="MSC3401, m.calls: recognised and refused",
        ),
        DialectInfo(
            name="D1",
            dialect="rtcfoci.core.dialects.d1:D1",
            event_types=_STATE_EVENTS,
            writable=False,
            summary="state, memberships[] of a user's devices",
        ),
        DialectInfo(
            name="D2",
            dialect="rtcfoci.core.dialects.d2:D2",
            event_types=_STATE_EVENTS,
            summary="state of each device, all on the oldest member's focus",
        ),
        DialectInfo(
            name="D3",
            dialect="rtcfoci.core.dialects.d3:D3",
            event_types=_STATE_EVENTS,
            summary="state of each device, each publishes on its own focus",
        ),
        DialectInfo(
            name="D4",
            dialect="rtcfoci.core.dialects.d4:D4",
            event_types=_DRAFT_EVENTS,
            writable=False,
            summary="state, session and member apart (MSC4143 of 2024-12)",
        ),
        DialectInfo(
            name="D5",
            dialect="rtcfoci.core.dialects.d5:D5",
            event_types=_STICKY_EVENTS,
            summary="sticky, rtc_transports",
        ),
        DialectInfo(
            name="D6/D7",
            dialect="rtcfoci.core.dialects.superset:Superset",
            event_types=_STICKY_EVENTS,
            summary="sticky, transports: deployed form and text of MSC4143",
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
def rtcfoci_reading_policies() -> Iterable[ReadingPolicyInfo]:
    """Offer the rules of deployed clients, of the text, and of a participant."""
    return (
        ReadingPolicyInfo(
            name="deployed",
            policy="rtcfoci.core.policies:DEPLOYED",
            summary="as matrix-js-sdk 43 reads",
        ),
        ReadingPolicyInfo(
            name="strict",
            policy="rtcfoci.core.policies:STRICT",
            summary="as MSC4143 says",
        ),
        ReadingPolicyInfo(
            name="tolerant",
            policy="rtcfoci.core.policies:TOLERANT",
            summary="every dialect, whatever the slot says",
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
            name="lint",
            summary="judge a membership event: its dialect, its faults, who sees the member",
            run="rtcfoci.cli.lint:run",
        ),
        CliCommand(
            name="plugins",
            summary="what is installed, what it can do, what failed and why",
            run="rtcfoci.cli.plugins:run",
        ),
        CliCommand(
            name="replay",
            summary="feed the recording of a call through the core again",
            run="rtcfoci.cli.replay:run",
        ),
        CliCommand(
            name="session",
            summary="fold a file of events into a session, with reasons",
            run="rtcfoci.cli.session:run",
        ),
        CliCommand(name="slot", summary="open or close a slot", run="rtcfoci.cli.slot:run"),
        CliCommand(
            name="timeline",
            summary="draw who was in which slot on which focus when",
            run="rtcfoci.cli.timeline:run",
        ),
        CliCommand(
            name="watch", summary="show a room's session as it changes", run="rtcfoci.cli.watch:run"
        ),
    )
