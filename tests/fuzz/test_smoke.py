"""The fuzzing harnesses without a fuzzer: seeds, what was found before, changed inputs, inputs that grow."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from tests.fuzz.corpus import kept
from tests.fuzz.harnesses import HARNESSES
from tests.fuzz.mutate import mutated
from tests.fuzz.shapes import cost_ns, grown

EVERY = pytest.mark.parametrize("harness", HARNESSES.values(), ids=lambda harness: harness.name)
SMALL, LARGE = 4_096, 32_768
MOST_TIMES_AS_LONG = 24
"""For eight times the bytes; were the work quadratic it would be 64."""


@EVERY
def test_what_it_begins_with_and_what_broke_it_before(harness):
    for data in (*harness.seeds(), *kept(harness.name)):
        harness.run(data)


def changed(harness, count):
    """Inputs changed and changed again, the same ones each time."""
    seeds = list(harness.seeds())
    inputs = list(seeds)
    for seed in range(count):
        place = seed % len(inputs)
        data = inputs[place]
        new = mutated(data, seed) if harness.is_json else bytes([seed % 5]) + data[seed % 7 :]
        if new is not None:
            yield new
            # What is large takes long to change.
            inputs[place] = new if len(new) < LARGE / 4 else seeds[place]


@EVERY
def test_changed_inputs(harness):
    for data in changed(harness, 300):
        harness.run(data)


def test_changed_inputs_find_what_is_planted():
    """A parser that fails for one kind of value in one place."""

    def careless(data):
        if b'"device_id": null' in data:
            raise TypeError

    harness = HARNESSES["dialects"]
    planted = replace(harness, parse=careless, decode=bytes)
    with pytest.raises(TypeError):
        list(map(planted.run, changed(planted, 20_000)))


def slower_than_its_input(run, seed):
    """The ways to grow an input in which the work grows faster."""
    larger = dict(grown(seed, LARGE))
    found = []
    for way, small in grown(seed, SMALL):
        large = larger[way]
        allowed = MOST_TIMES_AS_LONG / 8 * len(large) / len(small)
        # Noise is never less than nothing: the least of a few, and of a few more when in doubt.
        for times in (2, 5, 20):
            one, other = (cost_ns(run, data, times=times) for data in (small, large))
            if other <= allowed * one:
                break
        else:
            found.append((way, other / one))
    return found


@EVERY
def test_work_grows_no_faster_than_the_input(harness):
    if harness.is_json:
        richest = max(islice(harness.seeds(), 40), key=len)
        assert slower_than_its_input(harness.run, richest) == []


def test_work_that_grows_faster_is_noticed():
    def quadratic(data):
        for at in range(0, len(data), 64):
            data.count(b"\xff\xff", at)

    ways = [way for way, _ in slower_than_its_input(quadratic, b"[]")]
    assert ways == ["nothing but brackets"]
