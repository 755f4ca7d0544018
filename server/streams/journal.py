"""Carries what owned streams write into the store: one pipeline for all of them, as often as the store answers.

While the store is away, writers and readers go on without it: events are shown at once and kept, in bounds, until the store is back.
"""

from __future__ import annotations

import asyncio
import logging
import time

from server.metrics import Metrics
from server.store.store import AlreadyOpen, AppendResult, StoreFull, StoreUnavailable, StreamStore
from server.streams.owned import OwnedStream

logger = logging.getLogger(__name__)

RETRY_S = 0.2
"""How soon a store that did not answer is asked again."""

MAX_UNSENT_BYTES = 64 << 20
"""What is kept for an absent store; beyond it the streams that write go on without one."""


class Journal:
    """The one writer to the store."""

    def __init__(self, store: StreamStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._dirty: dict[str, OwnedStream] = {}
        self._has_work = asyncio.Event()
        self.is_store_absent = False

    def take(self, stream: OwnedStream) -> None:
        """Note that ``stream`` has something to write; pass this to `OwnedStream`."""
        if stream.is_lost:
            return
        if not stream.is_durable:
            stream.give_up_durability()
            return
        self._dirty[stream.lease.stream_id] = stream
        self._has_work.set()
        if self.is_store_absent:
            self._go_on_without_store()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            try:
                await self._flush()
            except StoreUnavailable:
                self.store_failed()
                await asyncio.sleep(RETRY_S)
                self._has_work.set()
            else:
                self._note_absence(False)

    async def flushed(self, stream: OwnedStream) -> None:
        """Wait until the store has everything the stream has written, or never will."""
        while stream.has_unsent:
            await stream.change()

    def store_failed(self) -> None:
        """Take note that the store does not answer."""
        self._note_absence(True)
        self._go_on_without_store()

    def _note_absence(self, is_absent: bool) -> None:
        if is_absent == self.is_store_absent:
            return
        self.is_store_absent = is_absent
        logger.log(logging.ERROR if is_absent else logging.INFO, "the store is %s", "away; going on without it" if is_absent else "back")
        self._metrics.observe_store_absence(is_absent)

    def _go_on_without_store(self) -> None:
        for stream in self._dirty.values():
            stream.publish_unsent()
        while self._dirty and sum(stream.unsent_bytes for stream in self._dirty.values()) > MAX_UNSENT_BYTES:
            largest = max(self._dirty.values(), key=lambda stream: stream.unsent_bytes)
            logger.error("stream %s cannot be resumed any more: the store is away for too long", largest.lease.stream_id)
            largest.give_up_durability()
            del self._dirty[largest.lease.stream_id]

    async def _flush(self) -> None:
        """Write everything there is to write, once."""
        await self._open_new_ones()
        streams = list(self._dirty.values())
        work = [(stream, append) for stream in streams if (append := stream.unsent()) is not None]
        started = time.monotonic()
        results = await self._store.append([append for _, append in work])
        self._metrics.append_seconds.observe(time.monotonic() - started)
        for (stream, append), result in zip(work, results, strict=True):
            match result:
                case AppendResult.DONE:
                    stream.sent(append)
                case AppendResult.CANCELLED:
                    stream.cancelled.set()
                    stream.sent(append)
                case AppendResult.FENCED:
                    logger.warning("stream %s has another owner", stream.lease.stream_id)
                    self._metrics.fenced_writes.inc()
                    stream.lose()
                case AppendResult.LOST:
                    logger.error("the store has lost stream %s; it cannot be resumed any more", stream.lease.stream_id)
                    stream.give_up_durability()
        self._dirty = {stream_id: stream for stream_id, stream in self._dirty.items() if stream.has_unsent}
        if self._dirty:
            self._has_work.set()

    async def _open_new_ones(self) -> None:
        """Create the streams that were accepted while the store was away."""
        for stream in list(self._dirty.values()):
            if stream.opening is None:
                continue
            try:
                opened = await self._store.open(stream.opening, stream.lease.owner)
            except StoreFull:
                stream.give_up_durability()
                continue
            if isinstance(opened, AlreadyOpen) and opened.stream_id != stream.lease.stream_id:
                stream.give_up_durability()
            stream.opening = None
