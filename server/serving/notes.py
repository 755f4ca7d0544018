"""Texts kept for as long as the store keeps streams: each is a stream of one event, so that every kind of store can hold it."""

from __future__ import annotations

import asyncio

from server.errors import StoreAway
from server.store.store import AlreadyOpen, Opening, StoreFull, StoreUnavailable
from server.streams.hub import StreamGone, StreamHub
from server.streams.owned import OwnedStream


class Notes:
    """Keeps notes and finds them again, here or on any replica that shares the store."""

    def __init__(self, hub: StreamHub) -> None:
        self._hub = hub
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep(self, note_id: str, tenant: str, text: str) -> None:
        """Keep a text under an unused id; where the store has no room, it is not kept."""
        try:
            stream = await self._hub.open(Opening(note_id, tenant, b""))
        except StoreFull:
            return
        assert not isinstance(stream, AlreadyOpen), "only a key can lead to an open stream"
        stream.write("", text, is_final=True)
        self._release(stream)

    def _release(self, stream: OwnedStream) -> None:
        task = asyncio.create_task(self._hub.release(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def delete(self, note_id: str) -> None:
        """Forget a text.

        Raises:
            StoreAway: it is in the store, which does not answer.
        """
        try:
            await self._hub.delete(note_id)
        except StoreUnavailable as error:
            raise StoreAway from error

    async def has(self, note_id: str, tenant: str) -> bool:
        """Tell whether ``tenant`` has a text of that id.

        Raises:
            StoreAway: only the store could tell.
        """
        try:
            return await self._hub.tenant(note_id) == tenant
        except StoreUnavailable as error:
            raise StoreAway from error

    async def find(self, note_id: str, tenant: str) -> str | None:
        """Return a text of ``tenant``; None when there is none, or no longer.

        Raises:
            StoreAway: only the store could tell.
        """
        if not await self.has(note_id, tenant):
            return None
        try:
            async for event in self._hub.read(note_id, 0):
                return event.payload
        except StreamGone:
            return None
        except StoreUnavailable as error:
            raise StoreAway from error
        return None
