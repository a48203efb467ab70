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

HARNESSES: dict[str, Harness] = {}


@dataclass(frozen=True)
class Harness:
    """One parser under fuzzing."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    is_json: bool
    """Whether inputs are JSON, changed as such."""
    about: str


def of_bytes(seeds, *, is_json=False):
    """Enter a function of bytes; `is_json` where they are the text of JSON all the same."""

    def enter(run):
        return _entered(run, run, seeds, is_json)

    return enter


def of_json(seeds):
    """Enter a function of a decoded JSON value; what is no JSON never comes to its parser."""

    def enter(run):
        def decoded(data):
            try:
                value = json.loads(data)
            except (ValueError, RecursionError):
                return None
            return run(value)

        return _entered(run, decoded, lambda: map(encoded, seeds()), True)

    return enter


def _entered(run, of_bytes, seeds, is_json):
    about = (run.__doc__ or "").strip()
    HARNESSES[run.__name__] = Harness(run.__name__, of_bytes, seeds, is_json, about)
    return run


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
