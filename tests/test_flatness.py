"""The judge of a soak: it sees a slow leak, and takes neither noise nor comers and goers for one."""

import mmap
import os
import random
import xml.etree.ElementTree as ET

import pytest

from tests.flatness import LIMITS, Course, drawing, held, table

HOUR_S, EVERY_S = 3600, 15


def course(value, quantity="memory"):
    """One hour of a quantity that `value` gives for a time."""
    times = range(0, HOUR_S, EVERY_S)
    return Course(quantity, LIMITS[quantity], [(t, value(t, t // EVERY_S)) for t in times])


def noise(seed):
    source = random.Random(seed)
    return [source.gauss(0, 1.5) for _ in range(HOUR_S // EVERY_S)]


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_a_warm_up_are_flat(seed):
    rough = noise(seed)
    found = course(lambda t, n: 80 + 20 * min(1, t / 600) + rough[n])
    assert found.flat, found.growth


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_of_eight_megabytes_an_hour_is_found(seed):
    rough = noise(seed)
    found = course(lambda t, n: 80 + 8 * t / HOUR_S + rough[n])
    assert not found.flat, found.growth
    assert 4 < found.growth < 8


def test_comers_and_goers_do_not_tilt_it_and_what_each_leaves_behind_does():
    assert course(lambda t, n: 30 + (4 if t % 120 < 40 else 0), "files").flat
    assert not course(lambda t, n: 30 + t // 1200 + (4 if t % 120 < 40 else 0), "files").flat
    assert not course(lambda t, n: 12 + t // 1200, "threads").flat


def test_one_outlier_does_not_tilt_it():
    assert course(lambda t, n: 300 if n == 200 else 80).flat


def test_a_process_that_leaks_on_purpose_is_caught():
    """With real samples: memory, files and threads of this very process, made to grow."""
    courses = {name: Course(name, limit) for name, limit in LIMITS.items()}
    pile, files = [], []
    try:
        for at_s in range(20):
            # Past the allocator, which may have room left from whatever ran before.
            pile.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            pile[-1].write(os.urandom(1 << 20))
            files.append(open(os.devnull))  # noqa: SIM115 - it is meant to stay open
            for name, value in held(os.getpid()).items():
                courses[name].samples.append((float(at_s), value))
    finally:
        for held_open in (*files, *pile):
            held_open.close()
    assert not courses["memory"].flat
    assert not courses["files"].flat
    assert courses["threads"].flat


def test_too_few_samples_are_no_judgement():
    with pytest.raises(AssertionError, match="too few"):
        _ = Course("memory", LIMITS["memory"], [(0.0, 1.0), (1.0, 1.0)]).flat


def test_the_table_and_the_picture_say_what_was_found():
    leak = course(lambda t, n: 80 + 20 * t / HOUR_S)
    calm = course(lambda t, n: 30.0, "files")
    assert [line.split()[-1] for line in table([leak, calm]).splitlines()[1:]] == ["GROWS", "flat"]
    picture = ET.fromstring(drawing([leak, calm], "A & B"))
    assert picture.tag.endswith("svg")
    words = "".join(picture.itertext())
    assert "+14.9 of 4.0 MB" in words
    assert "+0.0 of 1.5 files" in words
