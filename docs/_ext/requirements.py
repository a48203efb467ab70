"""The requirements of the MSCs: what is held about them, what is wrong with that, and the page's tables.

In: `docs/msc/requirements/*.toml`, the names of the tests in the sources, and the outcomes of the last runs
(the files beside the one that `RTCFOCI_RESULTS` names; `tests/outcomes.py` writes them).
Out: running tests. Outcomes of other sources than these count as none.
"""

import ast
import importlib.util
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs/msc/requirements"
PROPOSALS = "https://github.com/matrix-org/matrix-spec-proposals"

LEVELS = (
    "MUST",
    "MUST NOT",
    "SHOULD",
    "SHOULD NOT",
    "REQUIRED",
    "RECOMMENDED",
    "should",
    "must",
    "says",
)
BINDS = ("reader", "writer", "client", "server", "service", "specification")
STANDS = {
    "holds": "we keep it",
    "deviates": "we do otherwise, on purpose",
    "open": "we do not have it yet",
    "measured": "others must; measured here",
    "outside": "others must; nothing here can show it",
}
OURS = ("holds", "deviates", "open")
SHOWN = ("holds", "deviates", "measured")
"""What needs a test."""


@dataclass(frozen=True)
class Other:
    """Where somebody else does otherwise."""

    who: str
    what: str
    tests: tuple[str, ...] = ()
    read: str = ""
    """What was read, where no test shows it."""


@dataclass(frozen=True)
class Requirement:
    """One sentence of an MSC that somebody is bound by."""

    id: str
    section: str
    level: str
    binds: str
    says: str
    stands: str
    lines: tuple[int, ...] = ()
    """Of the text at its commit."""
    excerpt: str = ""
    """The date of the later text that only a review quotes."""
    tests: tuple[str, ...] = ()
    note: str = ""
    others: tuple[Other, ...] = ()


@dataclass(frozen=True)
class Text:
    """One MSC, as it was read."""

    msc: int
    title: str
    date: str
    commit: str
    path: str
    later: str
    """What is known of the text since."""
    requirements: tuple[Requirement, ...] = field(default=())

    def link(self, line: int) -> str:
        return f"{PROPOSALS}/blob/{self.commit}/{self.path}?plain=1#L{line}"


@dataclass(frozen=True)
class Run:
    """What one run of the tests found, of these sources."""

    name: str
    python: str
    tests: dict[str, Counter[str]]


def load(folder: Path = FOLDER) -> list[Text]:
    """Read every text, in the order of the MSCs."""
    return sorted(
        (read(tomllib.loads(file.read_text(encoding="utf-8"))) for file in folder.glob("*.toml")),
        key=lambda text: text.msc,
    )


def read(held: dict) -> Text:
    """Make a text of what a file holds; a key that is none of ours is an error."""
    rows = []
    for row in held.pop("requirement"):
        others = tuple(
            Other(**{**other, "tests": tuple(other.get("tests", ()))})
            for other in row.pop("others", ())
        )
        lists = {key: tuple(row.pop(key, ())) for key in ("lines", "tests")}
        rows.append(Requirement(**row, **lists, others=others))
    return Text(**held, requirements=tuple(rows))


# What is wrong with what is held


def faults(texts: list[Text]) -> Iterator[str]:
    """Say everything that is not as it must be; nothing when all is well."""
    seen: set[str] = set()
    for text in texts:
        for row in text.requirements:
            if row.id in seen:
                yield f"{row.id}: twice"
            seen.add(row.id)
            yield from (f"{row.id}: {fault}" for fault in _faults(text, row))


def _faults(text: Text, row: Requirement) -> Iterator[str]:
    if not re.fullmatch(rf"MSC{text.msc}-[a-z]+-\d+", row.id):
        yield "no id of this text"
    for name, known in (("level", LEVELS), ("binds", BINDS), ("stands", STANDS)):
        if getattr(row, name) not in known:
            yield f"{name} is none of {', '.join(known)}"
    if bool(row.lines) == bool(row.excerpt):
        yield "give either the lines of the text or the date of the excerpt"
    if (row.stands in OURS) == (row.binds in ("server", "service", "specification")):
        yield f"{row.stands} does not go with a {row.binds}"
    if (row.stands in SHOWN) != bool(row.tests):
        yield f"{row.stands}, and {'tests' if row.tests else 'no test'}"
    if row.stands != "holds" and not row.note:
        yield f"{row.stands}, and no note says why"
    for other in row.others:
        if bool(other.tests) == bool(other.read):
            yield f"{other.who}: give either tests or what was read"
    for test in _all_tests(row):
        if test not in tests_in(test.partition("::")[0]):
            yield f"there is no test {test}"


