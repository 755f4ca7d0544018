"""All streams as this process sees them: those it writes, and those of others that somebody reads here.

Reading is one thing whoever writes: from any point, live or finished, from memory where the stream is ours and the reader keeps up,
else from the store's log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from server.metrics import Metrics
from server.store.store import AlreadyOpen, Claim, KeyUse, Lease, Opening, StoredEvent, StoreFull, StoreUnavailable, StreamStore
from server.streams.journal import RETRY_S, Journal
from server.streams.owned import OwnedStream, Past
from server.streams.readers import Readers
from server.streams.tail import Tail

READ_LIMIT = 32
"""Events read from the log at once: a picture is one event."""

CHECK_S = 1.0
"""How often a waiting reader looks again who owns its stream."""

FLUSH_S = 5.0
"""How long a stream that is given up waits for a store that takes what was written, before it counts as held up too."""

LINGER_S = 30.0
"""How long a finished stream that no store has is kept for its readers."""

FIRST_FENCE = 1


class StreamGone(Exception):
    """There is no such stream, or no longer."""


class StreamHub:
    """Streams over one store, for the process called ``owner``."""

    def __init__(self, store: StreamStore, owner: str, metrics: Metrics) -> None:
        self._store = store
        self._owner = owner
        self._owned: dict[str, OwnedStream] = {}
        self.readers = Readers()
        self.metrics = metrics
        self._journal = Journal(store, metrics)
        self._tail = Tail(store)

    async def run(self) -> None:
        """Carry events to and from the store until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._journal.run())
            tasks.create_task(self._tail.run())

    @property
    def is_store_absent(self) -> bool:
        """Whether the store does not answer."""
        return self._journal.is_store_absent

    def store_failed(self, error: StoreUnavailable) -> None:
        """Take note that the store does not answer."""
        self._journal.store_failed(error)

    def store_answered(self) -> None:
        """Take note that it does."""
        self._journal.store_answered()

    async def open(self, opening: Opening) -> OwnedStream | AlreadyOpen:
        """Create a stream to write; without a store, one that is made known to it as soon as it is back.

        Raises:
            StoreFull: there is no room for another one.
        """
        lease = Lease(opening.stream_id, self._owner, FIRST_FENCE)
        if not self.is_store_absent:
            try:
                opened = await self._store.open(opening, self._owner)
            except StoreFull:
                raise
            except StoreUnavailable as error:
                self._journal.store_failed(error)
            else:
                # It is open already under its own id where the store was asked twice, since its first answer was lost.
                if isinstance(opened, AlreadyOpen) and opened.stream_id != opening.stream_id:
                    return opened
                return self._keep(OwnedStream(lease, opening.tenant, Past(), self._journal.take))
        stream = self._keep(OwnedStream(lease, opening.tenant, Past(), self._journal.take, opening))
        # Now, not with its first event: a whole answer has none until its end, and may have to be given up before.
        self._journal.take(stream)
        return stream

    async def used(self, key: KeyUse) -> AlreadyOpen | None:
        """Return what an idempotency key stands for; None when it is free, or the store cannot tell."""
        if self.is_store_absent:
            return None
        try:
            return await self._store.used(key)
        except StoreUnavailable as error:
            self._journal.store_failed(error)
            return None

    async def free_key(self, stream: OwnedStream) -> None:
        """Let the key that led to a stream begin another one; the store may be away, and keep what it has."""
        if stream.opening is not None:
            stream.opening = replace(stream.opening, key=None)
        elif not self.is_store_absent:
            with contextlib.suppress(StoreUnavailable):
                await self._store.free_key(stream.lease)

    def adopt(self, claim: Claim) -> OwnedStream:
        """Go on writing a stream that was claimed."""
        return self._keep(OwnedStream(claim.lease, claim.tenant, Past(claim.last, len(claim.canon)), self._journal.take))

    def _keep(self, stream: OwnedStream) -> OwnedStream:
        self._owned[stream.lease.stream_id] = stream
        return stream

    def can_give_up(self, stream: OwnedStream) -> bool:
        """Tell whether others could claim a stream as far as is known: the store answers, and has all of it or takes what it lacks."""
        is_stuck = self._journal.is_held_up and stream.has_unsent
        return stream.is_durable and not (stream.is_lost or self.is_store_absent or is_stuck)

    async def give_up(self, streams: Sequence[OwnedStream], *, by_death: bool) -> None:
        """Let others claim streams of which the store has all that was written; ``by_death`` when what worked on them died.

        Raises:
            StoreUnavailable: it lacks something of at least one of them; the others are given up.
        """
        durable = [stream for stream in streams if stream.is_durable and not stream.is_lost]
        if not self._journal.is_held_up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    for stream in durable:
                        await self._journal.flushed(stream)
        written = [stream for stream in durable if stream.is_durable and not stream.has_unsent]
        if written:
            await self._store.give_up([stream.lease for stream in written], by_death=by_death)
        for stream in written:
            stream.lose()
            if self._owned.get(stream.lease.stream_id) is stream:
                del self._owned[stream.lease.stream_id]
        if len(written) < len(durable):
            raise StoreUnavailable

    async def give_up_in_the_end(self, stream: OwnedStream, *, by_death: bool) -> bool:
        """Let others claim a stream that nobody works on here; while the store is away nobody knows that they can.

        Returns:
            Whether it is somebody else's: not where it ceased to be durable meanwhile, so that nobody but this process knows of it.
        """
        while True:
            try:
                await self.give_up([stream], by_death=by_death)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return stream.is_lost

    async def release(self, stream: OwnedStream) -> None:
        """Stop being the writer, once what was written is where readers find it."""
        await self._journal.flushed(stream)
        if not stream.is_durable:
            await asyncio.sleep(LINGER_S)
        if self._owned.get(stream.lease.stream_id) is stream:
            del self._owned[stream.lease.stream_id]
        stream.let_go()

    def once_next_is_handed_on(self, stream: OwnedStream, then: Callable[[], None]) -> None:
        """Call ``then`` when the event that is written next has gone out to a reader here; at once where nobody reads here."""
        self.readers.once_handed_on(stream.lease.stream_id, stream.next_sequence, then)

    def owned_stream(self, stream_id: str) -> OwnedStream | None:
        """Return the stream if this process writes it."""
        stream = self._owned.get(stream_id)
        return None if stream is None or stream.is_lost else stream

    async def tenant(self, stream_id: str) -> str | None:
        """Return whose a stream is; None when there is none.

        Raises:
            StoreUnavailable
        """
        owned = self.owned_stream(stream_id)
        if owned is not None:
            return owned.tenant
        head = await self._store.head(stream_id)
        return None if head is None else head.tenant

    async def ending(self, stream_id: str) -> StoredEvent | None:
        """Return the final event of a stream; None while it has none.

        Raises:
            StreamGone, StoreUnavailable
        """
        owned = self.owned_stream(stream_id)
        if owned is not None:
            return owned.newest if owned.newest is not None and owned.newest.is_final else None
        head = await self._store.head(stream_id)
        if head is None:
            raise StreamGone
        return (await self._store.read(stream_id, head.last - 1, 1))[0] if head.is_finished else None

    def cancel_here(self, stream_id: str) -> None:
        """End a stream if this process writes it."""
        owned = self.owned_stream(stream_id)
        if owned is not None:
            owned.cancelled.set()

    async def cancel(self, stream_id: str) -> None:
        """Ask for the end of a stream, whoever writes it.

        Raises:
            StoreUnavailable
        """
        if self.owned_stream(stream_id) is not None:
            self.cancel_here(stream_id)
        else:
            await self._store.cancel(stream_id)

    async def delete(self, stream_id: str) -> None:
        """Forget a finished stream, here and in the store.

        Raises:
            StoreUnavailable
        """
        owned = self._owned.get(stream_id)
        if owned is not None and owned.is_durable:
            if owned.has_unsent and self._journal.is_held_up:
                raise StoreUnavailable
            await self._journal.flushed(owned)
        await self._store.delete(stream_id)
        if owned is not None and owned.is_ended:
            self._owned.pop(stream_id, None)

    async def abandoned(self, stream: OwnedStream, grace_s: float) -> None:
        """Return once nobody, here or elsewhere, has read a stream of ours for ``grace_s`` seconds."""
        while True:
            await self.readers.absent(stream.lease.stream_id, grace_s)
            try:
                idle_s = await self._store.idle_s(stream.lease.stream_id)
            except StoreUnavailable:
                return
            if idle_s >= grace_s:
                return
            await asyncio.sleep(grace_s - idle_s)

    async def read(self, stream_id: str, after: int) -> AsyncIterator[StoredEvent]:
        """Yield the events after ``after``, waiting for those to come, up to the final one.

        Raises:
            StreamGone, StoreUnavailable
        """
        while events := await self.next(stream_id, after):
            for event in events:
                yield event
            if events[-1].is_final:
                return
            after = events[-1].sequence

    async def next(self, stream_id: str, after: int) -> list[StoredEvent]:
        """Wait for events after ``after`` and return those there are; none when nothing can follow.

        Raises:
            StreamGone, StoreUnavailable
        """
        while not (events := await self._some_events(stream_id, after)):
            if await self._is_at_end(stream_id, after):
                return []
        return events

    async def _some_events(self, stream_id: str, after: int) -> list[StoredEvent]:
        """Return some events after ``after``; none when it must be looked again where they are to be had."""
        owned = self.owned_stream(stream_id)
        events = None if owned is None else owned.after(after)
        if owned is not None and not owned.is_durable and events is None:
            raise StreamGone
        if owned is None or events is None:
            return await self._store.read(stream_id, after, READ_LIMIT)
        if events:
            return events
        # No timer for each event of each reader: a stream that leaves this process beats a last time.
        await owned.change()
        return owned.after(after) or []

    async def _is_at_end(self, stream_id: str, after: int) -> bool:
        """Tell whether nothing can follow ``after``; wait a moment if something can but has not."""
        if self.owned_stream(stream_id) is not None:
            return False
        head = await self._store.head(stream_id)
        if head is None:
            raise StreamGone
        if head.last > after:
            return False
        if not head.is_finished:
            await self._tail.wait(stream_id, after, CHECK_S)
        return head.is_finished
