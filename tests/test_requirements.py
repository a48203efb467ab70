"""The page of requirements: what is held is sound, and its results are those of runs of these sources."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests import outcomes

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def requirements():
    sys.path.insert(0, str(ROOT / "docs/_ext"))
    yield importlib.import_module("requirements")
    sys.path.remove(str(ROOT / "docs/_ext"))


def test_all_that_is_held_is_sound(requirements: ModuleType) -> None:
    texts = requirements.load()
    assert [text.msc for text in texts] == [4075, 4140, 4143, 4195, 4354]
    assert list(requirements.faults(texts)) == []


def test_every_fault_is_found(requirements: ModuleType) -> None:
    (text, *_) = requirements.load()
    row = requirements.Requirement(
        id=f"MSC{text.msc}-a-1",
        section="A",
        level="MUST",
        binds="reader",
        says="B.",
        stands="holds",
        lines=(1,),
        tests=("tests/test_requirements.py::test_every_fault_is_found",),
    )

    def found(*rows):
        return list(requirements.faults([replace(text, requirements=rows)]))

    assert found(row) == []
    assert found(row, row) == [f"{row.id}: twice"]
    other = requirements.Other(who="X", what="Y")
    for change in (
        {"id": "MSC1-a-1"},
        {"level": "MAY"},
        {"binds": "server"},
        {"stands": "well"},
        {"lines": ()},
        {"excerpt": "2026-09-01"},
        {"tests": ()},
        {"tests": ("tests/test_requirements.py::test_none",)},
        {"tests": ("tests/none.py::test_none",)},
        {"stands": "deviates"},
        {"stands": "open", "note": "not yet"},
        {"stands": "measured", "note": "by others"},
        {"others": (other,)},
        {"others": (replace(other, tests=row.tests, read="Z"),)},
        {"others": (replace(other, tests=("tests/none.py::test_none",)),)},
    ):
        assert found(replace(row, **change)), change
    assert found(replace(row, stands="deviates", note="for a reason")) == []
    assert found(replace(row, stands="open", note="not yet", tests=())) == []


def test_results_are_those_of_runs_of_these_sources(
    requirements: ModuleType, tmp_path: Path
) -> None:
    def write(name, sources, tests):
        held = {"run": name, "python": "3.11.2", "sources": sources, "tests": tests}
        (tmp_path / f"{name}.json").write_text(json.dumps(held))

    here = outcomes.digest()
    write("docs", here, {"a": {"passed": 2}, "b": {"skipped": 1}})
    write("system", here, {"a": {"passed": 1}, "c": {"passed": 1, "failed": 1}})
    write("other", "0", {"d": {"passed": 9}})
    runs = requirements.runs(tmp_path)
    assert [run.name for run in runs] == ["docs", "system"]
    assert [requirements.result(tests, runs) for tests in (("a",), ("b",), ("d",))] == [
        "passed (3)",
        "skipped (1)",
        "not run here",
    ]
    assert requirements.result(("a", "c"), runs) == "**failed** (1 of 5)"
    assert requirements.result(("a", "b", "d"), runs) == "passed (3), skipped (1), 1 not run here"


def test_a_run_is_written(requirements: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOX_ENV_NAME", "py399")
    run = outcomes.Outcomes(tmp_path / "folder/results.json")
    for node, when, outcome in (
        ("t.py::test_a[x[1]]", "setup", "passed"),
        ("t.py::test_a[x[1]]", "call", "passed"),
        ("t.py::test_a[2]", "call", "failed"),
        ("t.py::test_a[2]", "teardown", "failed"),
        ("t.py::C::test_b", "setup", "skipped"),
    ):
        report = pytest.TestReport(node, ("t.py", 1, ""), {}, outcome, None, when)
        run.pytest_runtest_logreport(report)
    run.pytest_sessionfinish()
    (found,) = requirements.runs(tmp_path / "folder")
    assert found.name == "py399"
    assert found.tests == {
        "t.py::test_a": Counter(passed=1, failed=2),
        "t.py::C::test_b": Counter(skipped=1),
    }


def test_the_tables_hold_every_requirement(requirements: ModuleType, monkeypatch) -> None:
    monkeypatch.delenv("RTCFOCI_RESULTS", raising=False)
    for text in requirements.load():
        lines = requirements.tables(str(text.msc)).splitlines()
        rows = [line for line in lines if line.startswith("| <a")]
        assert len(rows) == len(text.requirements)
        for row, requirement in zip(rows, text.requirements, strict=True):
            assert f"`{requirement.id}`" in row
            assert row.replace("\\|", "").count("|") == 5
            assert ("not run here" in row) == bool(requirement.tests)
    assert "No run of these very sources is known" in requirements.summary()
