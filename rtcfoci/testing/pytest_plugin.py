"""The pytest plugin: fixtures for tests of applications and focus plugins.

In: `rtc_lobby`, a call with scripted peers and no server. Out: what it is made of (`lobby`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from rtcfoci.testing.lobby import Lobby

__all__ = ["rtc_lobby"]

# Their asserts are read by authors of backends: pytest explains them as it does those of test files.
for _module in ("conformance", "conformance_base", "conformance_media", "stage"):
    pytest.register_assert_rewrite(f"rtcfoci.testing.{_module}")


@pytest_asyncio.fixture
async def rtc_lobby() -> AsyncIterator[Lobby]:
    """Give a room in which an application under test meets scripted peers, without a server."""
    from rtcfoci.testing.lobby import Lobby  # loads the whole stack: only where it is used

    async with Lobby() as lobby:
        yield lobby
