"""From a script that breaks a rule to the fewest of its steps that still do.

In: the search, by delta debugging (Zeller and Hildebrandt, 2002). Out: running a script (`world`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rtcfoci.testing.simulation.script import Script, Step

__all__ = ["shrink"]

_MOST_RUNS = 2000


def shrink(script: Script, fails: Callable[[Script], bool]) -> Script:
    """Leave out whatever can be left out, until every step is needed.

    :param fails: runs a script and tells whether it fails as the whole one did.
    """
    runs = 0

    def test(steps: Sequence[Step]) -> bool:
        nonlocal runs
        runs += 1
        return runs <= _MOST_RUNS and fails(replace(script, steps=tuple(steps)))

    steps = list(script.steps)
    parts = 2
    while len(steps) >= 2:
        size = -(-len(steps) // parts)
        for start in range(0, len(steps), size):
            rest = steps[:start] + steps[start + size :]
            if test(rest):
                steps, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(steps))
    smaller = replace(script, steps=tuple(steps))
    changes: tuple[dict[str, Any], ...] = ({"limits": False}, {"seats": 16}, {"dialect": ""})
    for change in changes:
        simpler = replace(smaller, **change)
        if simpler != smaller and fails(simpler):
            smaller = simpler
    return smaller
