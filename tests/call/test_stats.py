"""The figures of a call: of every connection that answers, and of no other."""

import asyncio
from types import SimpleNamespace

from rtcfoci.call import stats
from rtcfoci.call.stats import FocusStats, gather
from rtcfoci.plugin import ConnectionStats, PairStats

PAIR = PairStats(member=None, state="connected")


def link(answer, key="k"):
    connection = SimpleNamespace(stats=answer) if answer else None
    return SimpleNamespace(connection=connection, key=key, focus_type=SimpleNamespace(type="x"))


async def well():
    return ConnectionStats(pairs=(PAIR,), extras={"lag_ms": 1.0})


async def broken():
    raise ValueError("breaks its contract")


async def hangs():
    await asyncio.Event().wait()


async def test_a_connection_that_fails_or_hangs_costs_only_its_own_figures(monkeypatch):
    monkeypatch.setattr(stats, "_PATIENCE_S", 0.05)
    links = [link(None), link(broken), link(hangs), link(well, "a"), link(well, "b")]
    assert await gather(links) == tuple(
        FocusStats("x", key, (PAIR,), {"lag_ms": 1.0}) for key in ("a", "b")
    )
