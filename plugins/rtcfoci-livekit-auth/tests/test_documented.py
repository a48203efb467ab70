"""What the documentation says of the service is so."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import rtcfoci_livekit_auth
from rtcfoci_livekit_auth.cli import COMMANDS
from rtcfoci_livekit_auth.doctor.run import HOPS

PACKAGE = Path(rtcfoci_livekit_auth.__file__).parent
DOCS = Path(__file__).parents[3] / "docs"
REFERENCE = DOCS / "reference" / "livekit-auth.md"
pytestmark = pytest.mark.skipif(not REFERENCE.is_file(), reason="the documentation is not here")


def test_every_verdict_of_doctor_is_listed():
    makers = {"ok", "warning", "failed", "not_checked", "verdict", "_refused"}
    used = {"ok"}
    for path in (PACKAGE / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                if name in makers - {"ok"}:
                    used.add(node.args[0].value)
    section = REFERENCE.read_text().partition("## Verdicts of doctor")[2].partition("\n## ")[0]
    table = section[section.index("| hop |") :]
    assert set(re.findall(r"`([a-z_]+)`", table)) == used
    named = [line.split("|")[1].strip() for line in table.splitlines()[2:] if line.startswith("|")]
    assert named == [*(hop.name for hop in HOPS), "any"]


def test_every_command_is_listed():
    text = REFERENCE.read_text()
    for name, (_, entry) in COMMANDS.items():
        assert f"| `{name}` |" in text
        module, _, function = entry.partition(":")
        loaded = importlib.import_module(f"rtcfoci_livekit_auth.{module}")
        assert callable(getattr(loaded, function))


def test_commands_in_the_documentation_have_their_options(capsys):
    seen = set()
    for page in [*DOCS.rglob("*.md"), Path(__file__).parents[1] / "README.md"]:
        for words in re.findall(r"^\$ rtcfoci-livekit-auth (.+)$", page.read_text(), re.MULTILINE):
            name, *given = shlex.split(words)
            module, _, function = COMMANDS[name][1].partition(":")
            if name == "serve":
                continue
            with pytest.raises(SystemExit):
                getattr(importlib.import_module(f"rtcfoci_livekit_auth.{module}"), function)(
                    ["--help"]
                )
            known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
            assert {word for word in given if word.startswith("--")} <= known, page.name
            seen.add(name)
    assert {"init", "check-config", "doctor"} <= seen
