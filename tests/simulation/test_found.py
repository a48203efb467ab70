"""Runs that once failed, made short: each broke a rule before what it says here was put right."""

from __future__ import annotations

import pytest

pytest.importorskip("rtcfoci_mesh", reason="the mesh is not installed")

from rtcfoci.testing.simulation.script import Script, Step
from rtcfoci.testing.simulation.world import run_script

FOUND = {
    "a signal of an earlier life came late, and the present one was taken for the past": Script(
        salt=1271730465,
        devices=2,
        steps=(
            Step(at_s=0.6, do="join"),
            Step(at_s=5.1, do="lose to-device", who=1, for_s=8.27, count=4),
            Step(at_s=7.78, do="join", who=1),
            Step(at_s=13.12, do="cut server", who=1, for_s=34.18, how="silent"),
        ),
    ),
    "clocks were minutes apart, and no signal was young enough": Script(
        salt=1,
        devices=2,
        steps=(
            Step(at_s=0.0, do="clock jump", amount=300.0),
            Step(at_s=0.1, do="join"),
            Step(at_s=0.2, do="join", who=1),
            Step(at_s=5.0, do="clock jump", who=1, amount=-300.0),
            Step(at_s=6.0, do="cut pair", to=1, how="both", for_s=6.0),
        ),
    ),
    "our clock was ahead, and we thought ourselves behind those who came later": Script(
        salt=2,
        devices=3,
        seats=2,
        steps=(
            Step(at_s=0.0, do="clock jump", who=1, amount=40.0),
            Step(at_s=0.1, do="join"),
            Step(at_s=2.0, do="join", who=1),
            Step(at_s=4.0, do="join", who=2),
        ),
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_once_is_not_found_again(what):
    outcome = run_script(FOUND[what])
    assert not outcome.broken
