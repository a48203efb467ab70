from __future__ import annotations

import asyncio

import pytest

from rtcfoci.errors import ClientError
from rtcfoci.matrix.together import together


async def give(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def test_results_come_in_order():
    assert await together(give(1), give(2)) == (1, 2)


async def test_none_outlives_a_failure():
    left = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ClientError("refused", status=403)

    with pytest.raises(ClientError):
        await together(wait(), fail())
    assert left.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
