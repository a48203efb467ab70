"""The environment Synapse runs in: one virtual environment per version, in a cache folder.

In: building it from PyPI once, the lock against two builders, finding out whether it is whole.
Out: configuration (`synapse_config`) and processes (`synapse`).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rtcfoci.errors import RtcfociError

__all__ = ["SYNAPSE_VERSION", "cache_folder", "ensure_environment", "environment_python"]

SYNAPSE_VERSION = "1.163.2"

_PROBE = (
    "import importlib.metadata as m, sqlite3, sys, synapse.app.homeserver;"
    f"sys.exit(m.version('matrix-synapse') != {SYNAPSE_VERSION!r}"
    " or sqlite3.sqlite_version_info < (3, 40))"
)


def cache_folder() -> Path:
    """Where built things live between runs: `$RTCFOCI_CACHE`, else `~/.cache/rtcfoci`."""
    chosen = os.environ.get("RTCFOCI_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "rtcfoci"


def environment_python() -> Path | None:
    """Give the interpreter of the built environment; None when it is not there or not whole."""
    home = _home()
    return _python(home) if _marker(home).is_file() and _python(home).is_file() else None


def ensure_environment(progress: Callable[[str], None] | None = None) -> Path:
    """Build the environment where it is missing, and give its interpreter.

    Blocks: one to three minutes on first use, nothing later. Two builders wait for each other.

    :param progress: called with one line per step; printed to standard error when None.
    :raises RtcfociError: when PyPI cannot be reached or the result does not run.
    """
    say = progress or _print
    found = environment_python()
    if found is not None:
        return found
    home = _home()
    home.parent.mkdir(parents=True, exist_ok=True)
    with _lock(home.with_name(home.name + ".lock"), say):
        found = environment_python()  # the other builder may have finished meanwhile
        if found is None:
            found = _build(home, say)
    return found


def _build(home: Path, say: Callable[[str], None]) -> Path:
    python = _python(home)
    if not (python.is_file() and _runs(python)):
        say(f"Synapse {SYNAPSE_VERSION}: creating {home}")
        _step([sys.executable, "-m", "venv", "--clear", str(home)], say)
        say(f"Synapse {SYNAPSE_VERSION}: installing from PyPI (about 100 MB, once)")
        wanted = f"matrix-synapse=={SYNAPSE_VERSION}"
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        _step([*pip, "--progress-bar", "off", wanted], say)
        if not _runs(python):
            raise RtcfociError(
                f"Synapse {SYNAPSE_VERSION} was installed but does not run",
                why=f"its imports fail, or SQLite under {sys.executable} is older than 3.40",
                do=f"try `{python} -c 'import synapse.app.homeserver'`, or another Python",
            )
    _marker(home).write_text(f"{SYNAPSE_VERSION}\n")
    say(f"Synapse {SYNAPSE_VERSION}: ready")
    return python


def _step(command: list[str], say: Callable[[str], None]) -> None:
    tail: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-9:], line.rstrip()]
            if line.startswith(("Collecting", "Installing", "Successfully")):
                say(f"  {line.rstrip()[:100]}")
    if process.returncode:
        raise RtcfociError(
            f"Synapse {SYNAPSE_VERSION} could not be installed",
            why="\n".join(tail) or f"{command[0]} ended with {process.returncode}",
            do="check that PyPI is reachable (pip's own settings apply) and try again",
        )


def _runs(python: Path) -> bool:
    return not subprocess.run([str(python), "-I", "-c", _PROBE], capture_output=True).returncode


@contextmanager
def _lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Synapse {SYNAPSE_VERSION}: another process is building it, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _home() -> Path:
    return cache_folder() / f"synapse-{SYNAPSE_VERSION}"


def _python(home: Path) -> Path:
    return home / "bin" / "python"


def _marker(home: Path) -> Path:
    # Written last: an environment without it was interrupted, and is checked or built again.
    return home / "rtcfoci-complete"


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
