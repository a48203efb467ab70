"""A focus type of a test's own, and managers that hold it."""

import types

from pydantic import BaseModel, ConfigDict, model_validator

from rtcfoci.plugin import (
    Backend,
    Capabilities,
    FocusType,
    Topology,
    hookimpl,
)
from rtcfoci.plugin.manager import PluginInfo, PluginManager


class ExampleBackend(Backend):
    async def local_transports(self, advertised):
        return []

    async def connect(self, key, transport, roles):
        raise NotImplementedError


class NotABackend:
    pass


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    port: int
    secret: str = ""


class Descriptor(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: str
    url: str

    @model_validator(mode="after")
    def _careless(self):
        if self.url == "careless":
            raise KeyError(self.url)
        return self


def focus_type(type: str = "org.example.here", **changes: object) -> FocusType:
    here = f"{__name__}:"
    values = {
        "type": type,
        "backend": here + "ExampleBackend",
        "topology": Topology.ELECTED,
        "capabilities": Capabilities(data=True),
        "config_model": here + "Config",
        "transport_model": here + "Descriptor",
        **changes,
    }
    return FocusType(**values)


def nothing():
    return []


def with_hook(name: str, function: object, distribution: str = "") -> PluginManager:
    """A manager with one plugin that has one hook."""
    return with_plugins((PluginInfo("example", distribution), plugin_of(**{name: function})))


def plugin_of(**hooks: object) -> object:
    plugin = types.SimpleNamespace()
    for name, function in hooks.items():
        setattr(plugin, name, hookimpl(function))
    return plugin


def with_plugins(*plugins: tuple[PluginInfo, object], **options: object) -> PluginManager:
    manager = PluginManager(**options)
    for info, plugin in plugins:
        manager.add(info, lambda found=plugin: found)
    return manager
