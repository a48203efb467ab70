"""Careful reading: values out of hostile JSON, with every problem noted and nothing raised.

In: the limits, `Reading`, `Known` (what a dialect does not know of an event is written again untouched),
and `same_text` and `same_object`, by which a thousand members say the same thing in the same memory.
Out: what the values mean (the dialects, one module each).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TypeGuard

from rtcfoci.core.model import JsonObject, Transport
from rtcfoci.errors import Problem

__all__ = [
    "MAX_DEPTH",
    "MAX_ID_LENGTH",
    "MAX_ITEMS",
    "MAX_PROBLEMS",
    "Known",
    "Reading",
    "is_shallow",
    "same_object",
    "same_text",
]

MAX_DEPTH = 32
"""Deeper nesting is a problem: whoever compared or wrote such a value could exhaust the stack."""
MAX_ID_LENGTH = 255
"""Matrix allows no longer identifiers."""
MAX_ITEMS = 32
"""More items than these in one array are a problem; real ones have one or two."""
MAX_PROBLEMS = 16
"""More problems of one event than these are not written down."""

_ABSENT = object()
_CONTAINERS = (dict, list)
_MAX_SAFE_INTEGER = 2**53 - 1
"""Canonical JSON has no integers beyond this."""


def is_shallow(content: JsonObject) -> bool:
    """Tell whether a decoded JSON object is nested no deeper than `MAX_DEPTH`."""
    return _fits(content, MAX_DEPTH)


def _fits(container: JsonObject | Sequence[object], levels: int) -> bool:
    """Tell whether a container is of so many levels at most; recursion ends there, too."""
    for item in container.values() if isinstance(container, dict) else container:
        if isinstance(item, _CONTAINERS) and (levels == 1 or not _fits(item, levels - 1)):
            return False
    return True


# A thousand members say the same few things: what is equal is kept once.
same_text: Callable[[str], str] = lru_cache(maxsize=256)(str)
"""Give the one text for all that are equal."""
same_object: Callable[..., JsonObject] = lru_cache(maxsize=256)(dict)
"""Give the one object for all that have equal texts, by name; never written to."""
_same_texts: Callable[[Sequence[str]], tuple[str, ...]] = lru_cache(maxsize=256)(tuple)


class Known:
    """The fields that a dialect knows; what else an event has is kept, and written again.

    :param keys: at the top, whatever they hold.
    :param objects: keys at the top that hold an object, with the keys that are known in there.
    """

    __slots__ = ("keys", "objects")

    def __init__(self, *keys: str, **objects: Collection[str]) -> None:
        self.keys: frozenset[str] = frozenset({*keys, *objects})
        self.objects: dict[str, frozenset[str]] = {
            key: frozenset(inner) for key, inner in objects.items()
        }

    def more(self, content: JsonObject) -> JsonObject:
        """Give what of an event is not known."""
        beside, within = self.beside(content), self.within(content)
        return {**beside, **within} if beside or within else same_object()

    def beside(self, content: JsonObject) -> JsonObject:
        """Give the fields of an event that are not known."""
        if content.keys() <= self.keys:
            return same_object()
        return {key: content[key] for key in content if key not in self.keys}

    def within(self, content: JsonObject) -> JsonObject:
        """Give the objects that are known of an event, with the fields in there that are not."""
        more: JsonObject = same_object()
        for key, inner in self.objects.items():
            value = content.get(key)
            if isinstance(value, dict) and not value.keys() <= inner:
                unknown = {name: value[name] for name in value if name not in inner}
                more = {**more, key: unknown}
        return more

    def with_more(self, content: dict[str, object], more: JsonObject) -> dict[str, object]:
        """Add to an event what was not known of another; what is known stays as it is."""
        for key, value in more.items():
            inner = self.objects.get(key)
            mine = content.get(key)
            if key not in self.keys:
                content.setdefault(key, value)
            elif inner is not None and isinstance(mine, dict) and isinstance(value, Mapping):
                extra = {name: value[name] for name in value if name not in inner}
                content[key] = {**extra, **mine}
        return content


def _is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is text of whole characters.

    JSON can hold half a surrogate pair, and whoever prints or hashes one fails.
    """
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _is_identifier(value: object) -> TypeGuard[str]:
    """Tell whether a value can stand for something: text, and not too long."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and _is_text(value)


class Reading:
    """Takes values out of one hostile JSON object and notes every problem on the way.

    The methods give an empty value where there is a problem: ask `problems` before believing any. A
    key that holds `null` is there, and of the wrong type.

    :param at: where in the event this is, before every field's name: `memberships[0].`
    """

    __slots__ = ("_at", "problems")

    def __init__(self, at: str = "") -> None:
        self._at = at
        self.problems: list[Problem] = []

    def problem(self, code: str, message: str) -> None:
        """Note one problem; the first `MAX_PROBLEMS` are kept."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, message))

    def missing(self, name: str) -> None:
        """Note that a field is missing."""
        self.problem("missing_field", f"{self._at}{name} is missing")

    def string(
        self,
        source: JsonObject,
        key: str,
        name: str = "",
        *,
        required: bool = True,
        empty: bool = False,
    ) -> str | None:
        """Take a string that is an identifier; None when absent or wrong.

        :param empty: whether the empty string is a value, too; else it is as if absent.
        """
        value = source.get(key, _ABSENT)
        # Nearly every event passes the first test, which costs no call.
        if type(value) is str and 0 < len(value) <= MAX_ID_LENGTH and value.isascii():
            return value
        if _is_identifier(value):
            return value
        if value == "" and empty:
            return ""
        if value is _ABSENT or value == "":
            if required:
                self.missing(name or key)
            return None
        name = f"{self._at}{name or key}"
        if not isinstance(value, str):
            self.problem("wrong_type", f"{name} is not a string")
        elif len(value) > MAX_ID_LENGTH:
            self.problem("too_long", f"{name} is longer than {MAX_ID_LENGTH} characters")
        else:
            self.problem("bad_unicode", f"{name} is not valid Unicode")
        return None

    def text(
        self, source: JsonObject, key: str, name: str = "", *, required: bool = False
    ) -> str | None:
        """Take a string that identifies nothing, of any length; None when absent or wrong."""
        value = source.get(key, _ABSENT)
        if isinstance(value, str):
            return value
        if value is not _ABSENT:
            self.problem("wrong_type", f"{self._at}{name or key} is not a string")
        elif required:
            self.missing(name or key)
        return None

    def integer(self, source: JsonObject, key: str, *, signed: bool = False) -> int | None:
        """Take an optional integer from 0, or if signed from -(2**53 - 1), to 2**53 - 1."""
        value = source.get(key, _ABSENT)
        if value is _ABSENT:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem("wrong_type", f"{self._at}{key} is not an integer")
        elif not (-_MAX_SAFE_INTEGER if signed else 0) <= value <= _MAX_SAFE_INTEGER:
            least = "-2^53 + 1" if signed else "0"
            self.problem("out_of_range", f"{self._at}{key} is not within {least} and 2^53 - 1")
        else:
            return value
        return None

    def mapping(
        self, source: JsonObject, key: str, name: str = "", *, required: bool = True
    ) -> JsonObject | None:
        """Take an object; None when absent or wrong."""
        value = source.get(key, _ABSENT)
        if isinstance(value, dict):
            return value
        if value is not _ABSENT:
            self.problem("wrong_type", f"{self._at}{name or key} is not an object")
        elif required:
            self.missing(name or key)
        return None

    def transports(self, source: JsonObject, key: str, name: str = "") -> tuple[Transport, ...]:
        """Take an optional array of transports: objects with a `type`; other keys are kept."""
        found = []
        for item in self.items(source, key, name):
            if isinstance(item, dict):
                kind = item.get("type")
                if _is_identifier(kind) or kind == "":
                    found.append(Transport(kind, item))
                    continue
            self.problem("bad_transport", f"{self._at}{name or key} has an item without a type")
        return tuple(found)

    def strings(self, source: JsonObject, key: str, name: str = "") -> tuple[str, ...] | None:
        """Take an optional array of strings; None when absent."""
        if key not in source:
            return None
        found = []
        for item in self.items(source, key, name):
            if _is_text(item):
                found.append(item)
            else:
                self.problem(
                    "wrong_type", f"{self._at}{name or key} has an item that is not a string"
                )
        return _same_texts(tuple(found))

    def items(
        self, source: JsonObject, key: str, name: str = "", *, most: int = MAX_ITEMS
    ) -> Sequence[object]:
        """Take an optional array of at most so many items; empty when absent or wrong."""
        value = source.get(key, _ABSENT)
        if value is _ABSENT:
            return ()
        if not isinstance(value, list):
            self.problem("wrong_type", f"{self._at}{name or key} is not an array")
            return ()
        if len(value) > most:
            self.problem("too_many_items", f"{self._at}{name or key} has more than {most} items")
            return ()
        return value
