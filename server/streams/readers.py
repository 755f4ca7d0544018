"""Who reads which stream in this process, whoever writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Readers:
    """How many readers each stream has here, and who waits for what they have handed on."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._awaited: dict[str, list[tuple[int, Callable[[], None]]]] = {}
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
            for _, then in self._awaited.pop(stream_id, []):
                then()
        self._wake()

    def once_handed_on(self, stream_id: str, sequence: int, then: Callable[[], None]) -> None:
        """Call ``then`` when a reader has handed on event ``sequence``, or the last one leaves; at once where nobody reads."""
        if stream_id in self._counts:
            self._awaited.setdefault(stream_id, []).append((sequence, then))
        else:
            then()

    def handed_on(self, stream_id: str, sequence: int) -> None:
        """Take note that a reader has handed on the events up to ``sequence``."""
        if not self._awaited:
            return
        awaited = self._awaited.pop(stream_id, [])
        late = [one for one in awaited if one[0] > sequence]
        if late:
            self._awaited[stream_id] = late
        for number, then in awaited:
            if number <= sequence:
                then()

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
