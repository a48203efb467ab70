"""Change one core module in every small way and see whether its tests notice; resumable.

Run by `tox run -e mutation -- rtcfoci/core/selection.py [TESTS...]`; tests default to the nearest folder of
the module's path that has any. Works on a copy, and keeps its session by what is in it, so that an
interrupted run goes on where it stopped, and a change of package or tests starts anew. Exits with 1 when
a mutant survives.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".tox" / "mutation-sessions"
PARTS = ("rtcfoci", "tests", "docs")
"""What the copy holds: tests read the documentation, too."""
CONFIG = """
[cosmic-ray]
module-path = {module}
timeout = 60.0
excluded-modules = []
test-command = {command}
[cosmic-ray.distributor]
name = "local"
"""


def cosmic_ray(*arguments: str, cwd: Path) -> str:
    """Run one step of the tool in the copy, whose package wins over the installed one."""
    done = subprocess.run(
        [sys.executable, "-m", "cosmic_ray.cli", *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(cwd),
            "PYTHONSAFEPATH": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"cosmic-ray {arguments[0]} failed with {done.returncode}\n{done.stdout}")
    return done.stdout


def nearest_tests(module: str) -> str:
    """Find the folder that mirrors the module's, or the next above it that is there."""
    folder = Path("tests", *Path(module).parts[1:-1])
    while not (ROOT / folder).is_dir():
        folder = folder.parent
    return str(folder)


def fingerprint(asked: list[str]) -> str:
    """Tell apart what was asked for, and of which package and tests."""
    digest = hashlib.sha256(" ".join(asked).encode())
    for path in sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py")):
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Mutate, test, and list the survivors."""
    if len(sys.argv) < 2:
        sys.exit("which module? tox run -e mutation -- rtcfoci/core/selection.py")
    module, *tests = sys.argv[1:]
    tests = tests or [nearest_tests(module)]
    source = (ROOT / module).read_bytes()
    name = f"{Path(module).stem}-{fingerprint([module, *tests])}"
    copy, session = WORK / name, WORK / f"{name}.sqlite"
    if not session.exists():
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        for part in PARTS:
            unwanted = shutil.ignore_patterns("_build", "__pycache__")
            shutil.copytree(ROOT / part, copy / part, ignore=unwanted)
        shutil.copy(ROOT / "pyproject.toml", copy)
        command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {' '.join(tests)}"
        (copy / "mutation.toml").write_text(
            CONFIG.format(module=json.dumps(module), command=json.dumps(command))
        )
        cosmic_ray("baseline", "mutation.toml", cwd=copy)
        partial = session.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        cosmic_ray("init", "mutation.toml", str(partial), cwd=copy)
        partial.rename(session)
    # A mutant that was under test when the run was cut off is still in the copy.
    (copy / module).write_bytes(source)
    cosmic_ray("exec", "mutation.toml", str(session), cwd=copy)
    results = [json.loads(line) for line in cosmic_ray("dump", str(session), cwd=copy).splitlines()]
    survivors = [
        item for item, result in results if result and result["test_outcome"] == "survived"
    ]
    for item in survivors:
        for mutation in item["mutations"]:
            print(f"survived: {module}:{mutation['start_pos'][0]} {mutation['operator_name']}")
    print(f"{module}: {len(results) - len(survivors)} of {len(results)} mutants were noticed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
