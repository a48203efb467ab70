"""Facts that pages take from the code: a comment line such as `<!-- api: module -->` becomes Markdown.

In: signatures and docstrings read from the source without importing it, the tables of conditions, metrics,
dialects, captures, problems and requirements (`requirements`), the error tree, the picture of the layers, and
mermaid diagrams shown as their text (no script is loaded).
Out: prose, which the pages hold themselves.
"""

import ast
import html
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import requirements
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
MARK = re.compile(r"^<!-- (?P<what>\w+):? *(?P<of>[\w.]*) -->$", re.MULTILINE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def expand(text: str) -> str:
    """Replace every mark by what it names; comments that are no marks stay."""

    def fill(match: re.Match[str]) -> str:
        maker = MAKERS.get(match["what"])
        return maker(match["of"]) if maker else match[0]

    return MARK.sub(fill, text)


def api(module: str) -> str:
    """Describe everything in a module's `__all__`, in the order of the source."""
    tree = _tree(module)
    exported = _exported(tree)
    parts = []
    for index, node in enumerate(tree.body):
        if isinstance(node, (ast.ClassDef, *Function.__args__)) and node.name in exported:
            parts.append(_class(node) if isinstance(node, ast.ClassDef) else _function(node, "###"))
        for name in _assigned(node):
            if name in exported:
                parts.append(f"### `{name}`\n\n{_text_after(tree.body, index)}")
    return "\n\n".join(parts)


def conditions(module: str) -> str:
    """Tabulate every condition of a module's `KINDS`."""
    held = _imported(module).KINDS
    rows = [
        f"| `{kind.code}` | {kind.what} | {'ends the call' if kind.terminal else 'recovers'} "
        f"| {kind.remedy} |"
        for kind in sorted(held.values() if isinstance(held, Mapping) else held, key=_code)
    ]
    return "\n".join(["| code | what it says | | remedy |", "|---|---|---|---|", *rows])


def metrics(table: str) -> str:
    """Tabulate the names of one of the tables of `rtcfoci.call.metrics`."""
    from rtcfoci.call import metrics

    exported = table in ("EXPORTED_METRICS", "PAIR_METRICS")
    rows = []
    for metric in getattr(metrics, table):
        name = metric.name
        if exported:
            name = f"rtcfoci_{name}{'_total' if metric.kind == 'counter' else ''}"
        labels = ", ".join(f"`{label}`" for label in metric.labels) if exported else ""
        words = f"{metric.what}{f' Labels: {labels}.' if labels else ''}"
        rows.append(f"| `{name}` | {metric.kind} | {metric.unit} | {words} |")
    return "\n".join(["| name | kind | unit | what it says |", "|---|---|---|---|", *rows])


def dialects(_: str = "") -> str:
    """Tabulate the membership dialects that are always there."""
    from rtcfoci.plugin.builtin import rtcfoci_dialects

    rows = [
        f"| {info.name} | {info.summary} | {' '.join(f'`{kind}`' for kind in info.event_types)} "
        f"| {'yes' if info.writable else 'no'} |"
        for info in rtcfoci_dialects()
    ]
    head = ["| dialect | what it is | event types | written |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def captured(_: str = "") -> str:
    """Tabulate the clients whose events the tests hold, by dialect."""
    senders: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests/core/dialects/captured").glob("*.json")):
        held = json.loads(file.read_text(encoding="utf-8"))
        package = held["captured_from"]["package"].removeprefix("@element-hq/")
        senders.setdefault(held["dialect"], []).append(package)
    rows = [f"| {dialect} | {', '.join(names)} |" for dialect, names in sorted(senders.items())]
    return "\n".join(["| dialect | sent by |", "|---|---|", *rows])


def problems(about: str) -> str:
    """Tabulate the codes of problems that are about one thing."""
    from rtcfoci.core.problems import KINDS

    rows = [
        f"| `{kind.code}` | {kind.what} |"
        for _, kind in sorted(KINDS.items())
        if kind.about.name == about
    ]
    assert rows, f"no problem is about {about}"
    return "\n".join(["| code | what it says |", "|---|---|", *rows])


def errors(_: str = "") -> str:
    """Show the tree of exceptions, as the module draws it."""
    doc = ast.get_docstring(_tree("rtcfoci.errors")) or ""
    tree = re.search(r"::\n\n((?:    .*\n|\n)+)", doc + "\n")
    assert tree, "rtcfoci.errors no longer draws its tree"
    return f"```text\n{tree[1].rstrip()}\n```"


def layers(_: str = "") -> str:
    """Draw the layers that import-linter holds; each may import those below it."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rows = [
        [name.strip(" ()") for name in re.split(r"[|:]", row)]
        for contract in config["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
        for row in contract["layers"]
    ]
    width, height, step = 560, 34, 46
    shapes = []
    for at, row in enumerate(rows):
        box = (width - 10 * (len(row) - 1)) / len(row)
        for column, name in enumerate(row):
            x, y = column * (box + 10), at * step
            shapes.append(
                f'<rect x="{x:.0f}" y="{y}" width="{box:.0f}" height="{height}" rx="5" fill="none" '
                f'stroke="currentColor"/><text x="{x + box / 2:.0f}" y="{y + 22}" fill="currentColor" '
                f'text-anchor="middle" font-family="monospace">{html.escape(name)}</text>'
            )
    label = "Layers from top to bottom: " + "; ".join(", ".join(row) for row in rows)
    size = f"0 -2 {width} {len(rows) * step}"
    svg = f'<svg viewBox="{size}" role="img" aria-label="{label}">{"".join(shapes)}</svg>'
    return f"```{{raw}} html\n{svg}\n```"


def help_text(command: str) -> str:
    """Show what `rtcfoci COMMAND --help` prints."""
    arguments = [command, "--help"] if command else ["--help"]
    script = "import sys; from rtcfoci.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{done.stdout.rstrip()}\n```"


MAKERS: dict[str, Callable[[str], str]] = {
    "api": api,
    "captured": captured,
    "conditions": conditions,
    "dialects": dialects,
    "errors": errors,
    "help": help_text,
    "layers": layers,
    "metrics": metrics,
    "problems": problems,
    "requirements": requirements.tables,
    "requirements_summary": requirements.summary,
}


def _imported(module: str) -> ModuleType:
    """Import a module of this repository, a plugin's too, installed or not."""
    folders = {path.parent.name: path.parents[1] for path in ROOT.glob("plugins/*/*/__init__.py")}
    folder = folders.get(module.partition(".")[0])
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(module)


def _code(kind: object) -> str:
    return str(getattr(kind, "code", ""))


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec, f"no module {module}"
    assert spec.origin, f"{module} has no file"
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _exported(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if _assigned(node) == ["__all__"] and isinstance(node, ast.Assign):
            return set(ast.literal_eval(node.value))
    return set()


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _text_after(body: list[ast.stmt], index: int) -> str:
    following = body[index + 1] if index + 1 < len(body) else None
    match following:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return _prose(text)
    return ""


def _class(node: ast.ClassDef) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [f"### `{node.name}`" + (f"\n\nA `{bases}`." if bases else "")]
    parts.append(_prose(ast.get_docstring(node)))
    fields = [
        f"- `{ast.unparse(item)}`: {_text_after(node.body, index)}".rstrip(": ")
        for index, item in enumerate(node.body)
        if isinstance(item, (ast.AnnAssign, ast.Assign)) and not _assigned(item)[0].startswith("_")
    ]
    parts.append("\n".join(fields))
    parts += [
        _function(item, "####")
        for item in node.body
        if isinstance(item, Function) and not item.name.startswith("_")
    ]
    return "\n\n".join(part for part in parts if part)


def signature(node: Function) -> str:
    """Write a function's signature as its source does, without its body."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{word} {node.name}({ast.unparse(node.args)}){returns}"


def _function(node: Function, heading: str) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    code = "".join(f"@{name}\n" for name in sorted(decorators & {"abstractmethod", "property"}))
    code += signature(node)
    return f"{heading} `{node.name}`\n\n```python\n{code}\n```\n\n{_prose(ast.get_docstring(node))}"


def _prose(text: str | None) -> str:
    lines = []
    for line in (text or "").strip().splitlines():
        line = re.sub(r"^\s*:(?:param|raises) ([\w.]+):", r"- `\1`:", line)
        lines.append(re.sub(r" :raises ([\w.]+):", r" Raises `\1`", line))
    return re.sub(r"::\n\n((?:    .*\n?|\n)+)", r":\n\n\1", "\n".join(lines) + "\n").strip()


class Mermaid(Directive):
    """Show a diagram's source: readable as it is, and drawn where the host draws mermaid."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.literal_block("\n".join(self.content), "\n".join(self.content))]


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = expand(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Mermaid)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
