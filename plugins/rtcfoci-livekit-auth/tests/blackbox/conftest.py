"""Fixtures and marks of the black-box tests.

`RTCFOCI_AUTH_COMMAND` names the command under test (default: our own service), and
`RTCFOCI_AUTH_IMPLEMENTATION` says what it is: `rtcfoci`, or the generation of lk-jwt-service whose
known weaknesses are then expected (`go-0.5`, `rust-0.7`). Our own follows `RTCFOCI_AUTH_POLICY`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from world import Outcomes, Stage, World

IMPLEMENTATION = os.environ.get("RTCFOCI_AUTH_IMPLEMENTATION", "rtcfoci")
OWN = IMPLEMENTATION == "rtcfoci"
POLICY = os.environ.get("RTCFOCI_AUTH_POLICY", "go-0.5") if OWN else IMPLEMENTATION
# All fakes are on loopback and in a hurry. Under the policy of the drop-in that must need no words.
OWN_SETTINGS = (
    {"RTCFOCI_AUTH_ALLOW_NETWORKS": "127.0.0.0/8, ::1", "RTCFOCI_AUTH_RATE_LIMITS": "false"}
    if OWN and POLICY != "go-0.5"
    else {}
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "policy(*names): describes these generations alone")
    config.addinivalue_line("markers", "weakness(name, reason): this generation fails it, as known")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        for mark in item.iter_markers("policy"):
            if POLICY not in mark.args:
                item.add_marker(
                    pytest.mark.skip(reason=f"describes {', '.join(mark.args)}, not {POLICY}")
                )
        for mark in item.iter_markers("weakness"):
            name, reason = mark.args
            if name == IMPLEMENTATION:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("blackbox"), OWN_SETTINGS)
    yield stage
    stage.close()


@pytest.fixture(scope="session")
def shared_world(stage: Stage) -> World:
    """The service as most run it: no Redis, no sanity check, one homeserver with full access."""
    return stage.world()


@pytest.fixture(scope="session")
def shared_outcomes(request: pytest.FixtureRequest, shared_world: World) -> Outcomes:
    shared = [item for item in request.session.items if not _has_its_own_world(item)]
    return Outcomes(shared, shared_world)


@pytest.fixture(scope="module")
def world(shared_world: World) -> World:
    """The world of a module; one that needs other settings replaces it."""
    return shared_world


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, world: World) -> Outcomes:
    if not hasattr(request.module, "world"):
        shared: Outcomes = request.getfixturevalue("shared_outcomes")
        return shared
    here = [item for item in request.session.items if item.path == request.path]
    return Outcomes(here, world, getattr(request.module, "AT_ONCE", None))


def _has_its_own_world(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "module", None), "world")


@pytest.fixture(autouse=True)
def _nobody_objects(request: pytest.FixtureRequest, stage: Stage) -> Iterator[None]:
    """Fail a test in which the service sent a fake what it should not."""
    yield
    violations = stage.violations()
    if request.node.get_closest_marker("xfail") is None:
        assert violations == []
