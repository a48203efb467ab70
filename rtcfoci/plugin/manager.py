"""The guarded plugin manager: finds plugins, asks their hooks, and survives whatever they do.

In: discovery, refusal and report; names to descriptors; descriptors to backends.
Out: what hooks there are (`hookspecs`), how references resolve (`reference`), what a single plugin may
say (`guard`).

Nothing is imported that was not asked for: a hook is called on the first look at what it offers, and
a descriptor's code is imported when a backend is created. Environment variables:

- `RTCFOCI_BLOCK_PLUGINS`: names of plugins or distributions not to load, separated by commas;
- `RTCFOCI_PREFER_PLUGINS`: `name=distribution` pairs that choose between two claims of one name;
- `RTCFOCI_TRACE_PLUGINS=1`: every hook call is printed to standard error.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from pluggy import PluginManager as Pluggy

from rtcfoci.core.model import JsonObject, Transport
from rtcfoci.errors import PluginError, Problem, RemoteProtocolError, UsageError
from rtcfoci.plugin import guard, hookspecs
from rtcfoci.plugin.guard import Descriptor, Failure, PluginInfo
from rtcfoci.plugin.hookspecs import (
    CliCommand,
    DialectInfo,
    FocusType,
    ReadingPolicyInfo,
    SelectionPolicyInfo,
)
from rtcfoci.plugin.reference import resolve

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rtcfoci.plugin.backend import Backend
    from rtcfoci.plugin.context import Context

__all__ = ["GROUP", "Failure", "Offer", "PluginInfo", "PluginManager", "Report"]

GROUP = "rtcfoci"
"""The entry-point group of plugins."""
_KNOWN = {
    "livekit": "rtcfoci-livekit",
    "m.livekit": "rtcfoci-livekit",
    "mesh": "rtcfoci-mesh",
    "msc4195.livekit": "rtcfoci-livekit",
    "relay": "rtcfoci-relay",
    "rtcfoci.mesh": "rtcfoci-mesh",
    "rtcfoci.relay": "rtcfoci-relay",
}
"""Where focus types come from that somebody may ask for before installing them."""

_D = TypeVar("_D", bound=Descriptor)
_D_co = TypeVar("_D_co", bound=Descriptor, covariant=True)
_HOOKS: Mapping[type, str] = {
    FocusType: "rtcfoci_focus_types",
    DialectInfo: "rtcfoci_dialects",
    SelectionPolicyInfo: "rtcfoci_selection_policies",
    ReadingPolicyInfo: "rtcfoci_reading_policies",
    CliCommand: "rtcfoci_cli_commands",
}


@dataclass(frozen=True, slots=True)
class Offer(Generic[_D_co]):
    """A descriptor and the plugin that offers it."""

    descriptor: _D_co
    plugin: PluginInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is installed, from which distribution and version, what each can do, what failed."""

    plugins: tuple[PluginInfo, ...]
    focus_types: tuple[Offer[FocusType], ...]
    dialects: tuple[Offer[DialectInfo], ...]
    selection_policies: tuple[Offer[SelectionPolicyInfo], ...]
    reading_policies: tuple[Offer[ReadingPolicyInfo], ...]
    cli_commands: tuple[Offer[CliCommand], ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class _Plugin:
    info: PluginInfo
    plugin: object
    hooks: Pluggy


class PluginManager:
    """Every plugin of this interpreter, behind one typed method for each hook.

    Use `load`. :param prefer: which distribution (or plugin) a twice claimed name comes from.
    """

    def __init__(self, *, prefer: Mapping[str, str] | None = None, trace: bool = False) -> None:
        self._prefer = dict(prefer or {})
        self._trace = trace
        self._plugins: list[_Plugin] = []
        self._failures: list[Failure] = []
        self._offers: dict[type, object] = {}

    @classmethod
    def load(
        cls,
        *,
        plugins: Iterable[str] = (),
        block: Iterable[str] = (),
        prefer: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> PluginManager:
        """Load the installed plugins, then the unpackaged ones; nothing they do raises.

        :param plugins: `module` or `module:attribute` of plugins without a distribution.
        :param block: names of plugins or distributions that are not loaded.
        :param prefer: which distribution a twice claimed name comes from: `{name: distribution}`.
        :param environ: instead of the process's environment variables.
        """
        from importlib.metadata import entry_points  # 10 ms: only when plugins are wanted

        variables = os.environ if environ is None else environ
        blocked = {*block, *_words(variables.get("RTCFOCI_BLOCK_PLUGINS", ""))}
        pairs = (
            word.partition("=") for word in _words(variables.get("RTCFOCI_PREFER_PLUGINS", ""))
        )
        chosen = {name: source for name, _, source in pairs}
        manager = cls(
            prefer={**chosen, **(prefer or {})},
            trace=variables.get("RTCFOCI_TRACE_PLUGINS", "0") not in ("", "0"),
        )
        found = [
            (PluginInfo(point.name, dist.name if dist else "", dist.version if dist else ""), point)
            for point in entry_points(group=GROUP)
            for dist in (point.dist,)
        ]
        # Our own first, then by name: the order never depends on the file system's.
        found.sort(key=lambda pair: (pair[0].distribution != "rtcfoci", *pair[0].key))
        for info, point in found:
            if info.name not in blocked and info.distribution not in blocked:
                manager.add(info, point.load)
        for reference in plugins:
            if reference not in blocked:
                manager.add(PluginInfo(reference), partial(guard.find, reference))
        return manager

    def add(self, info: PluginInfo, find: Callable[[], object]) -> bool:
        """Take a plugin in; False when it was refused, and then a failure says why."""
        try:
            plugin = find()
            wrong = guard.misfits(plugin, hookspecs.__all__)
        except guard.FOREIGN as error:
            self._fail(info, "cannot be imported", error)
            return False
        if any(known.plugin is plugin for known in self._plugins):
            return True  # named twice: the second name adds nothing
        for what, do in wrong:
            self._failures.append(guard.failure(info, what, do=do))
        if wrong:
            return False
        # A pluggy manager for each plugin: what one of them does touches no other's hooks.
        hooks = Pluggy(GROUP)
        hooks.add_hookspecs(hookspecs)
        if self._trace:
            hooks.add_hookcall_monitoring(guard.trace_before, guard.trace_after)
        try:
            hooks.register(plugin, name=f"{info.distribution}/{info.name}")
        except Exception as error:  # pluggy's own validation, mostly wrong argument names
            self._fail(info, "does not fit the hooks", error)
            return False
        self._plugins.append(_Plugin(info, plugin, hooks))
        self._offers.clear()
        return True

    @property
    def focus_types(self) -> Sequence[FocusType]:
        """The focus types of all plugins."""
        return [offer.descriptor for offer in self._offered(FocusType)]

    @property
    def dialects(self) -> Sequence[DialectInfo]:
        """The membership dialects of all plugins."""
        return [offer.descriptor for offer in self._offered(DialectInfo)]

    @property
    def selection_policies(self) -> Sequence[SelectionPolicyInfo]:
        """The selection policies of all plugins."""
        return [offer.descriptor for offer in self._offered(SelectionPolicyInfo)]

    @property
    def reading_policies(self) -> Sequence[ReadingPolicyInfo]:
        """The reading policies of all plugins."""
        return [offer.descriptor for offer in self._offered(ReadingPolicyInfo)]

    @property
    def cli_commands(self) -> Sequence[CliCommand]:
        """The subcommands of all plugins."""
        return [offer.descriptor for offer in self._offered(CliCommand)]

    @property
    def failures(self) -> Sequence[Failure]:
        """What has failed so far; `report` asks everything first."""
        return tuple(self._failures)

    @property
    def report(self) -> Report:
        """Ask every hook and say what there is and what failed."""
        return Report(
            focus_types=self._offered(FocusType),
            dialects=self._offered(DialectInfo),
            selection_policies=self._offered(SelectionPolicyInfo),
            reading_policies=self._offered(ReadingPolicyInfo),
            cli_commands=self._offered(CliCommand),
            plugins=tuple(plugin.info for plugin in self._plugins),
            failures=tuple(self._failures),
        )

    def check(self) -> Report:
        """Import everything that descriptors name, and report; for authors, it loads a lot."""
        before = self.report
        offers: list[Offer[Descriptor]] = [
            *before.focus_types,
            *before.dialects,
            *before.selection_policies,
            *before.reading_policies,
            *before.cli_commands,
        ]
        failures = list(before.failures)
        for offer in offers:
            for reference in guard.references(offer.descriptor):
                try:
                    self._resolve(reference, offer)
                except PluginError as error:
                    failures.append(Failure(offer.plugin, error))
        return replace(before, failures=tuple(failures))

    def focus_type(self, name: str) -> FocusType:
        """Find a focus type by its type string or an alias.

        :raises UsageError: when there is none; the remedy names what to install, or a like name.
        """
        found = self.recognise(name)
        if found is None:
            raise self._unknown(name)
        return found

    def recognise(self, name: str) -> FocusType | None:
        """Find the focus type of a transport's type string, None when it is not installed."""
        for focus_type in self.focus_types:
            if name == focus_type.type or name in focus_type.aliases:
                return focus_type
        return None

    def explain(self, name: str) -> str:
        """Say why a member's transport type cannot be used, when it is not accepted here."""
        if self.recognise(name) is not None:
            return f"{name} is installed, but not accepted in this call"
        source = _KNOWN.get(name, "")
        return f"no installed focus type for {name}" + (f" (install {source})" if source else "")

    def command(self, name: str) -> Callable[[list[str]], int]:
        """Import the function of a subcommand.

        :raises UsageError: when there is no such command. :raises PluginError: when it is broken.
        """
        for offer in self._offered(CliCommand):
            if name == offer.descriptor.name or name in offer.descriptor.aliases:
                return cast(
                    "Callable[[list[str]], int]", self._resolve(offer.descriptor.run, offer)
                )
        names = sorted(command.name for command in self.cli_commands)
        raise UsageError(
            f"there is no command {name!r}",
            why=f"the commands are: {', '.join(names)}{self._and_failed()}",
            do=_closest(name, names) or "see: rtcfoci --help",
        )

    def parse_transport(self, raw: JsonObject) -> Transport:
        """Read a transport descriptor; it is kept as it came, and unknown types pass unread.

        :raises RemoteProtocolError: when it has no type, or its type's model refuses it.
        """
        name = raw.get("type")
        if not isinstance(name, str) or not name:
            problem = Problem("missing_field", "type is missing or not a string")
            raise RemoteProtocolError("this is not a transport", [problem])
        focus_type = self.recognise(name)
        if focus_type is not None and focus_type.transport_model:
            model = self._model(focus_type.transport_model, self._offer(focus_type))
            problems = guard.validate(model, raw)[1]
            if problems:
                raise RemoteProtocolError(f"a transport of type {name} is malformed", problems)
        return Transport(name, raw)

    def create_backend(
        self, focus_type: FocusType | str, context: Context, config_data: JsonObject | None = None
    ) -> Backend:
        """Validate the configuration, import the backend and build it.

        :raises UsageError: when the type is unknown or its configuration is wrong.
        :raises PluginError: when the plugin's code is broken.
        """
        from rtcfoci.plugin.backend import Backend  # loads asyncio

        kind = self.focus_type(focus_type) if isinstance(focus_type, str) else focus_type
        offer = self._offer(kind)
        factory = self._resolve(kind.backend, offer)
        if not (isinstance(factory, type) and issubclass(factory, Backend)):
            raise guard.failure(
                offer.plugin,
                f"{kind.backend} is not a subclass of rtcfoci.plugin.Backend",
                do="name the backend class in the focus type's descriptor",
            ).error
        config = self._configure(kind, offer, config_data or {})
        try:
            return factory(context, config)
        except PluginError:
            raise
        except Exception as error:  # a constructor of foreign code
            raise guard.failure(
                offer.plugin, f"{kind.backend} could not be built", cause=error
            ).error from error

    def _configure(
        self, kind: FocusType, offer: Offer[FocusType], data: JsonObject
    ) -> object | None:
        if not kind.config_model:
            if data:
                raise UsageError(
                    f"focus type {kind.type} takes no configuration",
                    why=f"given: {', '.join(sorted(map(str, data)))}",
                    do="leave it out",
                )
            return None
        value, problems = guard.validate(self._model(kind.config_model, offer), data)
        if problems:
            raise UsageError(
                f"the configuration of focus type {kind.type} is wrong",
                why="; ".join(problem.message for problem in problems),
                do=f"see the fields of {kind.config_model}",
            )
        return value

    def _offered(self, kind: type[_D]) -> tuple[Offer[_D], ...]:
        if kind not in self._offers:
            claims: list[Offer[_D]] = []
            name = _HOOKS[kind]
            for plugin in self._plugins:
                hook = getattr(plugin.hooks.hook, name)
                descriptors, failures = guard.ask(plugin.info, name, hook, kind)
                claims.extend(
                    Offer(cast("_D", descriptor), plugin.info) for descriptor in descriptors
                )
                self._failures.extend(failures)
            self._offers[kind] = self._settle(kind, claims)
        return cast("tuple[Offer[_D], ...]", self._offers[kind])

    def _settle(self, kind: type[_D], claims: list[Offer[_D]]) -> tuple[Offer[_D], ...]:
        """Keep what nobody else claims; of the rest, what configuration chose."""
        claimants: dict[str, list[Offer[_D]]] = {}
        for claim in claims:
            for name in guard.names(claim.descriptor):
                claimants.setdefault(name, []).append(claim)
        refused: list[Offer[_D]] = []
        for name, rivals in claimants.items():
            chosen = self._choose(name, rivals)
            if len(rivals) == 1 or chosen is not None:
                refused.extend(rival for rival in rivals if chosen and rival is not chosen)
                continue
            refused.extend(rivals)
            sources = [rival.plugin.source for rival in rivals]
            for rival in rivals:
                failure = guard.failure(
                    rival.plugin,
                    f"{guard.KIND_NAMES[kind]} {name!r} is claimed more than once",
                    why=f"by {' and by '.join(sources)}, so it is taken from neither",
                    do=f"choose: RTCFOCI_PREFER_PLUGINS={name}={sources[0]}",
                )
                self._failures.append(failure)
        return tuple(claim for claim in claims if not any(claim is other for other in refused))

    def _choose(self, name: str, rivals: list[Offer[_D]]) -> Offer[_D] | None:
        wanted = self._prefer.get(name)
        for rival in rivals:
            if wanted in (rival.plugin.distribution, rival.plugin.name) and wanted is not None:
                return rival
        # Naming an unpackaged plugin for this run is a choice, too: it is the author's loop.
        unpackaged = [rival for rival in rivals if not rival.plugin.distribution]
        return unpackaged[0] if len(unpackaged) == 1 and len(rivals) > 1 else None

    def _offer(self, focus_type: FocusType) -> Offer[FocusType]:
        for offer in self._offered(FocusType):
            if offer.descriptor == focus_type:
                return offer
        return Offer(focus_type, PluginInfo(focus_type.type))  # a descriptor made by hand, in tests

    def _resolve(self, reference: str, offer: Offer[Descriptor]) -> object:
        source = offer.plugin
        return resolve(reference, plugin=source.name, distribution=source.distribution)

    def _model(self, reference: str, offer: Offer[Descriptor]) -> type[BaseModel]:
        from pydantic import BaseModel  # 60 ms: only where a model is used

        model = self._resolve(reference, offer)
        if isinstance(model, type) and issubclass(model, BaseModel):
            return model
        raise guard.failure(offer.plugin, f"{reference} is not a pydantic model").error

    def _fail(self, info: PluginInfo, what: str, cause: BaseException) -> None:
        self._failures.append(guard.failure(info, f"plugin {info.name} {what}", cause=cause))

    def _unknown(self, name: str) -> UsageError:
        types = sorted(focus_type.type for focus_type in self.focus_types)
        aliases = [alias for focus_type in self.focus_types for alias in focus_type.aliases]
        source = _KNOWN.get(name, "")
        like = _closest(name, [*types, *aliases])
        if source and any(failure.plugin.distribution == source for failure in self._failures):
            do = "see why it failed: rtcfoci plugins"
        else:
            do = f"pip install {source}" if source else like
        return UsageError(
            self.explain(name),
            why=f"installed: {', '.join(types) or 'none'}{self._and_failed()}",
            do=do or "see what is installed: rtcfoci plugins",
        )

    def _and_failed(self) -> str:
        names = dict.fromkeys(failure.plugin.source for failure in self._failures)
        return f"; failed: {', '.join(names)}" if names else ""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _closest(name: str, names: Sequence[str]) -> str:
    like = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {like[0]}?" if like else ""
