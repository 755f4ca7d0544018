"""A stream that this process writes: what its readers may see, what is still on its way to the store.

An event is published to readers when the store has it, or at once while the store is away or full. Only the newest events stay in
memory, and those that the store lacks; a reader that is further behind reads the log instead, so that nobody slow holds up the writer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.store.store import Append, Lease, Opening, StoredEvent

RECENT_BYTES = 4 << 20
"""How much of the newest events of one stream is kept for its readers."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the store has of a stream: the number of its newest event, and how many entries of canon."""

    last: int = 0
    num_canon: int = 0


class OwnedStream:
    """One stream under its lease. ``opening`` is set while the store does not know the stream yet; ``past`` is what it has of it."""

    def __init__(
        self, lease: Lease, tenant: str, past: Past, on_write: Callable[[OwnedStream], None], opening: Opening | None = None
    ) -> None:
        self.lease = lease
        self.tenant = tenant
        self.opening = opening
        self.is_lost = False
        """Somebody else owns the stream: readers must look into the store."""
        self.is_durable = True
        self.has_canon = past.last > 0
        """An engine has begun to work on it."""
        self.is_ended = False
        """The final event is written."""
        self.cancelled = asyncio.Event()
        self._last_written = past.last
        self._last_published = past.last
        self._recent: deque[StoredEvent] = deque()
        self._recent_bytes = 0
        self._unsent: list[StoredEvent] = []
        self._unsent_canon: list[bytes] = []
        self.unsent_bytes = 0
        """About how many bytes wait for the store."""
        self._num_canon_sent = past.num_canon
        self._on_write = on_write
        self._waiting: list[asyncio.Future[None]] = []
        """Who waits for the next change."""

    def write(self, name: str, payload: str, *, is_final: bool = False) -> None:
        """Add the next event; it reaches the store and the readers in order."""
        self._last_written += 1
        event = StoredEvent(self._last_written, name, payload, is_final)
        self._unsent.append(event)
        self.unsent_bytes += event.num_bytes
        self.is_ended = is_final
        self._on_write(self)

    @property
    def next_sequence(self) -> int:
        """The number that the next event will have."""
        return self._last_written + 1

    def note(self, canon: bytes) -> None:
        """Add canon that no event has come of yet."""
        self._unsent_canon.append(canon)
        self.unsent_bytes += len(canon)
        self.has_canon = True
        self._on_write(self)

    def lose(self) -> None:
        """Take note that the stream belongs to somebody else: what is unsent is void."""
        self.is_lost = True
        self.cancelled.set()
        self._drop_unsent()

    def let_go(self) -> None:
        """Have whoever waits for more look elsewhere: this process writes nothing more."""
        self._beat()

    @property
    def has_unsent(self) -> bool:
        """Whether the store lacks something, be it the stream itself."""
        return self.opening is not None or bool(self._unsent or self._unsent_canon)

    def opened(self) -> None:
        """Take note that the store knows the stream."""
        self.opening = None
        self._beat()

    def unsent(self) -> Append | None:
        """Return what can be added to the stream in the store: None where there is nothing, or no such stream yet."""
        if self.opening is not None or not (self._unsent or self._unsent_canon):
            return None
        return Append(self.lease, tuple(self._unsent), tuple(self._unsent_canon), self._num_canon_sent)

    def sent(self, append: Append) -> None:
        """Take note that the store has ``append``, and show its events."""
        num_events, num_canon = len(append.events), len(append.canon)
        self.unsent_bytes -= sum(event.num_bytes for event in self._unsent[:num_events]) + sum(map(len, self._unsent_canon[:num_canon]))
        del self._unsent[:num_events]
        del self._unsent_canon[:num_canon]
        self._num_canon_sent += num_canon
        self._show(append.events)
        self._beat()

    def publish_unsent(self) -> None:
        """Show what the store does not have, because it is away, and nobody has seen."""
        num_events = self._last_written - self._last_published
        if num_events and self._show(self._unsent[-num_events:]):
            self._beat()

    def give_up_durability(self) -> None:
        """Go on for the readers here alone."""
        self.is_durable = False
        self.publish_unsent()
        self._drop_unsent()

    def _drop_unsent(self) -> None:
        self.opening, self._unsent, self._unsent_canon, self.unsent_bytes = None, [], [], 0
        self._beat()

    def _show(self, events: Sequence[StoredEvent]) -> bool:
        """Put events where readers find them; tell whether there is a new one."""
        before = self._last_published
        for event in events:
            if event.sequence > self._last_published:
                self._recent.append(event)
                self._last_published = event.sequence
                self._recent_bytes += event.num_bytes
        if self._last_published == before:
            return False
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= self._recent.popleft().num_bytes
        return True

    def _beat(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def change(self) -> None:
        """Wait until there is something new to read, the store has more, or the stream is lost."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    @property
    def newest(self) -> StoredEvent | None:
        """The newest published event."""
        return self._recent[-1] if self._recent else None

    def after(self, sequence: int) -> list[StoredEvent] | None:
        """Return the published events after ``sequence``; None when some of them are not here any more."""
        # They are numbered without gaps: counted from the newest, which a reader who keeps up is close to.
        num_events = self._last_published - sequence
        if num_events == 1 and self._recent:
            return [self._recent[-1]]
        if num_events > len(self._recent):
            return self._unsent_after(sequence)
        return [self._recent[place] for place in range(-num_events, 0)]

    def _unsent_after(self, sequence: int) -> list[StoredEvent] | None:
        """Return the same from what the store lacks, which nobody could read there."""
        if not self._unsent or sequence + 1 < (first := self._unsent[0].sequence):
            return None
        return self._unsent[sequence + 1 - first : self._last_published + 1 - first]
