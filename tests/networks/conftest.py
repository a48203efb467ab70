"""Cases that mostly wait run side by side: the first test that asks starts them all."""

import asyncio
import inspect
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # its modules are no package

from namespaces import require_namespaces

_AT_ONCE = 5


@pytest.fixture(scope="session")
def outcomes(request):
    """What became of each case of this run, by name: None, or what it raised."""
    require_namespaces()
    cases = {
        item.callspec.params["case"].__name__: item.callspec.params["case"]
        for item in request.session.items
        if item.path.parent == Path(__file__).parent
        and "case" in getattr(getattr(item, "callspec", None), "params", {})
    }

    async def run_all():
        places = asyncio.Semaphore(_AT_ONCE)

        async def run(case):
            async with places:
                try:
                    async with asyncio.timeout(150):
                        await case()
                except Exception as error:
                    return error
            return None

        assert all(inspect.iscoroutinefunction(case) for case in cases.values())
        return dict(zip(cases, await asyncio.gather(*map(run, cases.values())), strict=True))

    return asyncio.run(run_all())
