"""What `rtcfoci plugins` would say of one descriptor, for the suites that begin by asking that.

In: offering a descriptor to a manager of its own. Out: what the suites test beside that.
"""

from __future__ import annotations

from rtcfoci.plugin import hookimpl
from rtcfoci.plugin.manager import PluginInfo, PluginManager

__all__ = ["failures_of"]


def failures_of(hook: str, descriptor: object) -> list[object]:
    """Say what a manager would complain about."""

    @hookimpl(specname=hook)
    def offer() -> list[object]:
        return [descriptor]

    manager = PluginManager()
    plugin = type("_Plugin", (), {"offer": staticmethod(offer)})
    assert manager.add(PluginInfo("under test"), lambda: plugin)
    return [failure.error for failure in manager.check().failures]
