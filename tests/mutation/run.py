"""Change core modules in every small way and see whether their example tests notice; resumable.

    tox run -e mutation -- rtcfoci/core/selection.py      this one; folders and several are fine
    tox run -e mutation -- --table rtcfoci/core           and put it into the table of docs/.../quality.md
    tox run -e mutation -- --fresh rtcfoci/core/slots.py  believe nothing that is known

Each mutant meets the tests that call the function it changes, those first that noticed others; a change
outside of functions meets those that reach the module or who imports it. Exits with 1 when fewer than 90 %
of a module's mutants are noticed.

What is known is kept in ~/.cache/rtcfoci/mutation: that a test notices a mutant until the module or the file
of the test changes, that none does until the module or a test that it meets changes. Mutants that equal the
original are listed in `equal.toml` with the reason, and are not counted; an entry that fits none is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutation.mutants import Mutant, equal, functions, mutants  # noqa: E402
from tests.mutation.trial import CORE, Test, Trials  # noqa: E402

KNOWN = Path(os.environ.get("RTCFOCI_CACHE") or Path.home() / ".cache" / "rtcfoci") / "mutation"
PAGE = ROOT / "docs" / "explanation" / "quality.md"
BEGIN, END = "<!-- begin of mutants -->\n", "<!-- end of mutants -->\n"
LEAST = 0.9


@dataclass(frozen=True)
class Score:
    """What became of the mutants of a module."""

    module: str
    noticed: int
    survived: int
    equal: int

    @property
    def name(self) -> str:
        """Give its name within the core."""
        return self.module.removeprefix("rtcfoci/core/")

    @property
    def counted(self) -> int:
        """How many could be noticed."""
        return self.noticed + self.survived

    @property
    def share(self) -> float:
        """Of those."""
        return self.noticed / self.counted if self.counted else 1.0

    @property
    def row(self) -> str:
        """Give the row of the table."""
        figures = f"{self.counted} | {self.noticed} | {self.share:.1%} | {self.equal or ''}"
        return f"| `{self.name}` | {figures} |"


@cache
def digest(*paths: Path) -> str:
    """Tell apart what files hold."""
    found = sha256()
    for path in paths:
        found.update(path.read_bytes() if path.is_file() else b"gone")
    return found.hexdigest()[:12]


class Known:
    """What became of the mutants of one module, in this run and before."""

    def __init__(self, module: Path) -> None:
        self._file = KNOWN / f"{'.'.join(module.relative_to(ROOT).with_suffix('').parts)}.jsonl"
        self._module = digest(module)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._kept = {name: entry for name, *entry in map(json.loads, lines)}

    def verdict(self, name: str, meets: list[Test]) -> tuple[bool, bool]:
        """Say whether it is known what became of a mutant, and whether it was noticed."""
        module, test, tests = self._kept.get(name, ("", "", ""))
        return module == self._module and tests == self._state(test, meets), test is not None

    def noticer(self, name: str) -> str | None:
        """Name the test that noticed a mutant of this name last; it is likely to again."""
        return self._kept.get(name, ("", None, ""))[1]

    def keep(self, name: str, test: str | None, meets: list[Test]) -> None:
        """Note what became of a mutant, at once: a run may be cut off."""
        self._kept[name] = (self._module, test, self._state(test, meets))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as log:
            log.write(json.dumps([name, *self._kept[name]]) + "\n")

    def _state(self, test: str | None, meets: list[Test]) -> str:
        """Tell what the verdict hangs on: one test, or all that it met."""
        names = [test] if test else [met.node_id for met in meets]
        return digest(*sorted({ROOT / name.partition("::")[0] for name in names}))


def importers(module: Path) -> set[str]:
    """Give the files of the core and of its tests that import a module, and its own."""
    whole = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    package, _, name = whole.rpartition(".")
    wanted = re.compile(
        rf"\b(?:import|from) {whole}\b|\bfrom {package} import .*\b{name}\b|\bimport rtcfoci\.core\n"
    )
    paths = [*CORE.rglob("*.py"), *(ROOT / "tests" / "core").rglob("*.py")]
    return {str(module), *(str(path) for path in paths if wanted.search(path.read_text("utf-8")))}


class Choice:
    """Which tests a mutant meets, in which order."""

    _noticed: ClassVar[Counter[str]] = Counter()
    """How many mutants each test has noticed, of all modules."""

    def __init__(self, module: Path, source: str, trials: Trials) -> None:
        self._file, self._named = str(module), f"test_{module.stem}"
        self._functions = sorted(functions(source))
        self._callers: dict[tuple[int, int], tuple[list[Test], bool]] = {}
        self._trials, importing = trials, importers(module)
        self._near = [
            test
            for test in trials.tests
            if str(ROOT / test.file) in importing
            or any(file in importing for file, _ in test.calls)
        ]

    def of(self, mutant: Mutant, likely: str | None) -> tuple[list[list[Test]], bool]:
        """Give the tests group by group, the likely and quick ones first; and whether it is in a function."""
        line = mutant.place[0]
        inside = [(first, last) for first, body, last in self._functions if body <= line <= last]
        every, in_function = self._calling(*inside[-1]) if inside else (self._near, False)
        often = dict(self._noticed.most_common(20))
        known, near, rest = [], [], []
        for test in sorted(every, key=lambda test: (-self._noticed[test.node_id], test.spent_s)):
            is_near = test.node_id in often or Path(test.file).stem.startswith(self._named)
            (known if test.node_id == likely else near if is_near else rest).append(test)
        return ([[*known, *near, *rest]] if in_function else [known, near, rest]), in_function

    def _calling(self, first: int, last: int) -> tuple[list[Test], bool]:
        """Give who calls a function; whether somebody does, and nobody on loading."""

        def calls(seen: Collection[tuple[str, int]]) -> bool:
            return any(file == self._file and first <= at <= last for file, at in seen)

        if (first, last) not in self._callers:
            calling = [test for test in self._trials.tests if calls(test.calls)]
            in_function = bool(calling) and not calls(self._trials.loading)
            self._callers[first, last] = calling or self._near, in_function
        return self._callers[first, last]

    def learn(self, test: str) -> None:
        """Note that a test noticed a mutant."""
        self._noticed[test] += 1


def score(module: Path, trials: Trials, fresh: bool) -> Score:
    """Try every mutant of a module of which nothing is known; list the survivors."""
    source = module.read_text(encoding="utf-8")
    name = str(module.relative_to(ROOT))
    known, choice = Known(module), Choice(module, source, trials)
    same = equal(name)
    counts, listed = Counter[str](), set(same)
    for mutant in mutants(source):
        groups, inside = choice.of(mutant, known.noticer(mutant.name))
        meets = [test for group in groups for test in group]
        is_known, was_noticed = known.verdict(mutant.name, meets)
        if fresh or not is_known:
            tried = (trials.noticed(module, mutant.code, group, inside=inside) for group in groups)
            test = next((test for test in tried if test is not None), None)
            known.keep(mutant.name, test, meets)
            was_noticed = test is not None
            if test:
                choice.learn(test)
        if was_noticed:
            counts["noticed"] += 1
            continue
        change = mutant.change(source)
        if change in same:
            counts["equal"] += 1
            listed.discard(change)
        else:
            counts["survived"] += 1
            print(f"  survived: {name}:{mutant.place[0]} {mutant.name}: {change}", flush=True)
    for change in sorted(listed):
        print(f"  equal.toml: no such mutant of {name} survives: {change}")
    found = Score(name, counts["noticed"], counts["survived"], counts["equal"])
    print(f"{name}: {found.noticed} of {found.counted}, {found.share:.1%}", flush=True)
    return found


def main() -> None:
    """Score every module that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("modules", nargs="+", type=Path)
    parser.add_argument("--fresh", action="store_true", help="try again what is known")
    parser.add_argument("--table", action="store_true", help=f"write the table of {PAGE.name}")
    asked = parser.parse_args()
    os.chdir(ROOT)
    modules = [
        found.resolve()
        for path in asked.modules
        for found in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    if any(name.partition(".")[0] == "rtcfoci" for name in sys.modules):
        sys.exit("the package is loaded already: no mutant would be")
    trials = Trials()
    scores = [score(module, trials, asked.fresh) for module in modules]
    if asked.table:
        write([found for found in scores if found.counted])
    sys.exit(any(found.share < LEAST for found in scores))


def write(scores: list[Score]) -> None:
    """Put their rows into the table of the page; those of other modules stay."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {row.split("`")[1]: row for row in table.splitlines() if row.startswith("| `")}
    rows |= {score.name: score.row for score in scores}
    head = "| module | mutants | noticed | score | equal to the original |\n|---|---|---|---|---|\n"
    lines = "".join(f"{rows[name]}\n" for name in sorted(rows))
    PAGE.write_text(f"{before}{BEGIN}\n{head}{lines}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
