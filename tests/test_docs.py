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

from rtcfoci.call import metrics
from rtcfoci.core.conditions import KINDS
from rtcfoci.core.problems import KINDS as PROBLEMS
from rtcfoci.plugin import backend, builtin, hookspecs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = [
    "tutorial/first-call.md",
    "tutorial/write-a-backend.md",
    "how-to/send-hear-record.md",
    "how-to/test-your-app.md",
    "how-to/add-a-dialect.md",
    "how-to/ring.md",
    "how-to/select-a-focus.md",
    "how-to/lint-an-event.md",
    "how-to/record-and-replay.md",
]


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


@pytest.fixture(scope="module")
def expanded(generated: ModuleType) -> dict[Path, str]:
    """Give every page as the build reads it."""
    return {page: generated.expand(page.read_text()) for page in PAGES}


def the_bot() -> str:
    """Give the program that the first tutorial writes."""
    found = fences(DOCS / "tutorial/first-call.md")
    return next(fence.code for fence in found if fence.options.get("caption") == "echo.py")


def _readme_commands() -> list[str]:
    return [fence.body.strip() for fence in fences(ROOT / "README.md") if fence.info == "sh"]


def test_ci_runs_the_readmes_test_command() -> None:
    demo, test = _readme_commands()
    script = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert test in script
    assert test.endswith("tox run")
    assert demo == f"{test} -e demo"


def test_the_readmes_example_is_the_bot_of_the_tutorial() -> None:
    (example,) = [fence for fence in fences(ROOT / "README.md") if fence.info == "python"]
    bot = {line.strip() for line in the_bot().splitlines()}
    assert not [line for line in example.body.splitlines() if line.strip() not in bot]


def links(page: Path) -> set[Path]:
    """Files that a reader of the page itself, built or not, can click on."""
    targets = re.findall(r"\[[^\]]+\]\(([\w./-]+)[^)]*\)", page.read_text())
    return {(page.parent / target).resolve() for target in targets}


def test_every_page_is_two_clicks_from_the_readme() -> None:
    one = {page for page in links(ROOT / "README.md") if page.suffix == ".md"}
    two = one.union(*map(links, one))
    assert [page for page in PAGES if page not in two and page.parent.name != "changelog.d"] == []


def options_of(command: list[str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rtcfoci.cli.main", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {*re.findall(r"--[\w-]+", done.stdout), "--json", "--debug", "--plugin"}


def commands_in(page: Path) -> Iterator[str]:
    """Every use of `rtcfoci` that a page shows, in a fence or between backticks."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line for fence in FENCE.finditer(text) for line in fence["body"].splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*rtcfoci (.*)", line)
        if found:
            yield found[1]


def test_commands_in_the_documentation_exist_with_their_options() -> None:
    ours = {command.name for command in builtin.rtcfoci_cli_commands()}
    seen, wrong = set[str](), []
    options = {name: options_of([name]) for name in ours}
    options["slot"] |= options_of(["slot", "open"])
    for page in [ROOT / "README.md", *ROOT.glob("plugins/*/README.md"), *PAGES]:
        for line in commands_in(page):
            name = line.split()[0]
            if name == "relay" or name.startswith("-") or name.isupper():
                continue
            seen.add(name)
            given = re.findall(r"(?<!\S)--[\w-]+", line.split(" --with ")[0])
            if name not in ours or not options[name].issuperset(given):
                wrong.append(f"{page.name}: rtcfoci {line}")
    assert wrong == []
    assert seen == ours


def test_every_variable_of_the_environment_is_documented() -> None:
    pages = [DOCS / "reference" / name for name in ("config.md", "livekit-auth-settings.md")]
    told = "".join(page.read_text() for page in pages)
    sources = [*ROOT.glob("rtcfoci/**/*.py"), *ROOT.glob("plugins/*/rtcfoci_*/**/*.py")]
    used = {
        name for path in sources for name in re.findall(r"RTCFOCI_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert used
    assert {name for name in used if name not in told} == set()


def test_the_sketches_go_through_the_contract_method_by_method() -> None:
    page = (DOCS / "explanation/backends.md").read_text()
    methods = {
        name
        for part in (backend.Backend, backend.Connection)
        for name, value in vars(part).items()
        if (callable(value) or isinstance(value, property)) and not name.startswith("__")
    }
    assert {"connect", "publish", "_close"} <= methods
    assert {name for name in methods if f"`{name}`" not in page} == set()


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
def test_the_conditions_page_lists_every_kind_a_plugins_too(
    expanded: dict[Path, str], generated: ModuleType
) -> None:
    page = expanded[DOCS / "reference/conditions.md"]
    own = sorted(kind.code for kind in generated._imported("rtcfoci_mesh.conditions").KINDS)
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [*sorted(KINDS), *own]


@pytest.mark.docs
def test_the_metrics_page_lists_every_name(expanded: dict[Path, str]) -> None:
    page = expanded[DOCS / "reference/metrics.md"]
    named = re.findall(r"^\| `([\w.]+)` \| (?:counter|gauge) \|", page, re.MULTILINE)
    exported = [
        f"rtcfoci_{m.name}{'_total' if m.kind == 'counter' else ''}"
        for m in (*metrics.EXPORTED_METRICS, *metrics.PAIR_METRICS)
    ]
    counted = [m.name for m in (*metrics.CALL_METRICS, *metrics.SHARED_METRICS)]
    assert sorted(named) == sorted([*counted, *exported])


@pytest.mark.docs
def test_the_dialects_page_lists_every_dialect_and_problem(expanded: dict[Path, str]) -> None:
    page = expanded[DOCS / "reference/dialects.md"]
    codes = re.findall(r"^\| `(\w+)` \| [^|]*\|$", page, re.MULTILINE)
    assert sorted(codes) == sorted(PROBLEMS)
    names = re.findall(r"^\| (D[\dD/]+) \|.*\| (?:yes|no) \|$", page, re.MULTILINE)
    assert names == [info.name for info in builtin.rtcfoci_dialects()]


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_every_mark_of_a_page_is_filled(
    page: Path, generated: ModuleType, expanded: dict[Path, str]
) -> None:
    assert generated.MARK.findall(expanded[page]) == []


@pytest.mark.docs
@pytest.mark.parametrize(
    "module", ["rtcfoci", "rtcfoci.plugin", "rtcfoci.testing", "rtcfoci.errors"]
)
def test_every_public_name_is_documented(module: str, expanded: dict[Path, str]) -> None:
    text = "\n".join(expanded.values())
    names = importlib.import_module(module).__all__
    assert [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", text)] == []


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
