"""The shape of the house, as far as import-linter cannot see it (`tox run -e imports` holds the arrows)."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rtcfoci"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
SOURCES = sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("plugins/*/rtcfoci_*/**/*.py")])
MAY_IMPORT = {"plugin", "media", "core", "errors"}


def _lines(*paths: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_module_is_too_long(path: Path) -> None:
    assert _lines(path) <= 500


def test_the_contract_fits_on_a_few_pages() -> None:
    assert _lines(PACKAGE / "plugin/hookspecs.py", PACKAGE / "plugin/backend.py") <= 420


def test_the_memory_backend_is_small() -> None:
    assert _lines(PACKAGE / "testing/memory.py") <= 200


def test_the_sample_plugin_is_small_and_free_of_media() -> None:
    folder = ROOT / "plugins/rtcfoci-relay/rtcfoci_relay"
    assert _lines(*folder.glob("*.py")) <= 150
    assert not {name for path in folder.rglob("*.py") for name in _imports(path) if "media" in name}


def test_no_focus_type_is_named_in_the_core() -> None:
    types = re.compile(r"livekit|mesh|relay|janus|cloudflare|\bsfu\b", re.IGNORECASE)
    named = {
        _name(path): types.findall(path.read_text())
        for path in (PACKAGE / "core").rglob("*.py")
        if "dialects" not in path.parts
    }
    assert len(named) > 3
    assert {path: found for path, found in named.items() if found} == {}


def _imports(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {_name(path)}"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_plugins_import_only_what_they_may(path: Path) -> None:
    inner = {name.split(".")[1] for name in _imports(path) if name.startswith("rtcfoci.")}
    if path.is_relative_to(PACKAGE):
        assert not {name for name in _imports(path) if name.startswith("rtcfoci_")}
        return
    allowed = MAY_IMPORT | ({"matrix"} if {"cli", "server"} & set(path.parts) else set())
    assert inner <= allowed


@pytest.mark.parametrize("folder", PLUGINS, ids=_name)
def test_a_plugin_is_a_distribution_of_its_own(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == folder.name
    assert project["version"]
    # A plugin is found by rtcfoci; what serves a focus is a command of its own.
    assert "rtcfoci" in project.get("entry-points", {}) or project["scripts"]
    assert any(need.startswith("rtcfoci") for need in project["dependencies"])
    assert (folder / "tests").is_dir()
    assert (folder / "README.md").is_file()
