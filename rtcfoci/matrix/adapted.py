"""Whatever client an application has, as the one that the house works with.

In: telling ours from a bot's own matrix-nio client. Out: what the adapter does (`nio`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from rtcfoci.matrix.client import MatrixClient

if TYPE_CHECKING:
    import nio

__all__ = ["adapted"]


@asynccontextmanager
async def adapted(client: MatrixClient | nio.AsyncClient) -> AsyncIterator[MatrixClient]:
    """Give the client, or an adapter around a bot's, which is let go at the end."""
    if hasattr(client, "send_to_device"):
        yield client
        return
    from rtcfoci.matrix.nio import NioClient  # matrix-nio takes a second to import

    adapter = NioClient.from_nio(cast("nio.AsyncClient", client))
    try:
        yield adapter
    finally:
        await adapter.aclose()
