"""The store in Redis 7, shared by all replicas: nothing that was acknowledged is lost with a process.

A thin layer over the scripts, which hold the rules. Blocking reads have a connection pool of their own, so that no reader ever waits in
front of a writer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from server.store import redis_scripts as scripts
from server.store.redis_keys import Keys
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
    StoreUnavailable,
    StreamHead,
)

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
"""After so long without an answer Redis counts as away."""
BLOCKING_MARGIN_S = 1.0
WRITE_CONNECTIONS = 16
BLOCKING_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class RedisBounds:
    """How long streams are kept: after their end, and without any write while they run."""

    ttl_s: float = 600.0
    running_ttl_s: float = 3600.0


class RedisStore:
    """Streams, pictures and buckets in one Redis."""

    def __init__(self, url: str, prefix: str, bounds: RedisBounds) -> None:
        self._keys = Keys(prefix)
        self._bounds = bounds
        self._redis = _client(url, WRITE_CONNECTIONS, ANSWER_TIMEOUT_S)
        self._blocking = _client(url, BLOCKING_CONNECTIONS, ANSWER_TIMEOUT_S + BLOCKING_MARGIN_S)
        self._scripts = _Scripts(self._redis)
        self._num_claims: Counter[str] = Counter()
        """How many claims of each owner were answered."""

    async def close(self) -> None:
        """Let go of connections."""
        await self._redis.aclose()
        await self._blocking.aclose()

    async def open(self, opening: Opening, owner: str) -> Opened | AlreadyOpen:
        """Create a stream with its first owner; see `StreamStore`."""
        stream_id, key = opening.stream_id, opening.key
        keys = [self._keys.head(stream_id), self._keys.owned(owner), self._keys.owners]
        if key is not None:
            keys.append(self._keys.key(key.tenant, key.key))
        fingerprint = "" if key is None else key.fingerprint
        running_ms, key_ms = _ms(self._bounds.running_ttl_s), _ms(self._bounds.running_ttl_s + self._bounds.ttl_s)
        arguments: list[str | bytes | int] = [stream_id, owner, opening.tenant, opening.spec, running_ms, fingerprint, key_ms]
        async with _answered():
            used = await self._scripts.open(keys, arguments)
        if used:
            return AlreadyOpen(used[0].decode(), used[1].decode())
        return Opened(Lease(stream_id, owner, 1))

    async def used(self, key: KeyUse) -> AlreadyOpen | None:
        """Return what an idempotency key stands for."""
        async with _answered():
            stream_id, fingerprint = _fields(await self._scripts.used([self._keys.key(key.tenant, key.key)]))
        return None if stream_id is None or fingerprint is None else AlreadyOpen(stream_id.decode(), fingerprint.decode())

    async def free_key(self, lease: Lease) -> None:
        """Let the key that led to a stream begin another one."""
        async with _answered():
            await self._scripts.free_key([self._keys.head(lease.stream_id)], [lease.stream_id, lease.owner, lease.fence])

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Write to many streams in one pipeline; see `StreamStore`."""
        if not appends:
            return []
        async with _answered(), self._redis.pipeline(transaction=False) as pipeline:
            for append in appends:
                await self._scripts.append(self._append_keys(append.lease), self._append_arguments(append), client=pipeline)
            return [AppendResult(answer.decode()) for answer in await pipeline.execute()]

    def _append_keys(self, lease: Lease) -> list[str]:
        stream_id = lease.stream_id
        return [self._keys.head(stream_id), self._keys.events(stream_id), self._keys.canon(stream_id), self._keys.owned(lease.owner)]

    def _append_arguments(self, append: Append) -> list[str | bytes | int]:
        lease, events = append.lease, append.events
        first = events[0].sequence if events else 0
        ttl_ms, running_ms = _ms(self._bounds.ttl_s), _ms(self._bounds.running_ttl_s)
        arguments: list[str | bytes | int] = [lease.stream_id, lease.owner, lease.fence, first, ttl_ms, running_ms]
        arguments += [len(events), append.num_canon_before]
        for event in events:
            arguments += [event.name, event.payload, int(event.is_final)]
        return [*arguments, *append.canon]

    async def head(self, stream_id: str) -> StreamHead | None:
        """Return what is known of a stream."""
        async with _answered():
            tenant, owner, last, done, cancel = _fields(await self._scripts.head([self._keys.head(stream_id)]))
        if owner is None or tenant is None or last is None:
            return None
        return StreamHead(tenant.decode(), owner.decode(), int(last), done is not None, cancel is not None)

    async def read(self, stream_id: str, after: int, limit: int) -> list[StoredEvent]:
        """Return events after a position."""
        async with _answered():
            entries = await self._redis.xrange(self._keys.events(stream_id), min=f"{after + 1}-0", count=limit)
        return [_event(_bytes(entry_id), fields) for entry_id, fields in entries or [] if fields is not None]

    async def wait(self, positions: Mapping[str, int], timeout_s: float) -> set[str]:
        """Wait for events beyond the positions; see `StreamStore`."""
        by_name = {self._keys.events(stream_id): stream_id for stream_id in positions}
        wanted: dict[bytes | str | memoryview, int | bytes | str | memoryview] = {
            self._keys.events(stream_id): f"{after}-0" for stream_id, after in positions.items()
        }
        async with _answered():
            await self._scripts.mark_read([self._keys.head(stream_id) for stream_id in positions])
            found = await self._blocking.xread(wanted, count=1, block=_ms(timeout_s))
        names = found.keys() if isinstance(found, dict) else [name for name, _ in found or []]
        return {by_name[_bytes(name).decode()] for name in names}

    async def cancel(self, stream_id: str) -> None:
        """Ask the owner to end a stream."""
        async with _answered():
            await self._scripts.cancel([self._keys.head(stream_id)], [stream_id, self._keys.cancelled("")])

    async def delete(self, stream_id: str) -> None:
        """Forget a finished stream."""
        async with _answered():
            await self._scripts.delete([self._keys.head(stream_id), self._keys.events(stream_id)], [stream_id])

    async def heartbeat(self, owner: str, lease_s: float) -> set[str]:
        """Keep an owner alive; return its streams that are to be cancelled."""
        async with _answered():
            cancelled = await self._scripts.heartbeat([self._keys.owners, self._keys.cancelled(owner)], [owner, _ms(lease_s)])
        return {stream_id.decode() for stream_id in cancelled}

    async def idle_s(self, stream_id: str) -> float:
        """Return for how long nobody has waited for the stream."""
        async with _answered():
            return float(await self._scripts.idle_ms([self._keys.head(stream_id)])) / 1000

    async def give_up(self, leases: Sequence[Lease], *, by_death: bool) -> None:
        """Let others claim streams at once."""
        async with _answered():
            for lease in leases:
                keys = [self._keys.head(lease.stream_id), self._keys.owned(lease.owner), self._keys.given_up]
                await self._scripts.give_up(keys, [lease.stream_id, lease.owner, lease.fence, int(by_death)])

    async def claim(self, owner: str, limit: int, *, only_given_up: bool = False) -> list[Claim]:
        """Take over what has no living owner; a claim whose answer was lost is answered by the next one."""
        before, head = self._keys.head("\0").split("\0")
        canon = self._keys.canon("\0").split("\0")[1]
        keys = [self._keys.owners, self._keys.given_up, self._keys.owned(owner), self._keys.claimed(owner)]
        number = self._num_claims[owner]
        arguments: list[str | int] = [owner, limit, int(not only_given_up), number, before, head, canon, self._keys.owned("")]
        async with _answered():
            claims = await self._scripts.claim(keys, arguments)
        self._num_claims[owner] = number + 1
        return [_claim(owner, *fields) for fields in claims]

    async def put_picture(self, content: bytes) -> str:
        """Keep a picture under its hash."""
        digest = hashlib.sha256(content).hexdigest()
        async with _answered():
            await self._redis.set(self._keys.picture(digest), content, px=_ms(self._bounds.ttl_s))
        return digest

    async def get_picture(self, key: str) -> bytes | None:
        """Return a picture by its hash."""
        async with _answered():
            content = await self._redis.get(self._keys.picture(key))
        return None if content is None else _bytes(content)

    async def delete_picture(self, key: str) -> None:
        """Forget a picture."""
        async with _answered():
            await self._redis.delete(self._keys.picture(key))

    async def take(self, bucket: Bucket, cost: float) -> RateDecision:
        """Take from a token bucket."""
        async with _answered():
            granted, amount = await self._scripts.take([self._keys.bucket(bucket.name)], [bucket.capacity, bucket.per_second, cost])
        return bucket.granted(float(amount)) if granted else bucket.refused(float(amount), cost)


