"""Change core modules in every small way and see whether their example tests notice; resumable.

Run by `tox run -e mutation -- rtcfoci/core/selection.py [more modules or folders]`, with `--tests PATH` for
other tests than those in the nearest folder of the module's path that has any. Left out are property tests,
since what they find is chance and a score must come out the same again, and the slow exhaustive ones.

Each mutant runs in a fork of a process that has pytest loaded, and its module comes from memory, so nothing
on disk changes. What is known is kept by what package and tests hold, so that a run that was cut off goes on
where it stopped. Annotations and docstrings are not changed: nothing there runs. Exits with 1 when fewer
than 90 % of a module's mutants are noticed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".tox" / "mutation"
LEAST = 0.9
LIMIT_S = 60.0
"""A mutant that takes longer is noticed: somebody would."""
MEMORY = 4 * 1024**3


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    operator: str
    occurrence: int
    line: int

    @property
    def name(self) -> str:
        return f"{self.operator}:{self.occurrence}"

    def code(self, source: str) -> str:
        """Give the changed module."""
        return str(mutate_code(source, get_operator(self.operator)(), self.occurrence))


def mutants(source: str) -> Iterator[Mutant]:
    """List every change, but for those of annotations and those that change nothing."""
    asleep = list(annotations(source))
    tree = get_ast(source)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = (
            place for node in ast_nodes(tree) for place in operator().mutation_positions(node)
        )
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= tuple(start) < last for first, last in asleep):
                yield Mutant(name, occurrence, start[0])


def annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Give the places of what is written for readers and type checkers."""
    for node in ast.walk(ast.parse(source)):
        found: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            found.append(node.annotation)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                found.append(node.value)
        for part in found:
            if isinstance(part, ast.expr):
                end = (part.end_lineno or 0, part.end_col_offset or 0)
                yield (part.lineno, part.col_offset), end


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with other code than its file has."""

    code = ""

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        return compile(self.code, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module before anybody else does."""

    def __init__(self, name: str, path: Path, code: str) -> None:
        self.name, self.loader = name, Loader(name, str(path))
        self.loader.code = code

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.loader.path, loader=self.loader)


def notices(module: Path, code: str, tests: list[str], limit_s: float = LIMIT_S) -> bool:
    """Run the tests on a changed module, in a process of its own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        name = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
        sys.meta_path.insert(0, Finder(name, ROOT / module, code))
        # pytest's rewriting of assertions would load the package, which has a plugin, from disk.
        quietly = [
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-m",
            "not hypothesis",
            "--timeout=20",
            "--assert=plain",
            "--ignore=tests/core/test_interleavings.py",
        ]
        os._exit(0 if pytest.main([*quietly, *tests]) == 0 else 1)
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def nearest_tests(module: Path) -> list[list[str]]:
    """Find the folder that mirrors the module's, or the next above it; what has its name goes first."""
    folder = Path("tests", *module.parts[1:-1])
    while not (ROOT / folder).is_dir():
        folder = folder.parent
    named = sorted((ROOT / "tests/core").rglob(f"test_*{module.stem}*.py"))
    return [[str(path.relative_to(ROOT)) for path in named], [str(folder)]][not named :]


def fingerprint(asked: str) -> str:
    """Tell apart what was asked for, and of which package and tests."""
    digest = hashlib.sha256(asked.encode())
    for part in ("rtcfoci/core", "tests/core"):
        for path in sorted((ROOT / part).rglob("*.py")):
            digest.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def score(module: Path, tests: list[str]) -> float:
    """Try every mutant of a module that was not tried yet; list the survivors."""
    groups = [tests] if tests else nearest_tests(module)
    source = (ROOT / module).read_text(encoding="utf-8")
    if any(notices(module, source, group) for group in groups):
        sys.exit(f"{module}: the tests fail as it is: {groups}")
    kept = WORK / f"{'.'.join(module.with_suffix('').parts)}-{fingerprint(repr(groups))}.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = dict(json.loads(line) for line in lines)
    every = list(mutants(source))
    with kept.open("a") as log:
        for mutant in every:
            if mutant.name not in known:
                # The module's own tests first: they notice most, and are collected in no time.
                code = mutant.code(source)
                known[mutant.name] = any(notices(module, code, group) for group in groups)
                log.write(json.dumps([mutant.name, known[mutant.name]]) + "\n")
                log.flush()
    for mutant in every:
        if not known[mutant.name]:
            changed = mutant.code(source).splitlines()[mutant.line - 1].strip()
            print(f"  survived: {module}:{mutant.line} {mutant.operator}: {changed}")
    noticed = sum(known[mutant.name] for mutant in every)
    share = noticed / len(every) if every else 1.0
    print(f"{module}: {noticed} of {len(every)} mutants were noticed, {share:.1%}", flush=True)
    return share


def main() -> None:
    """Score every module that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", type=Path)
    parser.add_argument("--tests", nargs="*", default=[])
    asked = parser.parse_args()
    os.chdir(ROOT)
    WORK.mkdir(parents=True, exist_ok=True)
    modules = [
        found
        for path in asked.modules
        for found in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    if any(name.partition(".")[0] == "rtcfoci" for name in sys.modules):
        sys.exit("the package is loaded already: no mutant would be")
    sys.exit(min([score(module, asked.tests) for module in modules]) < LEAST)


if __name__ == "__main__":
    main()
