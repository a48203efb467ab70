"""Build every distribution into dist/, install the wheels into an empty environment, use them there.

Run by `tox run -e build`. The environment knows nothing of the checkout: what works there works for
people who install from an index.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"

BARE = """
import sys, rtcfoci, rtcfoci.errors, rtcfoci.core.model, rtcfoci.plugin
assert "site-packages" in rtcfoci.__file__, rtcfoci.__file__
for name in ("aiohttp", "nio", "av", "numpy", "rich", "pytest"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} came with the base installation")
"""


def run(*command: str | Path, cwd: Path, check: bool = True) -> str:
    """Run a command without the checkout in sight; show it, and what it said."""
    print("$", *command, flush=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, end="", flush=True)
    if check and done.returncode:
        sys.exit(f"failed with {done.returncode}")
    return done.stdout


def build() -> list[Path]:
    """Build sdist and wheel of the core and of each plugin; check what they say of themselves."""
    shutil.rmtree(DIST, ignore_errors=True)
    for project in [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]:
        run(sys.executable, "-m", "build", "--installer", "uv", "-o", DIST, project, cwd=ROOT)
    files = sorted(DIST.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=ROOT)
    wheels = [path for path in files if path.suffix == ".whl"]
    for wheel in wheels:
        package = wheel.name.split("-")[0]
        names = zipfile.ZipFile(wheel).namelist()
        assert f"{package}/py.typed" in names, f"{wheel.name} lacks py.typed"
        assert not [name for name in names if "tests/" in name], f"{wheel.name} holds tests"
    return wheels


def main() -> None:
    """Build, then use: first the core alone, then each plugin beside it."""
    wheels = build()
    assert len(wheels) > 1, "no plugin was built"
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        venv.create(empty / "venv")
        python = empty / "venv/bin/python"
        pip = [sys.executable, "-m", "uv", "pip"]
        install = [*pip, "install", "-q", "--python", python]
        rtcfoci = empty / "venv/bin/rtcfoci"
        core = next(wheel for wheel in wheels if wheel.name.startswith("rtcfoci-"))
        run(*install, core, cwd=empty)
        run(python, "-c", BARE, cwd=empty)
        run(rtcfoci, "--help", cwd=empty)
        run(rtcfoci, "plugins", cwd=empty)
        for wheel in wheels:
            run(*install, wheel, cwd=empty)
        listed = run(rtcfoci, "plugins", cwd=empty)
        for wheel in wheels:
            name = wheel.name.split("-")[0].replace("_", "-")
            command = empty / "venv/bin" / name
            if name != "rtcfoci" and command.exists():  # what serves a focus is no plugin
                run(command, "--help", cwd=empty)
            else:
                assert name in listed, f"rtcfoci plugins does not list {name}"
        run(*pip, "check", "--python", python, cwd=empty)
    print("all distributions build, install and run:", *(wheel.name for wheel in wheels))


if __name__ == "__main__":
    main()