class _Scripts:
    """The scripts, known to Redis by their hashes."""

    def __init__(self, redis: Redis) -> None:
        self.open = redis.register_script(scripts.OPEN)
        self.used = redis.register_script(scripts.USED)
        self.free_key = redis.register_script(scripts.FREE_KEY)
        self.append = redis.register_script(scripts.APPEND)
        self.head = redis.register_script(scripts.HEAD)
        self.mark_read = redis.register_script(scripts.MARK_READ)
        self.idle_ms = redis.register_script(scripts.IDLE_MS)
        self.cancel = redis.register_script(scripts.CANCEL)
        self.delete = redis.register_script(scripts.DELETE)
        self.heartbeat = redis.register_script(scripts.HEARTBEAT)
        self.give_up = redis.register_script(scripts.GIVE_UP)
        self.claim = redis.register_script(scripts.CLAIM)
        self.take = redis.register_script(scripts.TAKE)


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    """Turn whatever keeps Redis from answering into one error of the store, and let no cancellation be lost.

    The library sends with `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes as the sending ends: whoever
    was told to end would go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None, "Redis is asked in tasks"
    num_cancellations = task.cancelling()
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull from error
    except (TimeoutError, RedisError, OSError) as error:
        raise StoreUnavailable(str(error) or type(error).__name__) from error
    finally:
        if task.cancelling() > num_cancellations:
            raise asyncio.CancelledError


def _client(url: str, num_connections: int, timeout_s: float) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=num_connections,
        timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1),
        decode_responses=False,
    )
    return Redis.from_pool(pool)


def _claim(owner: str, stream_id: bytes, head: list[bytes | None], canon: list[bytes]) -> Claim:
    fence, tenant, spec, last, deaths, cancel = head
    assert fence and tenant is not None and spec is not None and last and deaths, "only what can be begun again is claimed"
    lease = Lease(stream_id.decode(), owner, int(fence))
    return Claim(lease, tenant.decode(), spec, canon, int(last), int(deaths), cancel is not None)


def _event(entry_id: bytes, fields: Mapping[bytes | str, bytes | str]) -> StoredEvent:
    name, payload, is_final = (_bytes(fields[field]) for field in (b"n", b"p", b"f"))
    return StoredEvent(int(entry_id.partition(b"-")[0]), name.decode(), payload.decode(), is_final == b"1")


def _fields(answer: list[bytes | None]) -> list[bytes | None]:
    """Name the type of what a script says of several fields."""
    return answer


def _bytes(answer: object) -> bytes:
    assert isinstance(answer, bytes), "the connections do not decode"
    return answer


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
