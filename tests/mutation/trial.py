"""The example tests of the core on a changed module, each time in a fork of its own.

In: which tests call which functions, changing code in memory, running chosen tests, the limits of a run.
Out: which changes there are (`mutants`), what is chosen and kept (`run`).

Nothing on disk changes. Left out are property tests, since what they
find is chance and a score must come out the same again, and the slow exhaustive ones.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "rtcfoci" / "core"
_OPTIONS = (
    "-q", "-x", "-p", "no:cacheprovider", "-m", "not hypothesis", "--continue-on-collection-errors",
    # pytest's rewriting of assertions would load the package, which has a plugin, from disk.
    "--assert=plain", "--ignore=tests/core/test_interleavings.py",
)  # fmt: skip
_LOADING_S, _LEAST_S, _TIMES = 20.0, 2.0, 10
"""How much processor time loading and a test may take: who takes longer is noticed, since somebody would."""
_STUCK_S = 600.0
_UNLIKE = 77
"""The exit code for: this change cannot be made to what is loaded."""
_MEMORY = 4 * 1024**3


@dataclass(frozen=True)
class Test:
    """What a test does when nothing is changed."""

    node_id: str
    spent_s: float
    calls: frozenset[tuple[str, int]]
    """Files of the core, and the first lines of functions in them."""
    failed: bool = False

    @property
    def file(self) -> str:
        return self.node_id.partition("::")[0]


class Trials:
    """Runs tests on changed modules.

    A process of its own loads the package and collects the tests, once. In its forks functions
    have other code. What is changed outside of functions is loaded anew, together with all that imports it.
    """

    def __init__(self) -> None:
        self._server, far = Pipe()
        if os.fork() == 0:
            self._server.close()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _pytest(["tests/core"], _Server(far))
            os._exit(1)
        far.close()
        try:
            modules, self.loading = self._server.recv()
            tests: list[Test] = self._ask(None)
        except EOFError:
            sys.exit("the tests cannot be run as they are")
        self.tests = [test for test in tests if not test.failed]
        for test in tests:
            if test.failed:
                print(f"left out, since it fails as it is: {test.node_id}")
        # What others than the package load each fork then has.
        for name in modules:
            if name.partition(".")[0] not in {"rtcfoci", "tests", "conftest"}:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)

    def noticed(
        self, module: Path, code: str, tests: Iterable[Test], *, inside: bool
    ) -> str | None:
        """Give the first test that fails on a changed module; '' when it cannot even be loaded.

        :param inside: whether the change is in functions that nobody calls on loading.
        """
        spent_s = {test.node_id: test.spent_s for test in tests}
        if not spent_s:
            return None
        if inside:
            status, test, _ = self._ask((str(module), code, spent_s))
            if status != _UNLIKE:
                return test if status else None
        name = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

        def run(_: Connection) -> int:
            sys.meta_path.insert(0, _Finder(name, module, code))
            return _pytest(sorted({node.partition("::")[0] for node in spent_s}), _Chosen(spent_s))

        status, test, _ = _forked(run)
        # Tests that are gone, since their names hold what was changed, have noticed nothing.
        return test if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED) else None

    def _ask(self, asked: object) -> Any:
        self._server.send(asked)
        return self._server.recv()


def _pytest(paths: list[str], plugin: object) -> int:
    return int(pytest.main([*_OPTIONS, *paths], plugins=[plugin]))


class _Calls:
    """Which functions of the core are called, by their files and first lines."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._core = str(CORE)

    def __enter__(self) -> set[tuple[str, int]]:
        sys.settrace(self._called)
        return self.seen

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self._core):
            self.seen.add((code.co_filename, code.co_firstlineno))


