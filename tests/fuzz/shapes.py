"""Inputs that grow: whether the work for them grows no faster, and what a byte of each costs.

In: ways to grow, the growth of work, cost for each byte. Out: random inputs (`mutate`).
"""

from __future__ import annotations

import gc
import json
from statistics import median
from time import process_time_ns

from tests.fuzz.mutate import containers, copied, places

SIZES = (1_024, 16_384, 262_144)
MOST_TIMES_MEDIAN = 10
_MARK = "\ue000grow\ue000"

FILLINGS = {
    "arrays, deep": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "objects, deep": lambda n: '{"a":' * (n // 6) + "1" + "}" * (n // 6),
    "text": lambda n: '"' + "x" * n + '"',
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


def costs(harness, sizes=SIZES):
    """Give (nanoseconds a byte, way, bytes) of every way to grow every seed, dearest first."""
    found = {}
    for seed in harness.seeds():
        for size in sizes:
            longer = [("bytes", seed[:1] + seed * (size // max(1, len(seed))))]
            for way, data in grown(seed, size) if harness.is_json else longer:
                cost = cost_ns(harness.run, data, times=3) / len(data)
                found[way, size] = max(found.get((way, size), (0.0, 0)), (cost, len(data)))
    return sorted(((cost, way, size) for (way, _), (cost, size) in found.items()), reverse=True)


def verdict(rows):
    """Give the median of all, and the rows that cost more than ten times as much."""
    middle = median(cost for cost, _, _ in rows)
    return middle, [row for row in rows if row[0] > MOST_TIMES_MEDIAN * middle]
