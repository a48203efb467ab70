"""A selection policy in a call: found by name, followed, and a bad one harms nobody."""

import asyncio

import pytest

import rtcfoci
from rtcfoci.call.sessions import find_selection_policy
from rtcfoci.core.model import Transport
from rtcfoci.core.selection import Choice
from rtcfoci.errors import PluginError, SelectionError, UsageError
from rtcfoci.plugin import SelectionPolicyInfo, hookimpl
from rtcfoci.plugin.manager import PluginInfo, PluginManager
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby


class Last:
    """The last that is offered, until somebody else is there."""

    name = "last"

    def choose(self, members, own, offered, known):
        alone = not [m for m in members if m.member != own]
        return Choice(offered[-1 if alone else 0].transport, "it is so")


class Raises:
    name = "raises"

    def choose(self, members, own, offered, known):
        raise ValueError("a bug")


class Refuses:
    name = "refuses"

    def choose(self, members, own, offered, known):
        raise SelectionError("no", why="never", do="nothing")


class Nowhere:
    name = "nowhere"

    def choose(self, members, own, offered, known):
        return Choice(Transport("org.example.nowhere", {"type": "org.example.nowhere"}), "there")


class Nothing:
    name = "nothing"

    def choose(self, members, own, offered, known):
        return None


ALL = (Last, Raises, Refuses, Nowhere, Nothing)


class Policies:
    @staticmethod
    @hookimpl
    def rtcfoci_selection_policies():
        infos = [SelectionPolicyInfo(name=p.name, policy=f"{__name__}:{p.__name__}") for p in ALL]
        return [*infos, SelectionPolicyInfo(name="no-policy", policy="json:dumps")]


def installed(lobby):
    assert lobby.plugins.add(PluginInfo("policies"), lambda: Policies)
    return lobby


def joined(lobby, client, selection):
    return rtcfoci.join(
        client, lobby.room_id, foci=lobby.foci, selection=selection, plugins=lobby.plugins,
        now=lobby.now,
    )  # fmt: skip


def test_a_call_follows_the_policy_that_is_named():
    async def main():
        async with Lobby(foci=["memory.elected", "memory.per_member"]) as lobby:
            client, _ = await installed(lobby).client("ann")
            async with joined(lobby, client, "last") as call:
                await asyncio.sleep(1)
                assert call.focus_type == "memory.per_member"
                await lobby.peer("bob")
                await asyncio.sleep(1)
                assert call.focus_type == "memory.elected"
                assert not call.conditions

    run(main())


@pytest.mark.parametrize(
    ("name", "cause"),
    [("raises", "ValueError"), ("refuses", "never"), ("nowhere", "nowhere"),
     ("nothing", "AttributeError")],
)  # fmt: skip
def test_a_policy_that_cannot_choose_is_a_condition_and_the_call_goes_on(name, cause):
    async def main():
        async with Lobby(foci=["memory.elected", "memory.per_member"]) as lobby:
            client, _ = await installed(lobby).client("ann")
            bob = await lobby.peer("bob")
            async with joined(lobby, client, name) as call:
                await bob.until(lambda: bob.call.participants)
                await asyncio.sleep(1)
                (condition,) = call.conditions
                assert condition.code == "selection_failed"
                assert cause in condition.cause
                assert condition.remedy
                assert call.focus_type == "memory.elected"

    run(main())


def test_a_name_that_is_none_is_refused_with_those_that_are():
    plugins = PluginManager.load(environ={})
    with pytest.raises(UsageError, match="each_its_own") as error:
        find_selection_policy(plugins, "nobody")
    assert error.value.do
    assert plugins.add(PluginInfo("policies"), lambda: Policies)
    with pytest.raises(PluginError, match="not a selection policy"):
        find_selection_policy(plugins, "no-policy")
