"""One reader of one answer, whoever makes it: from any event on, live or from the store, until the final one."""

from __future__ import annotations

from server.errors import StoreAway, StreamNotFound
from server.serving.quotas import Account
from server.store.store import StoredEvent, StoreUnavailable
from server.streams.hub import StreamGone, StreamHub


class Reading:
    """One reader of one stream, to be closed."""

    def __init__(self, hub: StreamHub, stream_id: str, after: int, *, is_whole: bool = False) -> None:
        self.stream_id = stream_id
        self.is_whole = is_whole
        """The stream has one piece, at its end."""
        self.account: Account | None = None
        """The part of its tenant's quota that the answer took, where this reader began it."""
        self.is_first = False
        """Its request created the stream, rather than being led to it by an idempotency key."""
        self._hub = hub
        self._after = after
        self._is_at_end = False
        self._is_open = True
        hub.readers.join(stream_id)

    @property
    def is_live_only(self) -> bool:
        """Whether the store is away, so that the stream cannot be resumed elsewhere for now."""
        owned = self._hub.owned_stream(self.stream_id)
        return self._hub.is_store_absent or (owned is not None and not owned.is_durable)

    async def next(self) -> list[StoredEvent]:
        """Return the events that have come since the last call, waiting for one; none after the final one.

        Calling it again says that the events of the last call have been handed on.

        Raises:
            StreamNotFound: the stream is gone.
            StoreAway: it can only be read from the store, which does not answer.
        """
        self._hub.readers.handed_on(self.stream_id, self._after)
        if self._is_at_end:
            return []
        try:
            events = await self._hub.next(self.stream_id, self._after)
        except StreamGone as error:
            raise not_found(self.stream_id) from error
        except StoreUnavailable as error:
            raise StoreAway from error
        self._is_at_end = not events or events[-1].is_final
        self._after = events[-1].sequence if events else self._after
        return events

    async def final(self) -> StoredEvent:
        """Return the last event once it is there.

        Raises:
            StreamNotFound, StoreAway: see `next`.
        """
        last: StoredEvent | None = None
        while events := await self.next():
            last = events[-1]
        if last is None:
            raise not_found(self.stream_id)
        return last

    def close(self) -> None:
        """Stop reading."""
        if self._is_open:
            self._is_open = False
            self._hub.readers.leave(self.stream_id)


def not_found(stream_id: str) -> StreamNotFound:
    """Return the error for a stream that does not exist, or is somebody else's."""
    return StreamNotFound(f"There is no stream '{stream_id[:64]}', or it is no longer kept.")
