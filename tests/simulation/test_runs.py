"""Simulated calls: a few here, thousands where RTCFOCI_SIMULATED_RUNS says so."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rtcfoci_mesh", reason="the mesh is not installed")

from rtcfoci.testing import simulate
from rtcfoci.testing.simulation.patience import patience
from rtcfoci.testing.simulation.script import Script, draw
from rtcfoci.testing.simulation.shrink import shrink
from rtcfoci.testing.simulation.world import World, run_script

_spec = importlib.util.spec_from_file_location("bugs", Path(__file__).with_name("bugs.py"))
assert _spec is not None
assert _spec.loader is not None
bugs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bugs)

RUNS = int(os.environ.get("RTCFOCI_SIMULATED_RUNS", "30"))
PART = 500
JOBS = (os.cpu_count() or 1) if RUNS > PART else 1
MOST_SEEDS = 400
"""Every bug put in on purpose is found among so many seeds."""
EASY = ("a lost membership is not sent again", "both sides offer", "leaving is tried once")
"""Bugs found so soon that they are looked for in every run of the unit tests."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("first", range(0, RUNS, PART))
def test_all_is_well_in_the_end(first, capsys):
    batch = simulate.run_batch(range(first, min(first + PART, RUNS)), jobs=JOBS)
    with capsys.disabled():
        print(f"\n{batch}")
    assert not batch.failures, str(batch)


_DIGEST = """
from rtcfoci.testing.simulation.patience import patience
from rtcfoci.testing.simulation.script import draw
from rtcfoci.testing.simulation.world import World, run_script
print(*(run_script(draw(seed)).digest for seed in (2, 9, 17)))
"""


def test_a_run_is_the_same_in_every_process():
    told = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "random")
    ]
    assert len(set(told)) == 1
    assert len(told[0].split()) == 3


def test_a_run_that_does_not_end_is_a_failure_and_no_hang(monkeypatch):
    async def endless(self):
        while True:
            pass

    monkeypatch.setattr(World, "run", endless)
    monkeypatch.setattr("rtcfoci.testing.simulation.world.patience", lambda: patience(0.2))
    batch = simulate.run_batch([7])
    assert "no end after 0.2 s of processor time, in " in batch.failures[7]


def test_a_script_survives_json():
    assert Script.from_json(draw(5).to_json()) == draw(5)


def test_shrinking_leaves_what_is_needed():
    script = draw(12)
    needed = {script.steps[0], script.steps[-1]}
    assert set(shrink(script, lambda s: needed <= set(s.steps)).steps) == needed


def test_a_run_is_replayed_with_its_picture(tmp_path):
    out = io.StringIO()
    drawn = tmp_path / "run.svg"
    assert simulate.main(["--seed", "3", "--picture", str(drawn)], out) == 0
    assert "all was well" in out.getvalue()
    assert drawn.read_text().startswith("<svg")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", bugs.BUGS)
def test_a_bug_put_in_on_purpose_is_found(name, capsys):
    if RUNS <= PART and name not in EASY:
        pytest.skip("takes longer: set RTCFOCI_SIMULATED_RUNS to more")
    with bugs.BUGS[name]():
        for seed in range(MOST_SEEDS):
            outcome = run_script(draw(seed))
            if outcome.broken:
                with capsys.disabled():
                    print(f"\n{name}: after {seed + 1} seeds, {outcome.broken[0].rule}")
                return
    pytest.fail(f"{name}: not found in {MOST_SEEDS} seeds")