def _all_tests(row: Requirement) -> list[str]:
    return [*row.tests, *(test for other in row.others for test in other.tests)]


@cache
def tests_in(path: str) -> frozenset[str]:
    """Give the ids of the tests that a file defines."""
    if not (ROOT / path).is_file():
        return frozenset()

    def walk(body: list[ast.stmt], before: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if node.name.startswith("test"):
                    yield f"{before}::{node.name}"
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{before}::{node.name}")

    return frozenset(walk(ast.parse((ROOT / path).read_text(encoding="utf-8")).body, path))


# What the runs found


def runs(folder: Path | None = None) -> list[Run]:
    """Read the outcomes of every run of these sources; none where no folder is known."""
    if folder is None:
        named = os.environ.get("RTCFOCI_RESULTS")
        if not named:
            return []
        folder = Path(named).parent
    sources = _outcomes().digest()
    found = []
    for file in sorted(folder.glob("*.json")):
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["sources"] == sources:
            tests = {test: Counter(counted) for test, counted in held["tests"].items()}
            found.append(Run(held["run"], held["python"], tests))
    return found


@cache
def _outcomes():
    """Load the writer of those files, which knows what the sources are."""
    spec = importlib.util.spec_from_file_location("outcomes", ROOT / "tests/outcomes.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(tests: tuple[str, ...], found: list[Run]) -> str:
    """Say in a few words what became of some tests in all runs together."""
    counted: Counter[str] = Counter()
    unknown = 0
    for test in tests:
        outcomes = [run.tests[test] for run in found if test in run.tests]
        counted += sum(outcomes, Counter())
        unknown += not outcomes
    if counted["failed"]:
        return f"**failed** ({counted['failed']} of {counted.total()})"
    said = [f"passed ({counted['passed']})"] if counted["passed"] else []
    said += [f"skipped ({counted['skipped']})"] if counted["skipped"] else []
    if unknown:
        said.append("not run here" if unknown == len(tests) else f"{unknown} not run here")
    return ", ".join(said)


# The page


def tables(msc: str) -> str:
    """Tabulate one MSC's requirements."""
    (text,) = (text for text in load() if str(text.msc) == msc)
    found = runs()
    rows = [
        f"| {_what(text, row)} | {row.binds} | {_shown(row, found)} | {_ours(row)} |"
        for row in text.requirements
    ]
    head = ["| requirement | binds | shown by, and result | stands |", "|---|---|---|---|"]
    first = text.requirements[0].lines[0]
    source = f"Read: the [text of {text.date}]({text.link(first)}) (commit `{text.commit[:9]}`). {text.later}"
    return "\n".join([source, "", *head, *rows])


def summary(_: str = "") -> str:
    """Tabulate how many requirements stand how, and which runs the results are from."""
    texts, found = load(), runs()
    rows = []
    for text in texts:
        stands = Counter(row.stands for row in text.requirements)
        ours = [row for row in text.requirements if row.stands in ("holds", "deviates")]
        results = [result(row.tests, found) for row in ours]
        passed = sum(said.startswith("passed") for said in results)
        failed = sum(said.startswith("**") for said in results)
        counts = " | ".join(str(stands[kind]) for kind in STANDS)
        told = f"{passed} passed, {failed} failed, {len(ours) - passed - failed} not run here"
        rows.append(f"| [MSC{text.msc}](#msc{text.msc}) {text.title} | {counts} | {told} |")
    runs_said = ", ".join(f"`{run.name}` (Python {run.python})" for run in found)
    return "\n".join(
        [
            f"| | {' | '.join(STANDS.values())} | results of ours |",
            "|---|" + "---|" * (len(STANDS) + 1),
            *rows,
            "",
            f"Results are those of these runs: {runs_said}."
            if found
            else "No run of these very sources is known where this page was built.",
        ]
    )


def _what(text: Text, row: Requirement) -> str:
    if row.excerpt:
        where = f"[{row.section}]({PROPOSALS}/pull/{text.msc}), review of {row.excerpt}"
    else:
        where = f"[{row.section}]({text.link(row.lines[0])})"
    return f'<a id="{row.id}"></a>`{row.id}` {where}<br>**{row.level}** {_cell(row.says)}'


def _shown(row: Requirement, found: list[Run]) -> str:
    if not row.tests:
        return "-"
    names = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in row.tests)
    return f"{names}<br>{result(row.tests, found)}"


def _ours(row: Requirement) -> str:
    parts = [STANDS[row.stands] + (f": {_cell(row.note)}" if row.note else "")]
    for other in row.others:
        by = ", ".join(f"`{test.removeprefix('tests/')}`" for test in other.tests) or other.read
        parts.append(f"**{other.who}**: {_cell(other.what)} ({_cell(by)})")
    return "<br>".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
