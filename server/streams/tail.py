"""Waits for events of streams that other processes write: one call to the store at a time, for all readers together."""

from __future__ import annotations

import asyncio

from server.store.store import StoreUnavailable, StreamStore

ROUND_S = 0.25
"""How long one call waits; a reader that joins meanwhile is in the next one."""

RETRY_S = 0.2


class Tail:
    """Readers' positions in streams owned elsewhere."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        self._positions: dict[asyncio.Future[None], tuple[str, int]] = {}
        self._has_readers = asyncio.Event()

    async def wait(self, stream_id: str, after: int, timeout_s: float) -> None:
        """Return when the stream may have events after ``after``, or after ``timeout_s`` seconds."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._positions[ready] = (stream_id, after)
        self._has_readers.set()
        try:
            await asyncio.wait({ready}, timeout=timeout_s)
        finally:
            self._positions.pop(ready, None)

    async def run(self) -> None:
        """Serve readers until cancelled."""
        while True:
            if not self._positions:
                self._has_readers.clear()
                await self._has_readers.wait()
            waiting = dict(self._positions)
            lowest: dict[str, int] = {}
            for stream_id, after in waiting.values():
                lowest[stream_id] = min(after, lowest.get(stream_id, after))
            try:
                ready = await self._store.wait(lowest, ROUND_S)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            for future, (stream_id, _) in waiting.items():
                if stream_id in ready and self._positions.pop(future, None) is not None:
                    future.set_result(None)
