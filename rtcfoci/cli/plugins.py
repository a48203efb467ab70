"""`rtcfoci plugins`: what is installed, from which distribution and version, what failed and why.

In: the table and its JSON. Out: finding all that (`rtcfoci.plugin.manager`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from rtcfoci.cli.options import EXIT_NEGATIVE, EXIT_OK, Parser, current
from rtcfoci.plugin.manager import PluginManager

if TYPE_CHECKING:
    from rtcfoci.plugin.hookspecs import Capabilities
    from rtcfoci.plugin.manager import Failure, PluginInfo, Report

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Print the report; 1 when anything failed to load."""
    parser = Parser(prog="rtcfoci plugins", description="Show what is installed and what failed.")
    parser.add_argument(
        "--check", action="store_true", help="import everything the plugins name, for authors"
    )
    chosen = parser.parse_args(arguments)
    options = current()
    manager = options.manager or PluginManager.load(plugins=options.plugins)
    report = manager.check() if chosen.check else manager.report
    if options.json:
        print(json.dumps(_as_json(report), indent=2))  # noqa: T201
    else:
        print("\n".join(_as_text(report)))  # noqa: T201
    return EXIT_NEGATIVE if report.failures else EXIT_OK


def _abilities(capabilities: Capabilities) -> list[str]:
    """Name what a type can do, in the words of the descriptor."""
    values = {field.name: getattr(capabilities, field.name) for field in fields(capabilities)}
    found = [name for name, value in values.items() if value is True]
    if capabilities.max_members is not None:
        found.append(f"max_members={capabilities.max_members}")
    return found


def _as_text(report: Report) -> Iterable[str]:
    yield from _table(
        "FOCUS TYPE",
        ("ALIASES", "TOPOLOGY", "CAN", "MEDIA", "DATA", "STABILITY", "FROM"),
        [
            (
                offer.descriptor.type,
                ", ".join(offer.descriptor.aliases) or "-",
                offer.descriptor.topology.value,
                ", ".join(_abilities(offer.descriptor.capabilities)) or "-",
                offer.descriptor.media_security.value,
                offer.descriptor.data_security.value,
                offer.descriptor.stability,
                _source(offer.plugin),
            )
            for offer in report.focus_types
        ],
    )
    yield from _table(
        "DIALECT",
        ("EVENTS", "WRITABLE", "FROM"),
        [
            (
                offer.descriptor.name,
                ", ".join(offer.descriptor.event_types),
                "yes" if offer.descriptor.writable else "no",
                _source(offer.plugin),
            )
            for offer in report.dialects
        ],
    )
    yield from _table(
        "SELECTION",
        ("RULE", "FROM"),
        [
            (offer.descriptor.name, offer.descriptor.summary or "-", _source(offer.plugin))
            for offer in report.selection_policies
        ],
    )
    yield from _table(
        "READING",
        ("RULE", "FROM"),
        [
            (offer.descriptor.name, offer.descriptor.summary or "-", _source(offer.plugin))
            for offer in report.reading_policies
        ],
    )
    yield from _table(
        "COMMAND",
        ("SUMMARY", "FROM"),
        [
            (offer.descriptor.name, offer.descriptor.summary, _source(offer.plugin))
            for offer in report.cli_commands
        ],
    )
    for info in _silent(report):
        yield f"EMPTY   {_source(info)}: plugin {info.name} has no hook that offers anything"
    for failure in report.failures:
        yield f"FAILED  {_source(failure.plugin)}: {failure.error.what}"
        yield f"   why  {failure.error.why}"
        yield f"    do  {failure.error.do}"
    if not report.failures:
        yield "Nothing failed."


def _silent(report: Report) -> list[PluginInfo]:
    """Find plugins of which nothing came: often a reference to another module than the hooks'."""
    heard = {failure.plugin for failure in report.failures}
    for offers in (
        report.focus_types, report.dialects, report.selection_policies,
        report.reading_policies, report.cli_commands,
    ):  # fmt: skip
        heard |= {offer.plugin for offer in offers}
    return [info for info in report.plugins if info not in heard]


def _table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    lines = [(head, *columns), *rows] if rows else [(head,), ("none installed",)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(
            f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)
        ).rstrip()
    yield ""


def _source(info: PluginInfo) -> str:
    return (
        f"{info.distribution} {info.version}" if info.distribution else f"{info.name} (unpackaged)"
    )


def _origin(info: PluginInfo) -> dict[str, object]:
    return {"plugin": info.name, "distribution": info.distribution, "version": info.version}


def _as_json(report: Report) -> dict[str, object]:
    return {
        "plugins": [_origin(info) for info in report.plugins],
        "focus_types": [
            {
                "type": offer.descriptor.type,
                "aliases": list(offer.descriptor.aliases),
                "topology": offer.descriptor.topology.value,
                "capabilities": _abilities(offer.descriptor.capabilities),
                "media_security": offer.descriptor.media_security.value,
                "data_security": offer.descriptor.data_security.value,
                "stability": offer.descriptor.stability,
                "spec_url": offer.descriptor.spec_url,
                **_origin(offer.plugin),
            }
            for offer in report.focus_types
        ],
        "dialects": [
            {
                "name": offer.descriptor.name,
                "event_types": list(offer.descriptor.event_types),
                "writable": offer.descriptor.writable,
                **_origin(offer.plugin),
            }
            for offer in report.dialects
        ],
        "selection_policies": [
            {
                "name": offer.descriptor.name,
                "summary": offer.descriptor.summary,
                **_origin(offer.plugin),
            }
            for offer in report.selection_policies
        ],
        "reading_policies": [
            {
                "name": offer.descriptor.name,
                "summary": offer.descriptor.summary,
                **_origin(offer.plugin),
            }
            for offer in report.reading_policies
        ],
        "cli_commands": [
            {
                "name": offer.descriptor.name,
                "summary": offer.descriptor.summary,
                **_origin(offer.plugin),
            }
            for offer in report.cli_commands
        ],
        "failures": [_failure(failure) for failure in report.failures],
    }


def _failure(failure: Failure) -> dict[str, object]:
    error = failure.error
    return {**_origin(failure.plugin), "what": error.what, "why": error.why, "do": error.do}
