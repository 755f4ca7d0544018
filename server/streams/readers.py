"""Who reads which stream in this process, whoever writes it."""

from __future__ import annotations

import asyncio


class Readers:
    """How many readers each stream has here."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._changed = asyncio.Event()

    def join(self, stream_id: str) -> None:
        """Count a reader in."""
        self._counts[stream_id] = self._counts.get(stream_id, 0) + 1
        self._wake()

    def leave(self, stream_id: str) -> None:
        """Count a reader out."""
        self._counts[stream_id] -= 1
        if not self._counts[stream_id]:
            del self._counts[stream_id]
        self._wake()

    async def absent(self, stream_id: str, grace_s: float) -> None:
        """Return once a stream has had no reader for ``grace_s`` seconds."""
        while True:
            while stream_id in self._counts:
                await self._changed.wait()
            if grace_s == 0:
                return
            try:
                async with asyncio.timeout(grace_s):
                    while stream_id not in self._counts:
                        await self._changed.wait()
            except TimeoutError:
                return

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
