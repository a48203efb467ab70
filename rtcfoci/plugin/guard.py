"""What one plugin may do to us: how it is found, asked and checked, and how its failure is told.

In: the checks of one plugin, one hook result, one descriptor, one model. Out: the collection
(`manager`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from rtcfoci.errors import PluginError, Problem, RtcfociError
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
)
from rtcfoci.plugin.reference import is_reference, resolve

if TYPE_CHECKING:
    from pluggy import Result
    from pydantic import BaseModel

    from rtcfoci.core.model import JsonObject

__all__ = [
    "FOREIGN",
    "KIND_NAMES",
    "Descriptor",
    "Failure",
    "PluginInfo",
    "ask",
    "failure",
    "find",
    "misfits",
    "names",
    "references",
    "trace_after",
    "trace_before",
    "validate",
]

FOREIGN = (Exception, SystemExit)
"""Whatever foreign code raises while it is imported or asked; a script exits where a module would not."""
Descriptor: TypeAlias = (
    FocusType | DialectInfo | SelectionPolicyInfo | ReadingPolicyInfo | CliCommand
)
KIND_NAMES: Mapping[type, str] = {
    FocusType: "focus type",
    DialectInfo: "dialect",
    SelectionPolicyInfo: "selection policy",
    ReadingPolicyInfo: "reading policy",
    CliCommand: "command",
}
_REFERENCES = ("backend", "transport_model", "config_model", "dialect", "policy", "run")
_CHECKS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "tuple[str, ...]": (tuple,),
    "Topology": (Topology,),
    "Security": (Security,),
    "Capabilities": (Capabilities,),
}
"""The classes that a descriptor's annotations allow."""


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """Where a plugin comes from."""

    name: str
    """The entry point's name, or the reference of an unpackaged plugin."""
    distribution: str = ""
    """Empty for an unpackaged plugin."""
    version: str = ""

    @property
    def source(self) -> str:
        """The distribution, or the reference of an unpackaged plugin."""
        return self.distribution or self.name

    @property
    def key(self) -> tuple[str, str]:
        return self.distribution, self.name


@dataclass(frozen=True, slots=True)
class Failure:
    """Something of a plugin that was refused; the rest of it, and all others, go on."""

    plugin: PluginInfo
    error: PluginError


class _Hook(Protocol):
    def __call__(self) -> object: ...


def failure(
    info: PluginInfo, what: str, *, why: str = "", do: str = "", cause: BaseException | None = None
) -> Failure:
    """Tell a failure, with a cause and a remedy in any case."""
    if isinstance(cause, RtcfociError):
        why, do = why or cause.why or cause.what, do or cause.do
    elif cause is not None:
        # The last line of a foreign message is enough; the chain keeps the rest for --debug.
        text = (str(cause).strip().splitlines() or [""])[-1]
        why = f"{type(cause).__name__}: {text}"
    if not do and info.distribution:
        do = f"pip install --upgrade {info.distribution}, or block it: {_block(info)}"
    error = PluginError(
        what,
        plugin=info.name,
        distribution=info.distribution,
        why=why or "the plugin does not follow the contract (rtcfoci.plugin)",
        do=do or "correct the plugin",
    )
    error.__cause__ = cause
    return Failure(info, error)


def _block(info: PluginInfo) -> str:
    return f"RTCFOCI_BLOCK_PLUGINS={info.distribution}"


def find(reference: str) -> object:
    """Import an unpackaged plugin: a module, or `module:attribute`."""
    if ":" in reference:
        return resolve(reference, plugin=reference)
    return importlib.import_module(reference)


def misfits(plugin: object, hooks: Iterable[str]) -> list[tuple[str, str]]:
    """List (what, remedy) of every function that wants to be a hook and is none.

    pluggy takes a misspelt name in silence, and forgets a function without its marker.
    """
    specs = [name for name in hooks if name.startswith("rtcfoci_")]
    wrong: list[tuple[str, str]] = []
    for name in dir(plugin):
        function = inspect.getattr_static(plugin, name, None)
        if isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        if not inspect.isroutine(function):
            continue  # pluggy takes no other for a hook, and asking a lazy proxy may raise
        marker = getattr(function, "rtcfoci_impl", None)
        marked = isinstance(marker, dict)
        if not marked and not name.startswith("rtcfoci_"):
            continue
        options = cast("dict[str, object]", marker) if marked else {}
        hook = str(options.get("specname") or name)
        if hook not in specs:
            if not options.get("optionalhook"):
                like = difflib.get_close_matches(hook, specs, n=1)
                meant = f"did you mean {like[0]}?" if like else f"the hooks are {', '.join(specs)}"
                wrong.append((f"there is no hook {hook}", meant))
        elif not marked:
            wrong.append((f"{hook} is not marked", "put @hookimpl (rtcfoci.plugin) above it"))
    return wrong


