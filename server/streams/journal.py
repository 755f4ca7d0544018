"""Carries what owned streams write into the store: one pipeline for all of them, as often as the store answers.

While the store is away or full, writers and readers go on without it: events are shown at once and kept, in bounds, until the store is
back or has room.
"""

from __future__ import annotations

import asyncio
import logging
import time
from enum import Enum

from server.metrics import Metrics
from server.store.store import AlreadyOpen, AppendResult, StoreFull, StoreUnavailable, StreamStore
from server.streams.owned import OwnedStream

logger = logging.getLogger(__name__)

RETRY_S = 0.2
"""How soon a store that did not answer is asked again."""

FULL_RETRY_S = 1.0
"""How soon a full one is: it has room when what it keeps is old enough."""

MAX_UNSENT_BYTES = 64 << 20
"""What is kept for a store that is away or full; beyond it the streams that write go on without one."""


class StoreState(Enum):
    """What the store does with what is written."""

    WRITABLE = "back"
    FULL = "full; going on without it"
    AWAY = "away; going on without it"


class Journal:
    """The one writer to the store."""

    def __init__(self, store: StreamStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._dirty: dict[str, OwnedStream] = {}
        self._has_work = asyncio.Event()
        self._state = StoreState.WRITABLE

    @property
    def is_store_absent(self) -> bool:
        """The store does not answer."""
        return self._state is StoreState.AWAY

    @property
    def is_held_up(self) -> bool:
        """What is written does not come into the store for now."""
        return self._state is not StoreState.WRITABLE

    def take(self, stream: OwnedStream) -> None:
        """Note that ``stream`` has something to write; pass this to `OwnedStream`."""
        if stream.is_lost:
            return
        if not stream.is_durable:
            stream.give_up_durability()
            return
        self._dirty[stream.lease.stream_id] = stream
        self._has_work.set()
        if self.is_held_up:
            stream.publish_unsent()
            self._keep_in_bounds()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            try:
                await self._flush()
            except StoreUnavailable as error:
                is_full = isinstance(error, StoreFull)
                self._hold_up(StoreState.FULL if is_full else StoreState.AWAY, error)
                await asyncio.sleep(FULL_RETRY_S if is_full else RETRY_S)
                self._has_work.set()
            else:
                self._note(StoreState.WRITABLE)

    async def flushed(self, stream: OwnedStream) -> None:
        """Wait until the store has everything the stream has written, or never will."""
        while stream.has_unsent:
            await stream.change()

    def store_failed(self, error: StoreUnavailable) -> None:
        """Take note that the store does not answer."""
        self._hold_up(StoreState.AWAY, error)

    def store_answered(self) -> None:
        """Take note that the store answers somebody; where there is something to write, the writing will tell."""
        if self.is_store_absent and not self._dirty:
            self._note(StoreState.WRITABLE)

    def _hold_up(self, state: StoreState, error: StoreUnavailable) -> None:
        self._note(state, f" ({error})" if str(error) else "")
        for stream in self._dirty.values():
            stream.publish_unsent()
        self._keep_in_bounds()

    def _note(self, state: StoreState, cause: str = "") -> None:
        if state is self._state:
            return
        if StoreState.AWAY in (state, self._state):
            self._metrics.observe_store_absence(state is StoreState.AWAY)
        self._state = state
        logger.log(logging.INFO if state is StoreState.WRITABLE else logging.ERROR, "the store is %s%s", state.value, cause)

    def _keep_in_bounds(self) -> None:
        """Have the largest streams go on without a store where too much waits for it."""
        while self._dirty and sum(stream.unsent_bytes for stream in self._dirty.values()) > MAX_UNSENT_BYTES:
            largest = max(self._dirty.values(), key=lambda stream: stream.unsent_bytes)
            logger.error("stream %s cannot be resumed any more: the store has been away or full for too long", largest.lease.stream_id)
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
                continue
            if stream.opening is not None and stream.opening.key is None:
                # It may have been freed since the store was asked, or since an earlier attempt whose answer was lost.
                await self._store.free_key(stream.lease)
            stream.opened()
