"""Every test of the suite finds the fault it is there to find: nothing in it passes by itself."""

import inspect
import itertools

import pytest

from rtcfoci.plugin import Topology
from rtcfoci.testing.broken import BROKEN
from rtcfoci.testing.clock import run
from rtcfoci.testing.conformance import BackendConformance
from rtcfoci.testing.memory_world import MemoryWorld

NUMBERS = itertools.count()
TESTS = [name for name in dir(BackendConformance) if name.startswith("test_")]
RAISED = {
    # Where the fault is an exception, the suite lets it through.
    "test_a_closed_focus_can_be_connected_to_again": "already connected",
    "test_closing_twice_is_harmless": "already closed",
    "test_hostile_signals_do_no_harm": "hello",
    "test_malformed_transports_raise_backend_errors_only": "focus",
    "test_preparing_can_be_repeated_or_left_out": "there is no token",
    "test_the_descriptor_is_sound": "cannot be loaded",
    "test_the_roster_is_idempotent": "not there",
}


def suite_for(focus_type):
    world = f"broken {next(NUMBERS)}"

    class Suite(BackendConformance):
        def config(self, name):
            return {"world": world, "focus": f"focus-{name}"}

        def unreachable(self):
            MemoryWorld.named(world).killed.add("nowhere")
            return {"type": focus_type.type, "focus": "nowhere"}

        async def freeze(self, stage, who):
            MemoryWorld.named(world).freeze(who.transport.raw["focus"])

        async def thaw(self, stage, who):
            MemoryWorld.named(world).thaw(who.transport.raw["focus"])

        async def kill(self, stage, who):
            MemoryWorld.named(world).kill(who.transport.raw["focus"])

    Suite.focus_type = focus_type
    return Suite()


async def play(suite, name):
    test = getattr(suite, name)
    needed = inspect.signature(test).parameters
    arguments = {"problem": "missing"} if "problem" in needed else {}
    if "stage" not in needed:
        return await test(**arguments)
    async with suite.open_stage() as stage:
        return await test(stage=stage, **arguments)


def test_there_is_a_broken_backend_for_every_test() -> None:
    assert sorted(BROKEN) == TESTS
    assert BROKEN["test_hostile_signals_do_no_harm"].topology is Topology.PAIRWISE


@pytest.mark.parametrize("name", TESTS)
def test_the_suite_finds(name) -> None:
    expected = (AssertionError, pytest.fail.Exception)
    if name in RAISED:
        expected = (*expected, Exception)
    with pytest.raises(expected) as found:
        run(play(suite_for(BROKEN[name]), name))
    assert RAISED.get(name, "") in str(found.value)