def ask(
    info: PluginInfo, name: str, hook: _Hook, kind: type
) -> tuple[list[Descriptor], list[Failure]]:
    """Call one hook of one plugin: what it offers, and what is wrong with the rest."""
    try:
        results = cast("list[object]", hook())
    except FOREIGN as error:
        return [], [failure(info, f"hook {name} failed", cause=error)]
    good: list[Descriptor] = []
    bad: list[Failure] = []
    for result in results:
        if inspect.iscoroutine(result):
            result.close()
            bad.append(_asynchronous(info, name))
        elif inspect.isasyncgen(result) or inspect.isawaitable(result):
            bad.append(_asynchronous(info, name))
        elif isinstance(result, (str, bytes, Mapping)) or not isinstance(result, Iterable):
            bad.append(
                failure(
                    info,
                    f"hook {name} returned {type(result).__name__}",
                    why="a hook returns a list of descriptors",
                    do="return a list, even for a single descriptor",
                )
            )
        else:
            try:
                descriptors = list(result)
            except FOREIGN as error:  # a generator fails when it is read
                bad.append(failure(info, f"hook {name} failed", cause=error))
                continue
            for descriptor in descriptors:
                problem = _check(info, name, descriptor, kind)
                if problem is None:
                    good.append(cast("Descriptor", descriptor))
                else:
                    bad.append(problem)
    return good, bad


def _asynchronous(info: PluginInfo, name: str) -> Failure:
    return failure(
        info,
        f"hook {name} is asynchronous",
        why="hooks are synchronous and cheap; asynchronous work belongs to the backend",
        do=f"write def {name}, without async, and return descriptors",
    )


def _check(info: PluginInfo, name: str, descriptor: object, kind: type) -> Failure | None:
    if not isinstance(descriptor, kind):
        return failure(
            info,
            f"hook {name} returned a list with {type(descriptor).__name__}",
            why=f"it holds {kind.__name__} descriptors only",
            do=f"return rtcfoci.plugin.{kind.__name__} instances",
        )
    values = cast("Descriptor", descriptor)
    label: object = getattr(values, "type", None) or getattr(values, "name", None) or "?"
    what = f"{KIND_NAMES[kind]} {label!r} is not usable"
    contract: object = values.contract
    if contract != CONTRACT:
        newer = isinstance(contract, int) and contract > CONTRACT
        source = "rtcfoci" if newer else info.distribution
        return failure(
            info,
            what,
            why=f"it was written for contract {contract}, this rtcfoci speaks {CONTRACT}",
            do=f"pip install --upgrade {source}" if source else f"port it to contract {CONTRACT}",
        )
    wrong = _wrong_fields(values)
    can: object = getattr(values, "capabilities", None)
    if isinstance(can, Capabilities):
        wrong += _wrong_fields(can)
    if wrong:
        return failure(info, what, why="; ".join(wrong), do="correct the descriptor")
    return None


def _wrong_fields(value: Descriptor | Capabilities) -> list[str]:
    wrong: list[str] = []
    for field in fields(value):
        held: object = getattr(value, field.name)
        allowed = _CHECKS.get(str(field.type), (object,))  # a field of their own is their affair
        if not isinstance(held, allowed):
            wrong.append(f"{field.name} is {type(held).__name__}, not {field.type}")
        elif isinstance(held, tuple) and not all(isinstance(item, str) and item for item in held):
            wrong.append(f"{field.name} holds something other than names")
        elif field.name in ("type", "name") and not held:
            wrong.append(f"{field.name} is empty")
        elif field.name in _REFERENCES:
            optional = field.name.endswith("_model")
            if not (optional and not held) and not is_reference(str(held)):
                wrong.append(f"{field.name} is {held!r}, not module:attribute")
    return wrong


def names(descriptor: Descriptor) -> tuple[str, ...]:
    """List the names a descriptor claims."""
    if isinstance(descriptor, FocusType):
        return tuple(dict.fromkeys((descriptor.type, *descriptor.aliases)))
    if isinstance(descriptor, CliCommand):
        return tuple(dict.fromkeys((descriptor.name, *descriptor.aliases)))
    return (descriptor.name,)


def references(descriptor: Descriptor) -> list[str]:
    """List the `module:attribute` references a descriptor holds."""
    held = (getattr(descriptor, name, "") for name in _REFERENCES)
    return [reference for reference in held if reference]


def validate(model: type[BaseModel], data: JsonObject) -> tuple[object, list[Problem]]:
    """Read data with a model: the value, and what is wrong, without repeating what was given."""
    from pydantic import ValidationError

    try:
        return model.model_validate(dict(data)), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return None, [
            Problem(item["type"], f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}")
            for item in found
        ]
    except Exception as error:  # a validator of theirs, which should raise ValueError
        return None, [Problem("broken_model", f"{model.__name__} raised {type(error).__name__}")]


def trace_before(name: str, implementations: Sequence[object], arguments: object) -> None:
    """Print a hook call before it happens (pluggy monitoring)."""
    plugins = ", ".join(str(getattr(item, "plugin_name", "?")) for item in implementations)
    print(f"rtcfoci: hook {name} -> {plugins or 'nobody'}", file=sys.stderr)  # noqa: T201


def trace_after(
    outcome: Result[object], name: str, implementations: Sequence[object], arguments: object
) -> None:
    """Print what a hook call gave (pluggy monitoring)."""
    given = repr(outcome.exception) if outcome.exception else repr(outcome.get_result())
    print(f"rtcfoci: hook {name} = {given}", file=sys.stderr)  # noqa: T201
