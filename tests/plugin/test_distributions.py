"""The distributions of the how-tos: found by entry point, small, and put through their suites."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rtcfoci.call.sessions import find_dialect, installed_dialects, reading_policies
from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.model import Member, Now, RoomEvent, Slot, Transport
from rtcfoci.core.session import Session
from rtcfoci.plugin.manager import PluginManager

FOLDER = Path(__file__).parent.parent / "distributions"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/pyproject.toml"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Lay the distributions onto the import path as an installer would."""
    for name in NAMES:
        project = tomllib.loads((FOLDER / name / "pyproject.toml").read_text())["project"]
        package = f"example_{name}"
        shutil.copytree(FOLDER / name / package, tmp_path / package)
        info = tmp_path / f"{package}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        points = project["entry-points"]["rtcfoci"].items()
        lines = [f"{point} = {module}" for point, module in points]
        (info / "entry_points.txt").write_text("\n".join(["[rtcfoci]", *lines]))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in list(sys.modules):
        if name.startswith("example_"):
            del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_is_under_a_hundred_lines_with_its_test(name):
    files = [path for path in (FOLDER / name).rglob("*") if path.suffix in (".py", ".toml")]
    assert len(files) == 4
    assert sum(len(path.read_text().splitlines()) for path in files) < 100


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_passes_its_suite(name, site):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [
            *command,
            "-c",
            "/dev/null",
            "--rootdir",
            str(site),
            str(FOLDER / name / f"test_{name}.py"),
        ],
        env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_what_they_add_is_found_and_used(site):
    plugins = PluginManager.load(environ={})
    assert not plugins.report.failures
    (policy,) = (policy for policy in reading_policies(plugins) if policy.name == "modern")
    slot = Slot(room_id="!room:hs")
    terse = find_dialect(plugins, "org.example.terse")
    written = terse.join(
        OwnMembership(
            slot=slot,
            member=Member(user_id="@u:hs", device_id="DEV", member_id="@u:hs:DEV"),
            transports=(Transport("x", {"type": "x"}),),
        )
    )
    now = Now(1.0, 1000)

    def event(**more):
        return RoomEvent(
            sender="@u:hs",
            origin_server_ts_ms=1000,
            received_ts_ms=1000,
            event_id=f"${more['type']}",
            **more,
        )

    counted = []
    membership = event(type=written.type, content=written.content, state_key=written.state_key)
    present = event(type="m.room.member", content={"membership": "join"}, state_key="@u:hs")
    for session in (
        Session(slot, installed_dialects(plugins)),
        Session(slot, installed_dialects(plugins), policy=policy),
    ):
        session.receive(present, now)
        session.receive(membership, now)
        counted.append([member.dialect for member in session.members])
        codes = [problem.code for problem in session.explain(membership, now)]
        assert codes == ([] if counted[-1] else ["dialect_not_counted"])
    assert counted == [["org.example.terse"], []]
