"""What a fuzzing harness is: one parser, as a function of bytes, with inputs to begin with.

In: the two kinds, of bytes and of JSON, and the table that they are put into. Out: the harnesses themselves
(`harnesses`, `mesh`), changing inputs (`mutate`), large ones (`shapes`), running for hours (`run`).

A harness returns whatever it likes and raises when something is wrong: an exception that the parser should
not raise, or an assertion about what it gave. To add one takes four lines, with a docstring:

    @of_json(seeds.slots)
    def slot(value):
        assert read_slot(value) in SlotStatus
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

HARNESSES: dict[str, Harness] = {}
NOTHING = object()
"""What is no JSON, decoded."""


@dataclass(frozen=True)
class Harness:
    """One parser under fuzzing."""

    name: str
    parse: Callable[[Any], object]
    """Takes what `decode` gives."""
    decode: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    is_json: bool
    """Whether inputs are JSON, changed as such."""
    about: str
    module: str
    """Where it is: a hunt loads no more."""
    messages: Callable[[Any], int]
    """Tells of how many messages an input consists, each of which would come in an envelope."""

    def run(self, data: bytes) -> None:
        """Take an input."""
        value = self.decode(data)
        if value is not NOTHING:
            self.parse(value)


def of_bytes(seeds, *, is_json=False, messages=lambda _: 1):
    """Enter a function of bytes; `is_json` where they are the text of JSON all the same."""

    def enter(parse):
        return _entered(parse, bytes, seeds, is_json, messages)

    return enter


def of_json(seeds, *, messages=lambda _: 1):
    """Enter a function of a decoded JSON value; what is no JSON never comes to its parser."""

    def enter(parse):
        return _entered(parse, decoded, lambda: map(encoded, seeds()), True, messages)

    return enter


def items(value):
    return len(value) if isinstance(value, list) else 1


def _entered(parse, decode, seeds, is_json, messages):
    name, about = parse.__name__, (parse.__doc__ or "").strip()
    place = parse.__module__
    HARNESSES[name] = Harness(name, parse, decode, seeds, is_json, about, place, messages)
    return parse


def decoded(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return NOTHING


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
