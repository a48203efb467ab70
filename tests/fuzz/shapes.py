"""Inputs that grow: whether the work for them grows no faster, and what a byte of each costs.

In: ways to grow, the growth of work, cost for each byte. Out: random inputs (`mutate`).
"""

from __future__ import annotations

import gc
import json
from statistics import median
from time import process_time_ns

from tests.fuzz.corpus import kept
from tests.fuzz.harness import NOTHING
from tests.fuzz.mutate import containers, copied, places

SIZES = (1_024, 16_384, 131_072)
MOST_SEEDS = 3
LEAST_BYTES = 512
"""A shorter message counts as one of so many bytes: its cost is that of being called."""
MOST_TIMES_MEDIAN = 10
_MARK = "\ue000grow\ue000"

FILLINGS = {
    "arrays, deep": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "objects, deep": lambda n: '{"a":' * (n // 6) + "1" + "}" * (n // 6),
    "pairs of arrays": lambda n: "[" + ",".join(["[[]]"] * (n // 5)) + "]",
    "signs": lambda n: '"' + "@" * n + '"',
    "text": lambda n: '"' + "x" * n + '"',
    "no end": lambda n: '"' + '\\"' * (n // 2),
    "escapes": lambda n: '"' + "\\\\" * (n // 2) + '"',
    "half characters": lambda n: '"' + "\\ud800" * (n // 6) + '"',
    "quoted brackets": lambda n: '"' + "[{" * (n // 2) + '"',
    "digits": lambda n: "1" * n,
    "fraction": lambda n: "0." + "1" * n,
    "numbers": lambda n: "[" + ",".join("7" * (n // 2)) + "]",
    "empty objects": lambda n: "[" + ",".join(["{}"] * (n // 3)) + "]",
    "types": lambda n: "[" + ",".join(['{"type":"t"}'] * (n // 13)) + "]",
    "words": lambda n: "[" + ",".join(['"w"'] * (n // 4)) + "]",
    "fields": lambda n: "{" + ",".join(f'"{i:05}":1' for i in range(n // 10)) + "}",
    "the same field": lambda n: "{" + ",".join(['"a":1'] * (n // 6)) + "}",
    "lines": lambda n: '"' + "a=candidate:1\\n" * (n // 15) + '"',
    "sections": lambda n: '"v=0\\n' + "m=audio 9\\n" * (n // 11) + '"',
}
"""What is put into an input, of about so many bytes."""


def grown(seed, size):
    """Yield (way, bytes) for each way in which an input of JSON can grow to about so many bytes."""
    value = json.loads(seed)
    yield "nothing but brackets", FILLINGS["arrays, deep"](size).encode()
    objects = sum(isinstance(found, dict) for found in containers(value))
    leaves = sum(not isinstance(c[k], (dict, list)) for c, k in places(value))
    for name, fill in FILLINGS.items():
        if objects:
            yield f"beside: {name}", filled(_beside(copied(value)), fill, size // objects)
        if leaves:
            yield f"instead: {name}", filled(_instead(copied(value)), fill, size // leaves)
    more = _more(copied(value), size)
    if more is not None:
        yield "items", more


def filled(value, fill, size):
    text = json.dumps(value)
    return text.replace(json.dumps(_MARK), fill(size)).encode()


def _beside(value):
    for found in containers(value):
        if isinstance(found, dict):
            found["x"] = _MARK
    return value


def _instead(value):
    for container, key in places(value):
        if not isinstance(container[key], (dict, list)):
            container[key] = _MARK
    return value


def _more(value, size):
    """Repeat the items of the outermost arrays, each with identifiers of its own."""
    arrays = [c[k] for c, k in places(value) if isinstance(c[k], list) and c[k]]
    if not arrays:
        return None
    array = max(arrays, key=lambda found: len(json.dumps(found)))
    times = max(1, size // len(json.dumps(array)))
    items = list(array)
    for number in range(1, times):
        for item in copied(items):
            for name in ("event_id", "state_key", "msc4354_sticky_key") if _is_object(item) else ():
                if name in item:
                    item[name] = f"{item[name]}{number}"
            array.append(item)
    return json.dumps(value).encode()


def _is_object(value):
    return isinstance(value, dict)


def cost_ns(run, data, *, times=5):
    """Measure the processor time of one input: the least of a few."""
    gc.disable()
    try:
        least = None
        for _ in range(times):
            begin = process_time_ns()
            run(data)
            spent = process_time_ns() - begin
            least = spent if least is None else min(least, spent)
        return least
    finally:
        gc.enable()


class Costs:
    """What a byte costs a parser, in nanoseconds; JSON is read before, where it is given it decoded."""

    def __init__(self, harness):
        self._harness = harness

    def of(self, data, times=3):
        """What each byte of an input costs."""
        harness, value = self._harness, self._harness.decode(data)
        if value is NOTHING:
            return 0.0
        spent_ns = cost_ns(harness.parse, value, times=times)
        return spent_ns / max(LEAST_BYTES * max(1, harness.messages(value)), len(data))

    def known(self):
        """Every input that is known: (cost, way, input) of each."""
        inputs = (*self._harness.seeds(), *kept(self._harness.name))
        return [(self.of(data), "known", data) for data in inputs]

    def grown(self):
        """The richest seeds as they grow in every way."""
        grow = grown if self._harness.is_json else repeated
        rows = []
        for seed in sorted(self._harness.seeds(), key=len)[-MOST_SEEDS:]:
            for size in SIZES:
                rows += [(self.of(data), way, data) for way, data in grow(seed, size)]
        return rows

    def dearest(self):
        """Give the median of the known inputs, and the five of all that cost most, dearest first.

        These are measured again: noise is never less than nothing.
        """
        known = self.known()
        rows = sorted(known + self.grown(), reverse=True)[:5]
        again = [(min(cost, self.of(data, times=30)), way, data) for cost, way, data in rows]
        return median(cost for cost, _, _ in known), sorted(again, reverse=True)


def repeated(seed, size):
    """Yield the one way to grow bytes."""
    yield "again and again", seed * (1 + size // max(1, len(seed)))
