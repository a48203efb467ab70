"""What modules export, and what importing the package costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rtcfoci

PACKAGE = Path(rtcfoci.__file__).parent
MODULES = sorted(
    ".".join(("rtcfoci", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)
HEAVY = {"pydantic", "pluggy", "asyncio", "aiohttp", "av", "nio", "numpy", "importlib.metadata"}


def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())


def _exports(tree: ast.Module) -> list[str]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
    return []


def _order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", MODULES)
def test_all_is_sorted_and_true(module: str) -> None:
    tree = _tree(module)
    exports = _exports(tree)
    assert exports == sorted(set(exports), key=_order)
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and not node.name.startswith("_")
    }
    assert defined <= set(exports), "public definitions missing in __all__"
    loaded = importlib.import_module(module)
    for name in exports:
        assert hasattr(loaded, name)


def _run(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not (_run("import rtcfoci") - _run("pass")) & HEAVY


def test_lazy_names_are_listed_and_there() -> None:
    assert set(rtcfoci.__all__) <= set(dir(rtcfoci))
    assert {"join"} <= set(rtcfoci.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rtcfoci.no_such_name
