"""The store within this process: nothing survives it, everything is bounded.

The rules are those of the store in Redis, under the same names; a property test holds both to one model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from server.store.store import (
    AlreadyOpen,
    Append,
    AppendResult,
    Bucket,
    Claim,
    KeyUse,
    Lease,
    Opened,
    Opening,
    RateDecision,
    StoredEvent,
    StoreFull,
    StreamHead,
)

Clock = Callable[[], float]

GIVEN_UP = ""
"""The owner of a stream that waits for one."""


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """How much is kept, and how long after a stream's end. A running stream is never dropped."""

    max_bytes: int = 256 << 20
    max_streams: int = 10_000
    max_buckets: int = 10_000
    ttl_s: float = 600.0


@dataclass(slots=True)
class _Stream:
    opening: Opening
    owner: str
    spec: bytes
    fence: int = 1
    events: list[StoredEvent] = field(default_factory=list)
    canon: list[bytes] = field(default_factory=list)
    num_bytes: int = 0
    num_deaths: int = 0
    is_finished: bool = False
    is_cancelled: bool = False
    finished_at: float = 0.0
    read_at: float = 0.0

    @property
    def last(self) -> int:
        return len(self.events)


@dataclass(slots=True)
class _Level:
    amount: float
    at: float


class MemoryStore:
    """Streams, pictures and buckets in dictionaries. All methods belong to one event loop."""

    def __init__(self, bounds: MemoryBounds | None = None, clock: Clock = time.monotonic) -> None:
        self._bounds = bounds or MemoryBounds()
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._finished: OrderedDict[str, _Stream] = OrderedDict()
        self._stream_by_key: dict[tuple[str, str], AlreadyOpen] = {}
        self._alive_until: dict[str, float] = {}
        self._cancelled: dict[str, set[str]] = {}
        self._pictures: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._levels: OrderedDict[str, _Level] = OrderedDict()
        self._num_bytes = 0
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def open(self, opening: Opening, owner: str) -> Opened | AlreadyOpen:
        """Create a stream with its first owner; see `StreamStore`."""
        self._make_room()
        used = None if opening.key is None else self._stream_by_key.get(_name(opening.key))
        if used is not None:
            return used
        if len(self._streams) >= self._bounds.max_streams:
            raise StoreFull
        replaced = self._streams.get(opening.stream_id)
        if replaced is not None:
            self._num_bytes -= replaced.num_bytes
            self._finished.pop(opening.stream_id, None)
        stream = _Stream(replace(opening, spec=b""), owner, opening.spec, read_at=self._clock())
        self._streams[opening.stream_id] = stream
        self._grow(stream, len(opening.spec))
        if opening.key is not None:
            self._stream_by_key[_name(opening.key)] = AlreadyOpen(opening.stream_id, opening.key.fingerprint)
        return Opened(Lease(opening.stream_id, owner, stream.fence))

    async def used(self, key: KeyUse) -> AlreadyOpen | None:
        """Return what an idempotency key stands for."""
        self._make_room()
        return self._stream_by_key.get(_name(key))

    async def free_key(self, lease: Lease) -> None:
        """Let the key that led to a stream begin another one."""
        stream = self._streams.get(lease.stream_id)
        if stream is None or (stream.owner, stream.fence) != (lease.owner, lease.fence) or stream.opening.key is None:
            return
        del self._stream_by_key[_name(stream.opening.key)]
        stream.opening = replace(stream.opening, key=None)

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Write to many streams; see `StreamStore`."""
        results = [self._append(append) for append in appends]
        self._wake()
        return results

    def _append(self, append: Append) -> AppendResult:
        stream = self._streams.get(append.lease.stream_id)
        if stream is None:
            return AppendResult.LOST
        if append.lease.fence != stream.fence or append.lease.owner != stream.owner:
            return AppendResult.FENCED
        num_written = stream.last + 1 - append.events[0].sequence if append.events else 0
        if stream.is_finished:
            return AppendResult.DONE if append.events and num_written >= len(append.events) else AppendResult.FENCED
        num_canon_written = len(stream.canon) - append.num_canon_before
        if num_written < 0 or num_canon_written < 0:
            return AppendResult.LOST
        events, canon = append.events[num_written:], append.canon[num_canon_written:]
        stream.events += events
        stream.canon += canon
        if canon:
            stream.num_deaths = 0
        self._grow(stream, sum(event.num_bytes for event in events) + sum(map(len, canon)))
        if events and events[-1].is_final:
            self._finish(stream)
        return AppendResult.CANCELLED if stream.is_cancelled else AppendResult.DONE

    def _finish(self, stream: _Stream) -> None:
        """Close a stream; what only a survivor would need is dropped."""
        stream.is_finished, stream.finished_at = True, self._clock()
        self._grow(stream, -len(stream.spec) - sum(map(len, stream.canon)))
        stream.spec, stream.canon = b"", []
        self._finished[stream.opening.stream_id] = stream
        self._make_room()

    async def head(self, stream_id: str) -> StreamHead | None:
        """Return what is known of a stream."""
        self._make_room()
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        return StreamHead(stream.opening.tenant, stream.owner, stream.last, stream.is_finished, stream.is_cancelled)

    async def read(self, stream_id: str, after: int, limit: int) -> list[StoredEvent]:
        """Return events after a position."""
        stream = self._streams.get(stream_id)
        return [] if stream is None else stream.events[after : after + limit]

    async def wait(self, positions: Mapping[str, int], timeout_s: float) -> set[str]:
        """Wait for events beyond the positions; see `StreamStore`."""
        deadline = self._clock() + timeout_s
        while True:
            streams = {stream_id: self._streams[stream_id] for stream_id in positions if stream_id in self._streams}
            for stream in streams.values():
                stream.read_at = self._clock()
            ready = {stream_id for stream_id, stream in streams.items() if stream.last > positions[stream_id]}
            left_s = deadline - self._clock()
            if ready or left_s <= 0:
                return ready
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()

    async def cancel(self, stream_id: str) -> None:
        """Ask the owner to end a stream."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.is_finished:
            stream.is_cancelled = True
            self._cancelled.setdefault(stream.owner, set()).add(stream_id)

    async def delete(self, stream_id: str) -> None:
        """Forget a finished stream."""
        if stream_id in self._finished:
            self._drop(stream_id)

    async def heartbeat(self, owner: str, lease_s: float) -> set[str]:
        """Keep an owner alive; return its streams that are to be cancelled."""
        self._alive_until[owner] = self._clock() + lease_s
        return self._cancelled.pop(owner, set())

    async def idle_s(self, stream_id: str) -> float:
        """Return for how long nobody has waited for the stream."""
        stream = self._streams.get(stream_id)
        return 0.0 if stream is None else self._clock() - stream.read_at

    async def give_up(self, leases: Sequence[Lease], *, by_death: bool) -> None:
        """Let others claim streams at once."""
        for lease in leases:
            stream = self._streams.get(lease.stream_id)
            if stream is not None and (stream.owner, stream.fence) == (lease.owner, lease.fence) and not stream.is_finished:
                stream.owner = GIVEN_UP
                stream.num_deaths += by_death

    async def claim(self, owner: str, limit: int, *, only_given_up: bool = False) -> list[Claim]:
        """Take over what has no living owner."""
        now = self._clock()
        claims: list[Claim] = []
        for stream in self._running():
            is_dead = not only_given_up and stream.owner != owner and self._alive_until.get(stream.owner, now) < now
            if len(claims) < limit and (is_dead or stream.owner == GIVEN_UP):
                stream.num_deaths += is_dead
                stream.owner, stream.fence = owner, stream.fence + 1
                claims.append(_claim(stream))
        return claims

    def _running(self) -> list[_Stream]:
        return [stream for stream in self._streams.values() if not stream.is_finished]

    async def put_picture(self, content: bytes) -> str:
        """Keep a picture under its hash."""
        key = hashlib.sha256(content).hexdigest()
        if key not in self._pictures:
            self._num_bytes += len(content)
        self._pictures[key] = (content, self._clock())
        self._pictures.move_to_end(key)
        self._make_room()
        return key

    async def get_picture(self, key: str) -> bytes | None:
        """Return a picture by its hash."""
        kept = self._pictures.get(key)
        return None if kept is None else kept[0]

    async def delete_picture(self, key: str) -> None:
        """Forget a picture."""
        if key in self._pictures:
            content, _ = self._pictures.pop(key)
            self._num_bytes -= len(content)

    async def take(self, bucket: Bucket, cost: float) -> RateDecision:
        """Take from a token bucket."""
        now = self._clock()
        level = self._levels.pop(bucket.name, None) or _Level(bucket.capacity, now)
        amount = min(bucket.capacity, level.amount + (now - level.at) * bucket.per_second)
        is_granted = cost <= amount
        self._levels[bucket.name] = _Level(min(bucket.capacity, amount - cost) if is_granted else amount, now)
        if len(self._levels) > self._bounds.max_buckets:
            self._levels.popitem(last=False)
        return bucket.granted(amount - cost) if is_granted else bucket.refused(amount, cost)

    def _grow(self, stream: _Stream, num_bytes: int) -> None:
        stream.num_bytes += num_bytes
        self._num_bytes += num_bytes

    def _make_room(self) -> None:
        """Drop what has outlived its time, then the oldest finished streams and pictures while there is too much."""
        too_old = self._clock() - self._bounds.ttl_s
        while self._finished:
            stream_id, stream = next(iter(self._finished.items()))
            is_crowded = self._num_bytes > self._bounds.max_bytes or len(self._streams) >= self._bounds.max_streams
            if stream.finished_at > too_old and not is_crowded:
                break
            self._drop(stream_id)
        while self._pictures:
            content, at = next(iter(self._pictures.values()))
            if at > too_old and self._num_bytes <= self._bounds.max_bytes:
                break
            self._pictures.popitem(last=False)
            self._num_bytes -= len(content)

    def _drop(self, stream_id: str) -> None:
        stream = self._streams.pop(stream_id)
        del self._finished[stream_id]
        self._num_bytes -= stream.num_bytes
        if stream.opening.key is not None:
            del self._stream_by_key[_name(stream.opening.key)]

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _name(key: KeyUse) -> tuple[str, str]:
    return key.tenant, key.key


def _claim(stream: _Stream) -> Claim:
    lease = Lease(stream.opening.stream_id, stream.owner, stream.fence)
    tenant, canon = stream.opening.tenant, tuple(stream.canon)
    return Claim(lease, tenant, stream.spec, canon, stream.last, stream.num_deaths, stream.is_cancelled)
