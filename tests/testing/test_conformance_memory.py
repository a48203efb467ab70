"""The memory backends pass the suite: all four topologies, in real time and in virtual time."""

import inspect
import itertools
from functools import cached_property

import pytest

from rtcfoci.plugin import Topology
from rtcfoci.testing.clock import run
from rtcfoci.testing.conformance import BackendConformance
from rtcfoci.testing.memory_types import rtcfoci_focus_types
from rtcfoci.testing.memory_world import MemoryWorld

TYPES = {kind.topology: kind for kind in rtcfoci_focus_types()}
NUMBERS = itertools.count()


class MemoryConformance(BackendConformance):
    @cached_property
    def world(self):
        return f"conformance {next(NUMBERS)}"

    def config(self, name):
        return {"world": self.world, "focus": f"focus-{name}"}

    def unreachable(self):
        MemoryWorld.named(self.world).killed.add("nowhere")
        return {"type": self.focus_type.type, "focus": "nowhere"}

    async def freeze(self, stage, who):
        MemoryWorld.named(self.world).freeze(self.place(stage, who))

    async def thaw(self, stage, who):
        MemoryWorld.named(self.world).thaw(self.place(stage, who))

    async def kill(self, stage, who):
        MemoryWorld.named(self.world).kill(self.place(stage, who))

    def place(self, stage, who):
        mesh = stage.focus_type.topology is Topology.PAIRWISE
        return str(who.member) if mesh else who.transport.raw["focus"]


class TestPairwise(MemoryConformance):
    focus_type = TYPES[Topology.PAIRWISE]

    def unreachable(self):
        return None  # a mesh has no place of its own to connect to


class TestPerMember(MemoryConformance):
    focus_type = TYPES[Topology.PER_MEMBER]


class TestElected(MemoryConformance):
    focus_type = TYPES[Topology.ELECTED]


class TestLinked(MemoryConformance):
    focus_type = TYPES[Topology.LINKED]


def cases():
    for name, test in inspect.getmembers(BackendConformance, inspect.iscoroutinefunction):
        if name.startswith("test_"):
            wanted = (
                {"problem": "missing"} if "problem" in inspect.signature(test).parameters else {}
            )
            yield pytest.param(name, wanted, id=name)


async def play(suite, name, arguments):
    test = getattr(suite, name)
    if "stage" not in inspect.signature(test).parameters:
        return await test(**arguments)
    async with suite.open_stage() as stage:
        return await test(stage=stage, **arguments)


@pytest.mark.parametrize("suite", [TestPairwise, TestPerMember, TestElected, TestLinked])
@pytest.mark.parametrize(("name", "arguments"), list(cases()))
def test_in_virtual_time(suite, name, arguments) -> None:
    run(play(suite(), name, arguments))
