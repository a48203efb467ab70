"""What became of each test of a run, written to the file that `RTCFOCI_RESULTS` names.

In: counting outcomes by test, parameters together; which sources the run was of; the mark of those tests that
`docs/msc/requirements` names.
Out: what the outcomes show, which the documentation says (`docs/_ext/requirements.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("rtcfoci", "plugins", "tests")
KINDS = {".json", ".mjs", ".py", ".toml"}


def digest() -> str:
    """Say which sources these are: outcomes of others show nothing about them."""
    found = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in KINDS and "node_modules" not in path.parts:
                found.update(f"{path.relative_to(ROOT)}\n".encode())
                found.update(path.read_bytes())
    return found.hexdigest()


def test_of(node_id: str) -> str:
    """Give the test of a node, without its parameters."""
    return node_id.partition("[")[0]


def named_tests() -> set[str]:
    """Give every test by which the documentation shows a requirement."""
    return {
        test
        for file in (ROOT / "docs/msc/requirements").glob("*.toml")
        for row in tomllib.loads(file.read_text(encoding="utf-8")).get("requirement", ())
        for test in row.get("tests", ())
    }


class Outcomes:
    """Counts the outcomes of one run."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.by_test: dict[str, Counter[str]] = {}
        # Before anything runs: a source that changes meanwhile makes the outcomes nobody's.
        self.sources = digest()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once it ran, and whatever went wrong around it."""
        if report.when == "call" or report.outcome != "passed":
            self.by_test.setdefault(test_of(report.nodeid), Counter())[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        held = {
            "run": os.environ.get("TOX_ENV_NAME", self.file.stem),
            "python": platform.python_version(),
            "sources": self.sources,
            "tests": self.by_test,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(held, indent=1, sort_keys=True), encoding="utf-8")
