"""What outlives a process, as one interface: streams of events and who owns them, pictures, keys already used, rate limits.

There are two: `server.store.memory`, which lives and dies with this process, and Redis, which all replicas share. An accepted
request is a stream: a spec from which it can be begun again, events that its client sees, numbered densely from 1, and beside them
its canon, from which a survivor continues. Every write carries a `Lease`, whose fence says how many owners there have been: the store
refuses the writes of all but the last. Specs, canon and payloads are opaque here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec


class StoreUnavailable(Exception):
    """The store does not answer; what was asked may or may not have happened. The message is the cause, for whoever runs the server."""


class StoreFull(StoreUnavailable):
    """The store answers and has no room: what was asked has not happened."""


class StoredEvent(msgspec.Struct, frozen=True):
    """One event of a stream. ``sequence`` counts from 1 without gaps; ``name`` may be empty; the final one ends its stream."""

    sequence: int
    name: str
    payload: str
    is_final: bool = False

    @property
    def num_bytes(self) -> int:
        """About what the event takes in memory."""
        return len(self.payload) + len(self.name) + EVENT_OVERHEAD_BYTES


EVENT_OVERHEAD_BYTES = 100


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of ``owner`` to write to a stream, until somebody else has claimed it and holds a higher ``fence``."""

    stream_id: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class KeyUse:
    """An idempotency key as one tenant sent it; ``fingerprint`` tells whether the request beside it is the same."""

    tenant: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Opening:
    """A stream to be created. ``spec`` is all that a survivor needs to begin it again."""

    stream_id: str
    tenant: str
    spec: bytes
    key: KeyUse | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The new stream is this process's to write."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class AlreadyOpen:
    """The idempotency key was used before, for ``stream_id``; nothing was created."""

    stream_id: str
    fingerprint: str


class Append(msgspec.Struct, frozen=True):
    """Events and canon to be written together; ``events`` may be empty, ``canon`` too.

    Both have their places, the canon after ``num_canon_before`` entries: what an earlier attempt has written is not written again.
    """

    lease: Lease
    events: Sequence[StoredEvent]
    canon: Sequence[bytes] = ()
    num_canon_before: int = 0


class AppendResult(Enum):
    """What became of an append."""

    DONE = "done"
    """Written, now or by an earlier attempt whose answer was lost."""
    CANCELLED = "cancelled"
    """Written; and somebody asked for the stream to be cancelled."""
    FENCED = "fenced"
    """Refused: somebody else owns the stream, or it has its final event."""
    LOST = "lost"
    """Refused: the stream is unknown, or lacks the events or the canon before these."""


@dataclass(frozen=True, slots=True)
class StreamHead:
    """What is known of a stream without its events. ``last`` is the sequence number of its newest event, 0 if none."""

    tenant: str
    owner: str
    last: int
    is_finished: bool
    is_cancelled: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A stream taken over: how to begin it again, and how far it had come. ``num_deaths``: owners that died since it last got further."""

    lease: Lease
    tenant: str
    spec: bytes
    canon: Sequence[bytes]
    last: int
    num_deaths: int
    is_cancelled: bool


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether a cost was granted, what is left of it, and in how many seconds a refused one would be."""

    is_granted: bool
    remaining: float
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: ``capacity`` at most, refilled by ``per_second``."""

    name: str
    capacity: float
    per_second: float

    def granted(self, remaining: float) -> RateDecision:
        """Return that a cost was taken, which left ``remaining``."""
        return RateDecision(True, remaining, 0.0)

    def refused(self, remaining: float, cost: float) -> RateDecision:
        """Return that ``remaining`` is less than ``cost``, and when it will not be."""
        return RateDecision(False, remaining, (cost - remaining) / self.per_second if self.per_second else math.inf)


class StreamStore(Protocol):
    """Streams, their owners, and the idempotency keys that led to them."""

    async def open(self, opening: Opening, owner: str) -> Opened | AlreadyOpen:
        """Create a stream with ``owner`` as its first.

        Raises:
            StoreFull, StoreUnavailable
        """
        ...

    async def used(self, key: KeyUse) -> AlreadyOpen | None:
        """Return what an idempotency key stands for; None when it is free."""
        ...

    async def free_key(self, lease: Lease) -> None:
        """Let the idempotency key that led to a stream begin another one; nothing happens when somebody else owns the stream."""
        ...

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Write to many streams in one go; each append happens whole or not at all.

        Raises:
            StoreFull, StoreUnavailable
        """
        ...

    async def head(self, stream_id: str) -> StreamHead | None:
        """Return what is known of a stream; None when there is none, or no longer."""
        ...

    async def read(self, stream_id: str, after: int, limit: int) -> list[StoredEvent]:
        """Return up to ``limit`` events with sequence numbers above ``after``, in order."""
        ...

    async def wait(self, positions: Mapping[str, int], timeout_s: float) -> set[str]:
        """Wait until some of the streams have events above their position; return which. Marks them as being read."""
        ...

    async def cancel(self, stream_id: str) -> None:
        """Ask the owner to end a stream; a finished or unknown one stays as it is."""
        ...

    async def delete(self, stream_id: str) -> None:
        """Forget a finished stream with all it holds, and the key that led to it; a running or unknown one stays as it is."""
        ...

    async def heartbeat(self, owner: str, lease_s: float) -> set[str]:
        """Keep everything ``owner`` has for another ``lease_s`` seconds; return which of its streams are to be cancelled."""
        ...

    async def idle_s(self, stream_id: str) -> float:
        """Return for how many seconds nobody has waited for events of the stream through `wait`."""
        ...

    async def give_up(self, leases: Sequence[Lease], *, by_death: bool) -> None:
        """Let others claim streams at once; ``by_death`` when whatever worked on them died with them."""
        ...

    async def claim(self, owner: str, limit: int, *, only_given_up: bool = False) -> list[Claim]:
        """Take over streams that were given up, or whose owner's heartbeat has stopped; each goes to one claimant."""
        ...


class PictureStore(Protocol):
    """Bytes under the hash of their content, for as long as a stream may need them."""

    async def put_picture(self, content: bytes) -> str:
        """Keep ``content`` and return its key."""
        ...

    async def get_picture(self, key: str) -> bytes | None:
        """Return what is kept under ``key``; None when there is nothing, or no longer."""
        ...

    async def delete_picture(self, key: str) -> None:
        """Forget what is kept under ``key``."""
        ...


class RateStore(Protocol):
    """Token buckets that all replicas draw from."""

    async def take(self, bucket: Bucket, cost: float) -> RateDecision:
        """Take ``cost`` from a bucket if it holds that much; a negative cost gives back, up to its capacity."""
        ...


class Store(StreamStore, PictureStore, RateStore, Protocol):
    """Everything that outlives a process."""

    async def close(self) -> None:
        """Let go of connections."""
        ...
