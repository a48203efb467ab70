"""Every small change of a module that may matter, and those that are known not to.

In: listing the changes, naming them by the line they change, the list of equal ones (`equal.toml`).
Out: trying them (`trial`), counting (`run`).

Annotations, protocols, docstrings, `@abstractmethod` and the `*` and `/` of a signature are not changed: what
uses them is a type checker, which refuses a method without a body that is not abstract.
Nor does a change count that is no Python, or of which Python warns, or that compares a member of an enum by
equality instead of identity, which is the same.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tokenize
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

EQUAL = Path(__file__).with_name("equal.toml")

Place = tuple[int, int]


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    operator: str
    occurrence: int
    place: Place
    code: str
    """The changed module."""

    @property
    def name(self) -> str:
        return f"{self.operator.partition('/')[2]}:{self.occurrence}"

    def change(self, source: str) -> str:
        """Say which line becomes what; stays the same when lines move."""
        before, after = source.splitlines(), self.code.splitlines()
        line = self.place[0] - 1
        changed = after[line].strip() if line < len(after) else ""
        if before[line].strip() == changed and len(before) == len(after):
            line = next((n for n, old in enumerate(before) if old != after[n]), line)
            changed = after[line].strip()
        return f"{before[line].strip()} -> {changed}"


def mutants(source: str) -> Iterator[Mutant]:
    """List every change that tests might notice."""
    asleep = [*_annotations(source), *_separators(source)]
    identities = set(_identities(source))
    tree = get_ast(source)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = (
            place for node in ast_nodes(tree) for place in operator().mutation_positions(node)
        )
        for occurrence, (start, _) in enumerate(places):
            place = tuple(start)
            if any(first <= place < last for first, last in asleep) or (
                name.endswith(("Is_Eq", "IsNot_NotEq")) and place in identities
            ):
                continue
            code = str(mutate_code(source, operator(), occurrence))
            with contextlib.suppress(SyntaxError), warnings.catch_warnings():
                warnings.simplefilter("error", SyntaxWarning)
                compile(code, "mutant", "exec")
                yield Mutant(name, occurrence, place, code)


def equal(module: str) -> set[str]:
    """Give the changes of a module that change nothing anybody could see."""
    listed = tomllib.loads(EQUAL.read_text(encoding="utf-8")).get(module, [])
    return {change for entry in listed for change in entry["changes"]}


def functions(source: str) -> Iterator[tuple[int, int, int]]:
    """Give the first line of every function, decorators included, and of its body the first and last."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
            yield first, node.body[0].lineno, node.end_lineno or node.lineno


def _annotations(source: str) -> Iterator[tuple[Place, Place]]:
    """Give the places of what is written for readers and type checkers."""
    for node in ast.walk(ast.parse(source)):
        found: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
            for part in node.decorator_list:
                if ast.unparse(part) == "abstractmethod":
                    yield (part.lineno, 0), (part.lineno + 1, 0)
        elif isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
        ):
            first, end = node.body[0], (node.end_lineno or 0, node.end_col_offset or 0)
            yield (first.lineno, first.col_offset), end
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            found.append(node.annotation)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                found.append(node.value)
        for part in found:
            if isinstance(part, ast.expr):
                end = (part.end_lineno or 0, part.end_col_offset or 0)
                yield (part.lineno, part.col_offset), end


def _separators(source: str) -> Iterator[tuple[Place, Place]]:
    """Give the places of each `*` and `/` that stands alone among parameters."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string in {"*", "/"} and before in {"(", ","}:
            yield token.start, token.end
        if token.string.strip():
            before = token.string


def _identities(source: str) -> Iterator[Place]:
    """Give the places of the operator where something is, or is not, a member of an enum."""
    for number, line in enumerate(source.splitlines(), 1):
        for found in re.finditer(r"\bis (?:not )?(?=[A-Z]\w+\.[A-Z_]+\b)", line):
            yield number, found.start()