class _Server:
    """Plugin: instead of running what was collected, runs what it is asked for, in forks."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self._loading = _Calls()
        self._loading.__enter__()
        self._failed = False

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        self._loading.__exit__()
        self._items = {item.nodeid: item for item in session.items}
        self._functions: dict[str, list[FunctionType]] = {}
        for found in gc.get_objects():
            if isinstance(found, FunctionType):
                self._functions.setdefault(found.__code__.co_filename, []).append(found)
        gc.freeze()
        self._client.send((sorted(sys.modules), self._loading.seen))
        with contextlib.suppress(EOFError):
            while True:
                self._client.send(self._answer(self._client.recv()))
        os._exit(0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed

    def _answer(self, asked: tuple[str, str, dict[str, float]] | None) -> object:
        if asked is not None:
            return _forked(lambda _: self._changed(*asked))
        status, test, tests = _forked(self._survey)
        if status:
            print(f"{test} ends the run as it is", file=sys.__stderr__)
            os._exit(1)
        return tests

    def _survey(self, client: Connection) -> int:
        tests = []
        for node_id, item in self._items.items():
            before_s = time.process_time()
            with _Calls() as calls:
                failed = self._fails(item, 60)
            spent_s = time.process_time() - before_s
            tests.append(Test(node_id, spent_s, frozenset(calls), failed))
        client.send(tests)
        return 0

    def _changed(self, path: str, code: str, spent_s: dict[str, float]) -> int:
        if not self._change(path, code):
            return _UNLIKE
        return int(any(self._fails(self._items[name], spent) for name, spent in spent_s.items()))

    def _fails(self, item: pytest.Item, spent_s: float) -> bool:
        self._failed = False
        _begin(item, spent_s)
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._failed

    def _change(self, path: str, code: str) -> bool:
        """Give the functions of a module other code; False where one cannot be told from another."""
        anew: dict[tuple[str, int], list[CodeType]] = {}
        for part in _parts(compile(code, path, "exec")):
            anew.setdefault((part.co_qualname, part.co_firstlineno), []).append(part)
        changed = 0
        for function in self._functions.get(path, []):
            old = function.__code__
            new = anew.get((old.co_qualname, old.co_firstlineno), [])
            if old in new:
                continue
            if len(new) != 1 or new[0].co_freevars != old.co_freevars:
                return False
            function.__code__ = new[0]
            changed += 1
        return changed > 0


def _parts(code: CodeType) -> Iterator[CodeType]:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from _parts(part)


class _Chosen:
    """Plugin: runs some tests, in their order, none for much longer than it should; says which it is at."""

    def __init__(self, spent_s: dict[str, float]) -> None:
        self.spent_s = spent_s

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {node_id: place for place, node_id in enumerate(self.spent_s)}
        items[:] = [item for item in items if item.nodeid in order]
        items.sort(key=lambda item: order[item.nodeid])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        _begin(item, self.spent_s[item.nodeid])


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with other code than its file has."""

    code = ""

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        return compile(self.code, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module before anybody else does."""

    def __init__(self, name: str, path: Path, code: str) -> None:
        self.name, self.loader = name, _Loader(name, str(path))
        self.loader.code = code

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.loader.path, loader=self.loader)


_AT = mmap.mmap(-1, 4096)
"""Which test a fork is at, or was at when it ended."""


def _forked(run: Callable[[Connection], int]) -> tuple[int, str, Any]:
    """Run something in a process of its own; give its exit code, the test it was at, and what it sent."""
    near, far = Pipe(duplex=False)
    _AT[:] = bytes(len(_AT))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            signal.setitimer(signal.ITIMER_PROF, _LOADING_S)
            status = run(far)
        finally:
            os._exit(status)
    far.close()
    if not near.poll(_STUCK_S):
        os.killpg(child, signal.SIGKILL)
    try:
        sent = near.recv()
    except EOFError:
        sent = None
    near.close()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, _AT[:].rstrip(b"\0").decode(errors="replace"), sent


def _begin(item: pytest.Item, spent_s: float) -> None:
    """Say which test runs, and let it take not much longer than it should."""
    _AT[:] = item.nodeid.encode()[: len(_AT)].ljust(len(_AT), b"\0")
    signal.setitimer(signal.ITIMER_PROF, _LEAST_S + _TIMES * spent_s)
