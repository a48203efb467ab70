"""Plugins that exist only while a test runs, with distributions of their own."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rtcfoci.plugin.manager import PluginManager


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lay a distribution with one plugin module onto the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def lay(distribution: str, module: str, source: str, version: str = "1.2") -> None:
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[rtcfoci]\n{module} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return lay


@pytest.fixture
def load() -> Callable[..., PluginManager]:
    """Load with what the process's environment says left out."""

    def loaded(**options: object) -> PluginManager:
        options.setdefault("environ", {})
        return PluginManager.load(**options)  # type: ignore[arg-type]

    return loaded
