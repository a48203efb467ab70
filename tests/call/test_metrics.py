"""The published names of counters: each is counted, and nothing else is."""

import ast
from dataclasses import fields
from pathlib import Path

import rtcfoci
from rtcfoci.call.context import CallContext
from rtcfoci.call.metrics import (
    CALL_METRICS,
    EXPORTED_METRICS,
    METRICS,
    PAIR_METRICS,
    SHARED_METRICS,
)
from rtcfoci.core.key_messages import KeyRefusal
from rtcfoci.core.signals import Refusal
from rtcfoci.matrix.client import SealedCounts
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby

PACKAGE = Path(rtcfoci.__file__).parent
PLUGINS = Path(__file__).parents[2] / "plugins"
VARIABLE = {
    "signals_refused.": {reason.value for reason in Refusal},
    "keys_refused.": {reason.value for reason in KeyRefusal},
    "keys_": {"missing", "failed"},
}
"""What stands behind the first part of a name that is put together."""


def nodes(*folders):
    for folder in folders:
        for path in folder.rglob("*.py"):
            if "tests" not in path.relative_to(folder).parts:
                for node in ast.walk(ast.parse(path.read_text())):
                    yield f"{path.name}:{getattr(node, 'lineno', 0)}", node


def counted():
    """Names that the code of calls and of the core counts."""
    for place, node in nodes(PACKAGE / "call", PACKAGE / "core"):
        match node:
            case ast.AugAssign(
                target=ast.Subscript(value=ast.Attribute(attr="counters" | "_counters"), slice=name)
            ):
                match name:
                    case ast.Constant(value=str(text)):
                        yield text
                    case ast.JoinedStr(values=[ast.Constant(value=str(start)), _]):
                        yield from (start + end for end in VARIABLE[start])
                    case _:
                        raise AssertionError(f"{place}: a name made up as it goes")
    yield from (f"sealed_{field.name}" for field in fields(SealedCounts))


def test_the_table_holds_exactly_the_counters_in_use():
    assert sorted(set(counted())) == sorted(METRICS)


def test_backends_count_by_the_shared_names():
    used = {
        node.args[0].value
        for _, node in nodes(PACKAGE, PLUGINS)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "count"
        and "context" in ast.unparse(node.func)
    }
    assert {metric.name for metric in SHARED_METRICS} == {*used, "others"}


def test_the_tables_are_sound():
    tables = (CALL_METRICS, SHARED_METRICS, EXPORTED_METRICS, PAIR_METRICS)
    for table in tables:
        names = [metric.name for metric in table]
        assert len(names) == len(set(names))
        for metric in table:
            assert metric.what.endswith(".")
            assert "|" not in metric.what
            assert metric.kind in ("counter", "gauge")
            assert metric.name.replace("_", "").replace(".", "").isalpha()
    # A gauge is not among the counters of the export, so it is there by itself.
    gauges = {metric.name for metric in (*CALL_METRICS, *SHARED_METRICS) if metric.kind == "gauge"}
    assert gauges <= {metric.name for metric in EXPORTED_METRICS}


def test_a_call_gives_exactly_the_published_names():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            assert set(ann.call.metrics) == set(METRICS)
            assert not any(ann.call.metrics.values())

    run(main())


def test_a_backend_that_counts_what_strangers_send_is_bounded():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            context = CallContext(ann.call, "org.example.x", None)
            for number in range(2000):
                context.count(f"seen_{number}")
            assert len(ann.call.metrics) <= 600
            assert ann.call.metrics["org.example.x.others"] >= 1400

    run(main())
