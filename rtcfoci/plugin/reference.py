"""References of the form `module:attribute`: named in descriptors, imported on first use.

In: reading and resolving them, and saying who is at fault when that fails.
Out: which references there are (`hookspecs`), and when they are resolved (`manager`).
"""

from __future__ import annotations

import importlib
import re

from rtcfoci.errors import PluginError

__all__ = ["is_reference", "resolve"]

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"{_DOTTED}:{_DOTTED}")
_EXTRAS = {
    "PIL": "cli",
    "aiohttp": "matrix",
    "av": "media",
    "nio": "matrix",
    "numpy": "media",
    "pytest": "testing",
    "pytest_asyncio": "testing",
    "rich": "cli",
    "vodozemac": "matrix",
}
"""Which of our optional extras brings a module."""


def is_reference(text: str) -> bool:
    """Whether the text reads as `module:attribute`."""
    return _REFERENCE.fullmatch(text) is not None


def resolve(reference: str, *, plugin: str, distribution: str = "") -> object:
    """Import what a reference names.

    :param plugin: who names it, for the error; `distribution` likewise.
    :raises PluginError: when it cannot be read, imported or found.
    """
    if not is_reference(reference):
        raise PluginError(
            f"{reference!r} is not a reference",
            plugin=plugin,
            distribution=distribution,
            why="a reference reads module:attribute, such as example.backend:ExampleBackend",
            do="correct it in the plugin's descriptor",
        )
    module_name, _, path = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:  # whatever a foreign module raises on import
        raise PluginError(
            f"{reference} of plugin {plugin} cannot be loaded",
            plugin=plugin,
            distribution=distribution,
            why=f"{type(error).__name__}: {error}",
            do=_remedy(error, distribution),
        ) from error
    return found


def _remedy(error: BaseException, distribution: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = _EXTRAS.get(error.name.partition(".")[0])
        if extra:
            return f"pip install 'rtcfoci[{extra}]'"
    if distribution:
        return f"pip install --upgrade {distribution}, or report this to its authors"
    return "correct the module, or the reference to it"
