"""The streams of one process, running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from server.metrics import Metrics
from server.store.store import StreamStore
from server.streams.hub import StreamHub


@asynccontextmanager
async def running_hub(store: StreamStore) -> AsyncIterator[StreamHub]:
    """Run the streams of a process called ``writer`` until the block ends."""
    hub = StreamHub(store, "writer", Metrics())
    running = asyncio.create_task(hub.run())
    try:
        yield hub
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
