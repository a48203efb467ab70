"""`rtcfoci join`: take part in a call with sources to send and a folder to record into.

In: the options, checking sources and folder before anything is sent, running until told to stop.
Out: what is shown meanwhile (`monitor`), accounts (`account`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rtcfoci.cli.account import add_account_options, connect_account
from rtcfoci.cli.options import EXIT_NEGATIVE, EXIT_OK, Parser, current, printable, seconds
from rtcfoci.errors import BackendError, UsageError
from rtcfoci.plugin.manager import PluginManager

if TYPE_CHECKING:
    from rtcfoci.call.call import Call
    from rtcfoci.cli.monitor import Reporter
    from rtcfoci.core.lifecycle import LifecycleConfig
    from rtcfoci.matrix.cs import CsClient
    from rtcfoci.media.sources import LocalSource

__all__ = ["add_focus_options", "chosen_foci", "run", "stop_on_signals"]


_COUNT_EVERY_S = 0.2


def run(arguments: list[str]) -> int:
    """Run the command."""
    parser = Parser(prog="rtcfoci join", description="Take part in a call until Ctrl-C.")
    parser.add_argument("room", metavar="ROOM", help="room id or alias")
    add_account_options(parser)
    add_focus_options(parser)
    media = parser.add_argument_group("media")
    media.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SPEC",
        help="what to send: tone:440, pattern, silence, file:PATH, device; may be repeated",
    )
    media.add_argument(
        "--record", type=Path, metavar="DIR", help="record every participant into this folder"
    )
    media.add_argument(
        "--count-data",
        action="store_true",
        help="send a numbered data message five times a second, and record those of others",
    )
    media.add_argument("--record-as-user", action="store_true", help=argparse.SUPPRESS)
    media.add_argument("--distort", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--leave-delay",
        type=seconds,
        metavar="S",
        help="how long after a crash the homeserver withdraws us (default: 18)",
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="serve figures for Prometheus on this port of loopback; 0: any free one",
    )
    parser.add_argument(
        "--duration", type=seconds, metavar="S", help="leave after this many seconds"
    )
    parser.add_argument(
        "--dialect",
        metavar="NAME",
        help="membership dialect to write, as `rtcfoci plugins` lists them (default: what fits)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write a membership even if it would crash other people's clients",
    )
    parser.add_argument(
        "--open-slot",
        choices=("auto", "never"),
        default="auto",
        help="open an existing closed slot where our power permits (auto, the default)",
    )
    parser.add_argument(
        "--selection",
        metavar="NAME",
        help="selection policy, as `rtcfoci plugins` lists them (default: what fits the focus)",
    )
    parser.add_argument(
        "--allow-insecure",
        action="store_true",
        help="in an encrypted room, accept focus types that protect media or data less",
    )
    parser.add_argument(
        "--require-trusted",
        action="store_true",
        help="exchange media keys and signals with cross-signed devices alone; takes an encrypted room",
    )
    parser.add_argument(
        "--accept-identity",
        action="append",
        default=[],
        metavar="USER",
        help="believe the cross-signing identity that this user has now; may be repeated",
    )
    parser.add_argument(
        "--ring",
        action="append",
        default=[],
        metavar="WHO",
        help="if we begin the call, ring this user, or `room` for everybody; may be repeated",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="record what goes into the core and what comes out in a new file, for `replay`",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="USER",
        help="receive nothing of this user; may be repeated",
    )
    return asyncio.run(_join(parser.parse_args(arguments)))


def add_focus_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose focus and slot."""
    group = parser.add_argument_group("focus")
    group.add_argument(
        "--focus",
        action="append",
        default=[],
        metavar="TYPE",
        help="focus type to accept; repeat in order of preference (default: mesh)",
    )
    group.add_argument(
        "--focus-option",
        action="append",
        default=[],
        metavar="TYPE.KEY=VALUE",
        help="configuration of a focus type, VALUE as JSON or text; may be repeated",
    )
    group.add_argument("--application", default="m.call", help="application type of the slot")
    group.add_argument("--slot", default="ROOM", help="name of the slot (default: ROOM)")


def chosen_foci(options: argparse.Namespace) -> list[tuple[str, Mapping[str, object]]]:
    """Turn the options into what `rtcfoci.join` takes.

    :raises UsageError: for an option of a type that was not named, or without a value.
    """
    config: dict[str, dict[str, object]] = {name: {} for name in options.focus or ["mesh"]}
    for option in options.focus_option:
        name, equals, text = option.partition("=")
        focus_type, dot, key = name.rpartition(".")
        if not equals or not dot or focus_type not in config:
            raise UsageError(
                f"--focus-option {option!r} is not understood",
                why=f"it is TYPE.KEY=VALUE, with a TYPE out of: {', '.join(config)}",
                do="for example: --focus mesh --focus-option mesh.loopback=true",
            )
        try:
            config[focus_type][key] = json.loads(text)
        except ValueError:
            config[focus_type][key] = text
    return list(config.items())


