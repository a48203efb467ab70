"""Fixtures that several test folders share: the real Synapse, its users and rooms."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from rtcfoci.errors import RtcfociError
from rtcfoci.testing import Credentials, Synapse, SynapseOptions, skip_or_fail
from rtcfoci.testing.synapse_env import ensure_environment
from tests.outcomes import Outcomes, named_tests, test_of

_numbers = itertools.count(1)

TRANSPORT = {"type": "livekit", "livekit_service_url": "https://sfu.example.org"}


def pytest_configure(config: pytest.Config) -> None:
    """Keep what becomes of the tests where somebody asks for it."""
    if file := os.environ.get("RTCFOCI_RESULTS"):
        config.pluginmanager.register(Outcomes(Path(file)))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that show a requirement of an MSC."""
    named = named_tests()
    for item in items:
        if test_of(item.nodeid) in named:
            item.add_marker("requirement")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build Synapse's environment before any test's timeout runs; it takes minutes once."""
    if not session.config.option.collectonly and any(
        item.get_closest_marker("system") for item in session.items
    ):
        try:
            ensure_environment()
        except RtcfociError:
            pass  # the first test that needs it says so, and skips or fails


def start_synapse(scratch: Path, options: SynapseOptions, *, tls: bool = False) -> Synapse:
    """Start one, or end the test as `RTCFOCI_REQUIRE` asks."""
    server = Synapse(scratch, options, tls=tls)
    try:
        asyncio.run(server.start())
    except RtcfociError as error:
        skip_or_fail("synapse", str(error))
    return server


@pytest.fixture(scope="session")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """One Synapse for the whole run: delayed and sticky events, transports, no rate limits.

    It holds no event loop, so tests with loops of their own may share it. A test that kills or
    restarts its server starts one of its own.
    """
    server = start_synapse(
        tmp_path_factory.mktemp("synapse"),
        SynapseOptions(rtc_transports=(TRANSPORT,), turn_uris=("turn:127.0.0.1:3478",)),
    )
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def limited_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """The same with Synapse's own rate limits."""
    server = start_synapse(
        tmp_path_factory.mktemp("limited-synapse"),
        SynapseOptions(rtc_transports=(TRANSPORT,), default_rate_limits=True),
    )
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def parity_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """As `synapse`, with at most 5 delayed events a user."""
    server = start_synapse(
        tmp_path_factory.mktemp("parity-synapse"),
        SynapseOptions(
            rtc_transports=(TRANSPORT,),
            turn_uris=("turn:127.0.0.1:3478",),
            max_delayed_events=5,
        ),
    )
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def plain_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A homeserver as it is by default: no delayed events, no sticky events, no transports."""
    server = start_synapse(
        tmp_path_factory.mktemp("plain-synapse"),
        SynapseOptions(delayed_events=False, sticky_events=False, rtc_transports=None),
    )
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def new_user(synapse: Synapse) -> Callable[[str], Awaitable[Credentials]]:
    """Register a fresh user; the name only helps reading."""

    async def register(name: str = "user") -> Credentials:
        return await synapse.register(f"{name}{next(_numbers)}", "password")

    return register


@pytest.fixture
async def alice(new_user: Callable[[str], Awaitable[Credentials]]) -> Credentials:
    return await new_user("alice")


@pytest.fixture
async def bob(new_user: Callable[[str], Awaitable[Credentials]]) -> Credentials:
    return await new_user("bob")


@pytest.fixture
async def room_id(synapse: Synapse, alice: Credentials, bob: Credentials) -> str:
    """A clear room of alice's with bob in it, where both may send RTC member events."""
    room = await synapse.create_room(alice.access_token)
    await synapse.join_room(bob.access_token, room)
    return room
