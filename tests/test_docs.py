"""The documentation says what is so: commands, hooks, conditions, links, and every step of the tutorials."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from rtcfoci.core.conditions import KINDS
from rtcfoci.plugin import hookspecs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = ["tutorial/first-call.md", "tutorial/write-a-backend.md", "how-to/test-your-app.md"]


@dataclass(frozen=True)
class Fence:
    info: str
    body: str

    @property
    def options(self) -> dict[str, str]:
        return dict(re.findall(r"^:([\w-]+): *(.*)$", self.body, re.MULTILINE))

    @property
    def code(self) -> str:
        return re.sub(r"\A(:[\w-]+:.*\n)*\n*", "", self.body)


def fences(path: Path) -> Iterator[Fence]:
    for match in FENCE.finditer(path.read_text()):
        yield Fence(match["info"].strip(), match["body"])


@pytest.fixture(scope="module")
def generated() -> Iterator[ModuleType]:
    pytest.importorskip("sphinx", reason="the docs environment has Sphinx")
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module("generated")
    sys.path.remove(str(DOCS / "_ext"))


def _readme_commands() -> list[str]:
    return [fence.body.strip() for fence in fences(ROOT / "README.md") if fence.info == "sh"]


def test_ci_runs_the_readmes_test_command() -> None:
    demo, test = _readme_commands()
    script = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert test in script
    assert test.endswith("tox run")
    assert demo == f"{test} -e demo"


def test_every_hook_has_a_heading_with_its_signature_and_words() -> None:
    page = (DOCS / "reference/hooks.md").read_text()
    documented = dict(re.findall(r"^### `(rtcfoci_\w+\(.*)`\n\n(.*)$", page, re.MULTILINE))
    specs = {
        f"{name}() -> {function.__annotations__['return']}": function.__doc__
        for name, function in vars(hookspecs).items()
        if hasattr(function, "rtcfoci_spec")
    }
    assert documented == specs
    assert specs


@pytest.mark.docs
def test_the_conditions_page_lists_every_kind(generated: ModuleType) -> None:
    page = generated.expand((DOCS / "reference/conditions.md").read_text())
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == sorted(KINDS)


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_every_mark_of_a_page_is_filled(page: Path, generated: ModuleType) -> None:
    left = generated.MARK.findall(generated.expand(page.read_text()))
    assert left == []


@pytest.mark.docs
def test_an_api_page_holds_signature_and_words_of_the_source(generated: ModuleType) -> None:
    text = generated.api("rtcfoci.plugin.backend")
    assert "async def connect(self, key: str, transport: Transport" in text
    assert "Open the connection that `connection_key` named." in text
    assert "### `Health`" in text
    assert "- `connected: bool`" in text


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_relative_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_python_examples_are_files_of_pages_that_are_run(page: Path) -> None:
    for fence in fences(page):
        if fence.info in {"python", "{code-block} python"}:
            assert str(page.relative_to(DOCS)) in STEPS
            assert "caption" in fence.options


def script(page: Path) -> str:
    """Turn a page into what a reader does: write each captioned file, run each command."""
    lines = ["set -euo pipefail"]
    for fence in fences(page):
        if fence.info == "sh":
            lines.append(fence.code)
        elif "caption" in fence.options:
            source = fence.info.removeprefix("{literalinclude} ")
            body = (page.parent / source).read_text() if source != fence.info else fence.code
            name = fence.options["caption"].strip("`")
            lines.append(f'mkdir -p "$(dirname {name})"\ncat > {name} <<"END"\n{body}END')
    return "\n".join(lines)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that holds a wheel of this checkout."""
    built = os.environ.get("TOX_PACKAGE")
    if built:
        return Path(built).parent
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    return folder


@pytest.mark.docs
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", STEPS)
def test_the_steps_of_a_page_work_in_an_empty_folder(
    name: str, wheels: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", "-c", script(DOCS / name)],
        cwd=tmp_path,
        env={**os.environ, "PIP_FIND_LINKS": str(wheels), "PYTHONSAFEPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