async def _join(options: argparse.Namespace) -> int:
    """Join and take part; told to stop before that, withdraw what was begun.

    :raises KeyboardInterrupt: when told to stop before we were in the call.
    """
    with stop_on_signals() as stopped:
        joined = asyncio.Event()
        calling = asyncio.create_task(_call(options, joined, stopped))
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait((calling, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not calling.done() and not joined.is_set():
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            raise KeyboardInterrupt
        waiting.cancel()
        return await calling


async def _call(options: argparse.Namespace, joined: asyncio.Event, stopped: asyncio.Event) -> int:
    from rtcfoci.call.join import join
    from rtcfoci.call.prometheus import PrometheusExporter
    from rtcfoci.call.sessions import find_dialect, find_selection_policy
    from rtcfoci.cli.monitor import JsonReporter, TableReporter
    from rtcfoci.lab.saving import require_new_file
    from rtcfoci.media.specs import check_folder, check_source, open_source

    # What is misspelt or missing here is told before anything is asked of the homeserver.
    manager = current().manager or PluginManager.load()
    foci = chosen_foci(options)
    for name, _ in foci:
        manager.focus_type(name)
    if options.dialect is not None:
        find_dialect(manager, options.dialect)
    if options.selection is not None:
        find_selection_policy(manager, options.selection)
    for spec in options.source:
        check_source(spec)
    if options.record is not None:
        check_folder(options.record)
    if options.trace is not None:
        require_new_file(options.trace)
    exporter = None if options.metrics_port is None else PrometheusExporter()
    sources = [open_source(spec) for spec in options.source]
    announce = {kind for source in sources for kind in source.hubs}
    client: CsClient | None = None
    stop_serving: Callable[[], None] | None = None
    try:
        if exporter is not None:
            port, stop_serving = exporter.serve(options.metrics_port)
            if options.metrics_port == 0:
                sys.stderr.write(f"metrics: http://127.0.0.1:{port}/metrics\n")
        client = await connect_account(options)
        for user_id in options.accept_identity:
            client.store.forget_identity(user_id)
        async with join(
            client,
            options.room,
            foci=foci,
            slot=options.slot,
            application=options.application,
            announce=announce,
            dialect=options.dialect,
            force=options.force,
            selection=options.selection,
            open_slot=options.open_slot,
            allow_insecure=options.allow_insecure,
            require_trusted=options.require_trusted,
            lifecycle=_lifecycle(options.leave_delay),
            plugins=manager,
            trace=options.trace,
        ) as call:
            joined.set()
            for remark in call.remarks:
                sys.stderr.write(f"note: {printable(remark)}\n")
            if exporter is not None:
                exporter.add(call)
            reporter = JsonReporter(call) if current().json else TableReporter(call)
            try:
                if options.ring and not call.participants:
                    await call.ring(None if "room" in options.ring else options.ring)
                return await _take_part(call, options, sources, reporter, stopped)
            finally:
                reporter.close()
    finally:
        await asyncio.gather(*(source.aclose() for source in sources))
        if client is not None:
            await client.aclose()
        if stop_serving is not None:
            await asyncio.to_thread(stop_serving)


def _lifecycle(leave_delay_s: float | None) -> LifecycleConfig | None:
    from rtcfoci.core.lifecycle import LifecycleConfig

    if leave_delay_s is None:
        return None
    # The same proportion as the defaults: four restarts in one delay, with some to spare.
    return LifecycleConfig(
        leave_delay_ms=int(leave_delay_s * 1000), restart_every_s=leave_delay_s * 4 / 18
    )


async def _take_part(
    call: Call,
    options: argparse.Namespace,
    sources: list[LocalSource],
    reporter: Reporter,
    stopped: asyncio.Event,
) -> int:
    from rtcfoci.call import events as ev
    from rtcfoci.cli.recordings import Recordings, distorted
    from rtcfoci.plugin.backend import Quality

    recordings = None
    if options.record is not None:
        recordings = Recordings(
            options.record, call.recording_failed, by_user=options.record_as_user
        )
    for source in sources:
        for hub in source.hubs.values():
            await call.publish(distorted(hub) if options.distort else hub)
        source.start()

    async def follow() -> int:
        async for event in call.events():
            if isinstance(event, ev.TrackAdded):
                if event.track.track_id.member.user_id in options.ignore:
                    await call.subscribe(event.track, Quality.OFF)
                elif recordings is not None:
                    recordings.add(event.track)
            elif (
                isinstance(event, ev.DataReceived)
                and recordings is not None
                and event.member.user_id not in options.ignore
            ):
                recordings.note(event.member, event.payload)
            reporter.on_event(event)
            if isinstance(event, ev.CallEnded):
                return EXIT_NEGATIVE if event.condition else EXIT_OK
        return EXIT_OK

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            reporter.stats = await call.stats()
            reporter.tick()

    async def count() -> None:
        number = 0
        while True:
            await asyncio.sleep(_COUNT_EVERY_S)
            try:
                await call.send_data(json.dumps({"n": number}).encode(), topic="rtcfoci.count")
            except BackendError:
                continue  # not connected yet, or for a moment: nothing was sent
            except UsageError:
                return  # the call is over, which `follow` tells of
            number += 1

    async def until_told() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.duration):
                await stopped.wait()

    following = asyncio.create_task(follow())
    helpers = [asyncio.create_task(tick()), asyncio.create_task(until_told())]
    if options.count_data:
        helpers.append(asyncio.create_task(count()))
    try:
        await asyncio.wait((following, *helpers), return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            await call.leave()
        for helper in helpers:
            if helper.done():
                helper.result()  # such as: who read what we print is gone
        return await following
    finally:
        for task in (following, *helpers):
            task.cancel()
        if recordings is not None:
            await recordings.aclose()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Give an event that Ctrl-C and SIGTERM set, so that a command can leave politely."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    undo: list[Callable[[], object]] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # not on every platform
            loop.add_signal_handler(number, stopped.set)
            undo.append(functools.partial(loop.remove_signal_handler, number))
    try:
        yield stopped
    finally:
        for remove in undo:
            remove()
