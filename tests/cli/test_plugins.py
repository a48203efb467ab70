"""`rtcfoci plugins` and what every command shares: options, errors, exit codes, help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtcfoci.cli.main import main
from rtcfoci.cli.options import current, exit_code
from rtcfoci.errors import (
    BackendError,
    ClientError,
    LocalProtocolError,
    PreflightError,
    UnreachableError,
    UsageError,
)

BENCH = """
import sys
from rtcfoci.cli.options import current
from rtcfoci.errors import UnreachableError
from rtcfoci.plugin import Capabilities, CliCommand, FocusType, Topology, hookimpl

@hookimpl
def rtcfoci_focus_types():
    return [FocusType(type="org.example.bench", aliases=("bench",), backend="nowhere:Backend",
        topology=Topology.LINKED, capabilities=Capabilities(data=True, max_members=9))]

@hookimpl
def rtcfoci_cli_commands():
    return [CliCommand(name="bench", aliases=("b",), summary="does as told", run="workbench:run")]

def run(arguments):
    print("ran", arguments, current().json)
    if "exit" in arguments:
        sys.exit(2)
    if "far" in arguments:
        raise UnreachableError("no answer", why="it is\\nfar", do="wait")
    if "bug" in arguments:
        raise KeyError("surprise")
    return 1 if "no" in arguments else 0
"""


@pytest.fixture(autouse=True)
def workbench(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "workbench", raising=False)
    (tmp_path / "workbench.py").write_text(BENCH)
    return tmp_path


def run(*arguments: str) -> int:
    return main(["--plugin", "workbench", *arguments])


def test_plugins_lists_what_is_there(capsys) -> None:
    code = run("plugins")
    out = capsys.readouterr().out
    assert code == 0, out
    (line,) = [line for line in out.splitlines() if line.startswith("org.example.bench")]
    assert line.split() == [
        "org.example.bench", "bench", "linked", "data,", "max_members=9",
        "none", "none", "experimental", "workbench", "(unpackaged)",
    ]  # fmt: skip
    for word in ("D2", "D3", "D6/D7", "oldest_membership", "each_its_own", "rtcfoci 0.1.0"):
        assert word in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_plugins_as_json(capsys) -> None:
    assert run("plugins", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    (bench,) = [kind for kind in told["focus_types"] if kind["type"] == "org.example.bench"]
    assert bench["capabilities"] == ["data", "max_members=9"]
    assert bench["distribution"] == ""
    assert {"plugin": "builtin", "distribution": "rtcfoci"}.items() <= told["plugins"][0].items()
    assert told["failures"] == []


def test_plugins_tells_failures(capsys, workbench, monkeypatch) -> None:
    info = workbench / "example_bad-0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-bad\nVersion: 0.9\n")
    (info / "entry_points.txt").write_text("[rtcfoci]\nbad = surely_not_installed\n")
    monkeypatch.syspath_prepend(str(workbench))
    assert run("plugins") == 1
    out = capsys.readouterr().out
    assert "FAILED  example-bad 0.9: plugin bad cannot be imported" in out
    assert "surely_not_installed" in out
    assert run("plugins", "--json") == 1
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["version"] == "0.9"
    assert failure["why"]
    assert failure["do"]
    assert main(["--help"]) == 0
    assert "example-bad failed to load" in capsys.readouterr().out


def test_plugins_names_one_that_offers_nothing(capsys) -> None:
    assert main(["--plugin", "json", "plugins"]) == 0
    out = capsys.readouterr().out
    assert "EMPTY   json (unpackaged): plugin json has no hook that offers anything" in out
    assert out.count("EMPTY") == 1


def test_plugins_check_imports_what_is_named(capsys) -> None:
    assert run("plugins", "--check") == 1
    assert "nowhere:Backend of plugin workbench cannot be loaded" in capsys.readouterr().out


@pytest.mark.parametrize("before", [True, False])
def test_global_options_stand_before_or_after_the_command(capsys, before) -> None:
    options = ["--json", "--plugin=workbench"]
    arguments = [*options, "bench", "x"] if before else ["bench", *options, "x"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "ran ['x'] True\n"
    assert current().json


def test_what_follows_two_dashes_is_the_commands(capsys) -> None:
    assert run("b", "--", "--json") == 0
    assert capsys.readouterr().out == "ran ['--', '--json'] False\n"


@pytest.mark.parametrize(("word", "code"), [("yes", 0), ("no", 1), ("exit", 2), ("far", 3)])
def test_exit_codes(word, code) -> None:
    assert run("bench", word) == code


def test_an_error_is_three_lines(capsys) -> None:
    assert run("bench", "far") == 3
    assert capsys.readouterr().err == "error: no answer\nwhy:   it is far\ndo:    wait\n"


def test_an_error_as_json(capsys) -> None:
    assert run("bench", "far", "--json") == 3
    told = json.loads(capsys.readouterr().err)
    assert told == {"error": {"what": "no answer", "why": "it is\nfar", "do": "wait"}}


def test_only_debug_shows_a_traceback(capsys) -> None:
    assert run("bench", "bug") == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 3
    assert "KeyError: 'surprise'" in err
    assert "workbench.py:" in err
    assert run("bench", "bug", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plgins"], "did you mean plugins?"),
        (["--jsn", "plugins"], "there is no option --jsn"),
        (["plugins", "--plugin"], "--plugin needs a value"),
        (["plugins", "--plugin", "--debug"], "--plugin needs a value"),
        (["plugins", "--nothing"], "unrecognized arguments: --nothing"),
        (["--plugin", "surely_not_installed", "plugins"], "surely_not_installed"),
        (["--plugin", "json", "bench"], "there is no command 'bench'"),
    ],
)
def test_usage_errors_are_three_lines_and_two(capsys, arguments, told) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert told in err
    assert [line.partition(":")[0] for line in err.splitlines()[-3:]] == ["error", "why", "do"]
    assert len(err.splitlines()) == 3 or "--debug" in arguments


def test_help_names_every_command(capsys) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name in ("bench", "demo", "join", "plugins", "slot", "watch", "exit codes"):
        assert name in out
    assert run() == 2
    assert "usage:" in capsys.readouterr().err
    assert main(["plugins", "--help"]) == 0
    assert "--check" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rtcfoci ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (ClientError("x", status=403), 2),
        (UnreachableError("x"), 3),
        (BackendError("x"), 2),
        (BackendError("x", retryable=True), 3),
        (PreflightError([UsageError("x"), UsageError("y")]), 2),
        (PreflightError([UsageError("x"), UnreachableError("y")]), 3),
        (LocalProtocolError("x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_errors_have_exit_codes(error, code) -> None:
    assert exit_code(error) == code


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "rtcfoci.cli.main", "plugins"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1
