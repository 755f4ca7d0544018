"""One model of the store, and both its homes held to it by whatever sequence of calls hypothesis can think of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from server.store.memory import MemoryBounds, MemoryStore
from server.store.redis import RedisBounds, RedisStore
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
    Store,
    StoredEvent,
    StoreUnavailable,
    StreamHead,
)
from tests.redis_server import redis_on_socket

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")
OWNERS = ("ann", "bob", "cat")
NUM_HISTORIES = 30
LONG_LEASE_S, SHORT_LEASE_S = 3600.0, 0.001

owners = st.sampled_from(OWNERS)
places = st.integers(0, 1000)
payloads = st.text(max_size=5)
entries = st.lists(st.binary(max_size=3), max_size=2)


@dataclass(slots=True)
class ModelStream:
    """What a stream should be."""

    spec: bytes
    owner: str | None
    fence: int = 1
    events: list[StoredEvent] = field(default_factory=list)
    canon: list[bytes] = field(default_factory=list)
    deaths: int = 0
    is_finished: bool = False
    is_cancelled: bool = False
    former: list[Lease] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Calls the store and the model alike. `make_store` is set by the test."""

    make_store: ClassVar[Callable[[], Store]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = type(self).make_store()
        self.streams: dict[str, ModelStream] = {}
        self.deleted: set[str] = set()
        self.keys: dict[str, AlreadyOpen] = {}
        self.dead: set[str] = set()
        self.to_cancel: dict[str, set[str]] = {owner: set() for owner in OWNERS}

    def run(self, work: Awaitable[ResultT]) -> ResultT:
        return self.loop.run_until_complete(_awaited(work))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    def stream(self, place: int) -> tuple[str, ModelStream]:
        return list(self.streams.items())[place % len(self.streams)]

    def lease(self, stream_id: str) -> Lease:
        """Return the owner's lease; of a stream that was given up, that of whoever had it last."""
        stream = self.streams[stream_id]
        return stream.former[-1] if stream.owner is None else Lease(stream_id, stream.owner, stream.fence)

    @initialize()
    def everybody_lives(self) -> None:
        for owner in OWNERS:
            assert self.run(self.store.heartbeat(owner, LONG_LEASE_S)) == set()

    @rule(owner=owners, key=st.sampled_from([None, "k1", "k2"]), fingerprint=st.sampled_from(["f", "g"]))
    def submit(self, owner: str, key: str | None, fingerprint: str) -> None:
        stream_id = f"s{len(self.streams) + len(self.deleted)}"
        use = None if key is None else KeyUse("tenant", key, fingerprint)
        answer = self.run(self.store.open(Opening(stream_id, "tenant", stream_id.encode(), use), owner))
        if key in self.keys:
            assert answer == self.keys[key]
            return
        assert answer == Opened(Lease(stream_id, owner, 1))
        self.streams[stream_id] = ModelStream(stream_id.encode(), owner)
        if key is not None:
            self.keys[key] = AlreadyOpen(stream_id, fingerprint)

    @rule(key=st.sampled_from(["k1", "k2"]))
    def look_up(self, key: str) -> None:
        assert self.run(self.store.used(KeyUse("tenant", key, "f"))) == self.keys.get(key)

    @precondition(lambda self: self.streams)
    @rule(place=places)
    def free_key(self, place: int) -> None:
        """Only the owner frees a key, and only the one that led to its stream."""
        stream_id, stream = self.stream(place)
        for lease in [*stream.former, self.lease(stream_id)]:
            self.run(self.store.free_key(lease))
        if stream.owner is not None:
            self.keys = {key: used for key, used in self.keys.items() if used.stream_id != stream_id}

    @precondition(lambda self: self.streams)
    @rule(place=places, texts=st.lists(payloads, max_size=3), canon=entries, is_final=st.booleans())
    def append(self, place: int, texts: list[str], canon: list[bytes], is_final: bool) -> None:
        stream_id, stream = self.stream(place)
        events = new_events(stream, texts, is_final=is_final)
        (result,) = self.run(self.store.append([Append(self.lease(stream_id), events, canon, len(stream.canon))]))
        if stream.owner is None or stream.is_finished:
            assert result is AppendResult.FENCED
            return
        stream.events += events
        if events and events[-1].is_final:
            assert result is not AppendResult.FENCED and result is not AppendResult.LOST
            stream.is_finished = True
            return
        assert result is (AppendResult.CANCELLED if stream.is_cancelled else AppendResult.DONE)
        stream.canon += canon
        stream.deaths = 0 if canon else stream.deaths

    @precondition(lambda self: self.streams)
    @rule(place=places, num_again=st.tuples(st.integers(0, 3), st.integers(0, 2)), texts=st.lists(payloads, max_size=2), canon=entries)
    def append_again(self, place: int, num_again: tuple[int, int], texts: list[str], canon: list[bytes]) -> None:
        """The answer to an append was lost, so it is sent again with what came since: everything is there once."""
        stream_id, stream = self.stream(place)
        old, old_canon = newest(stream.events, num_again[0]), newest(stream.canon, num_again[1])
        new = new_events(stream, texts)
        append = Append(self.lease(stream_id), [*old, *new], [*old_canon, *canon], len(stream.canon) - len(old_canon))
        (result,) = self.run(self.store.append([append]))
        if stream.owner is None or stream.is_finished:
            was_written = stream.owner is not None and old and not new
            assert result is (AppendResult.DONE if was_written else AppendResult.FENCED)
            return
        assert result is (AppendResult.CANCELLED if stream.is_cancelled else AppendResult.DONE)
        stream.events += new
        stream.canon += canon
        stream.deaths = 0 if canon else stream.deaths

    @precondition(lambda self: self.streams)
    @rule(place=places, is_canon=st.booleans())
    def append_beyond_a_gap(self, place: int, is_canon: bool) -> None:
        stream_id, stream = self.stream(place)
        lease, beyond = self.lease(stream_id), StoredEvent(len(stream.events) + 2, "", "never seen")
        append = Append(lease, [], [b"x"], len(stream.canon) + 1) if is_canon else Append(lease, [beyond], [], len(stream.canon))
        assert self.run(self.store.append([append]))[0] in (AppendResult.LOST, AppendResult.FENCED)

    @precondition(lambda self: any(stream.former for stream in self.streams.values()))
    @rule(place=places, is_final=st.booleans())
    def zombie_append(self, place: int, is_final: bool) -> None:
        former = [lease for stream in self.streams.values() for lease in stream.former]
        lease = former[place % len(former)]
        event = StoredEvent(len(self.streams[lease.stream_id].events) + 1, "", "from the dead", is_final)
        assert self.run(self.store.append([Append(lease, [event], [b"x"])])) == [AppendResult.FENCED]

    @rule(owner=owners)
    def append_to_nothing(self, owner: str) -> None:
        append = Append(Lease("unknown", owner, 1), [StoredEvent(1, "", "")])
        assert self.run(self.store.append([append])) == [AppendResult.LOST]

    @precondition(lambda self: self.streams)
    @rule(place=places, after=st.integers(0, 6), limit=st.integers(1, 4))
    def read_drop_and_resume(self, place: int, after: int, limit: int) -> None:
        """Read in pieces from anywhere: each event comes once and in order."""
        stream_id, stream = self.stream(place)
        seen, position = [], after
        while events := self.run(self.store.read(stream_id, position, limit)):
            assert len(events) <= limit
            seen += events
            position = events[-1].sequence
        assert seen == stream.events[after:]

    @precondition(lambda self: self.streams)
    @rule(place=places, after=st.integers(0, 6))
    def wait(self, place: int, after: int) -> None:
        stream_id, stream = self.stream(place)
        ready = self.run(self.store.wait({stream_id: after}, 0.001))
        assert ready == ({stream_id} if len(stream.events) > after else set())

    @precondition(lambda self: self.streams)
    @rule(place=places)
    def cancel(self, place: int) -> None:
        stream_id, stream = self.stream(place)
        self.run(self.store.cancel(stream_id))
        if not stream.is_finished:
            stream.is_cancelled = True
            if stream.owner is not None:
                self.to_cancel[stream.owner].add(stream_id)

    @precondition(lambda self: self.streams)
    @rule(place=places)
    def delete(self, place: int) -> None:
        """What is finished is gone, and its key leads nowhere; what runs goes on."""
        stream_id, stream = self.stream(place)
        self.run(self.store.delete(stream_id))
        if stream.is_finished:
            del self.streams[stream_id]
            self.deleted.add(stream_id)
            self.keys = {key: used for key, used in self.keys.items() if used.stream_id != stream_id}

    @precondition(lambda self: self.deleted)
    @rule(place=places, owner=owners)
    def read_and_append_to_what_is_deleted(self, place: int, owner: str) -> None:
        stream_id = sorted(self.deleted)[place % len(self.deleted)]
        append = Append(Lease(stream_id, owner, 1), [StoredEvent(1, "", "")])
        assert self.run(self.store.append([append])) == [AppendResult.LOST]
        assert self.run(self.store.read(stream_id, 0, 10)) == [] and self.run(self.store.head(stream_id)) is None

    @rule(owner=owners)
    def live(self, owner: str) -> None:
        assert self.run(self.store.heartbeat(owner, LONG_LEASE_S)) == self.to_cancel[owner]
        self.to_cancel[owner] = set()
        self.dead.discard(owner)

    @rule(owner=owners)
    def expire(self, owner: str) -> None:
        assert self.run(self.store.heartbeat(owner, SHORT_LEASE_S)) == self.to_cancel[owner]
        self.to_cancel[owner] = set()
        self.dead.add(owner)
        time.sleep(2.5 * SHORT_LEASE_S)  # until Redis's clock, in milliseconds, has passed it

    @precondition(lambda self: self.streams)
    @rule(place=places, by_death=st.booleans())
    def give_up(self, place: int, by_death: bool) -> None:
        stream_id, stream = self.stream(place)
        lease = self.lease(stream_id)
        self.run(self.store.give_up([lease], by_death=by_death))
        if stream.owner is not None and not stream.is_finished:
            stream.former.append(lease)
            stream.owner = None
            stream.deaths += by_death

    @rule(owner=owners, limit=st.integers(1, 50), only_given_up=st.booleans())
    def claim(self, owner: str, limit: int, only_given_up: bool) -> None:
        lost = {stream_id for stream_id, stream in self.streams.items() if self.is_claimable(stream, owner, only_given_up)}
        claims = self.run(self.store.claim(owner, limit, only_given_up=only_given_up))
        assert {claim.lease.stream_id for claim in claims} <= lost
        assert len(claims) == min(limit, len(lost))
        for claim in claims:
            self.check_claim(claim, owner)

    def is_claimable(self, stream: ModelStream, claimant: str, only_given_up: bool) -> bool:
        is_orphan = not only_given_up and stream.owner in self.dead - {claimant}
        return not stream.is_finished and (stream.owner is None or is_orphan)

    def check_claim(self, claim: Claim, owner: str) -> None:
        stream = self.streams[claim.lease.stream_id]
        if stream.owner is not None:
            stream.deaths += 1
            stream.former.append(self.lease(claim.lease.stream_id))
        stream.owner, stream.fence = owner, stream.fence + 1
        assert claim.lease == self.lease(claim.lease.stream_id)
        assert (claim.spec, list(claim.canon), claim.last) == (stream.spec, stream.canon, len(stream.events))
        assert (claim.tenant, claim.num_deaths, claim.is_cancelled) == ("tenant", stream.deaths, stream.is_cancelled)

    @invariant()
    def heads_agree(self) -> None:
        heads = {
            stream_id: StreamHead("tenant", stream.owner or "", len(stream.events), stream.is_finished, stream.is_cancelled)
            for stream_id, stream in self.streams.items()
        }
        assert self.run(self.heads()) == heads

    async def heads(self) -> dict[str, StreamHead | None]:
        return {stream_id: await self.store.head(stream_id) for stream_id in self.streams}


def new_events(stream: ModelStream, texts: list[str], *, is_final: bool = False) -> list[StoredEvent]:
    """Return the next events of a stream, the last of them final where there is one."""
    first = len(stream.events) + 1
    return [StoredEvent(first + i, "name", text, is_final and i == len(texts) - 1) for i, text in enumerate(texts)]


def newest(items: list[ItemT], num_items: int) -> list[ItemT]:
    """Return up to ``num_items`` from the end."""
    return items[max(0, len(items) - num_items) :]


async def _awaited(work: Awaitable[ResultT]) -> ResultT:
    return await work


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_on_socket(tmp_path_factory.mktemp("redis")) as url:
        yield url


def in_memory() -> Store:
    return MemoryStore()


def in_redis(url: str) -> Callable[[], Store]:
    """Each store has a prefix of its own, so that they know nothing of each other."""
    numbers = iter(range(1_000_000))
    return lambda: RedisStore(url, f"test-{next(numbers)}:", RedisBounds())


@pytest.mark.parametrize("home", ["memory", "redis"])
def test_whatever_happens_the_store_does_as_the_model_says(home: str, redis_url: str) -> None:
    class Machine(StoreMachine):
        make_store = staticmethod(in_memory if home == "memory" else in_redis(redis_url))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=num_histories(),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        ),
    )


def num_histories() -> int:
    """Return how many histories are tried: enough for every run of the suite, or as many as a wider profile of hypothesis asks for."""
    wanted = settings().max_examples
    return wanted if wanted > settings.get_profile("plait").max_examples else NUM_HISTORIES


@pytest.mark.parametrize("home", ["memory", "redis"])
async def test_a_bucket_grants_what_it_holds_and_says_when_there_is_more(home: str, redis_url: str) -> None:
    store = in_memory() if home == "memory" else in_redis(redis_url)()
    bucket = Bucket("calls", capacity=10, per_second=0.001)
    first, second = await store.take(bucket, 7), await store.take(bucket, 7)
    await store.close()
    assert (first.is_granted, second.is_granted) == (True, False)
    assert first.remaining == pytest.approx(3, abs=0.1) and second.retry_after_s == pytest.approx(4000, rel=0.05)


@pytest.mark.parametrize("home", ["memory", "redis"])
async def test_pictures_are_kept_under_the_hash_of_their_content(home: str, redis_url: str) -> None:
    store = in_memory() if home == "memory" else in_redis(redis_url)()
    keys = [await store.put_picture(content) for content in (b"one", b"two", b"one")]
    kept = [await store.get_picture(key) for key in [*keys, "nothing"]]
    await store.close()
    assert keys[0] == keys[2] != keys[1] and kept == [b"one", b"two", b"one", None]


@pytest.mark.parametrize("home", ["memory", "redis"])
async def test_a_deleted_picture_is_gone_and_no_other(home: str, redis_url: str) -> None:
    store = in_memory() if home == "memory" else in_redis(redis_url)()
    keys = [await store.put_picture(content) for content in (b"one", b"two")]
    for key in (keys[0], "nothing"):
        await store.delete_picture(key)
    kept = [await store.get_picture(key) for key in keys]
    await store.close()
    assert kept == [None, b"two"]


async def test_a_deleted_stream_leaves_nothing_in_redis(redis_url: str) -> None:
    store = RedisStore(redis_url, "deleted:", RedisBounds())
    opened = await store.open(Opening("s", "tenant", b"spec", KeyUse("tenant", "key", "f")), "ann")
    assert isinstance(opened, Opened)
    await store.append([Append(opened.lease, [StoredEvent(1, "", "words", is_final=True)])])
    await store.delete("s")
    await store.close()
    async with Redis.from_url(redis_url) as redis:
        assert await redis.keys("deleted:*") == [b"deleted:owners"]


async def test_a_stream_that_is_opened_again_stays_with_whoever_took_it_over(redis_url: str) -> None:
    """Redis is asked again when its answer was lost: the stream began anew under its first owner, at the number of an event it had."""
    store, opening = RedisStore(redis_url, "again:", RedisBounds()), Opening("s", "tenant", b"spec")
    await store.open(opening, "ann")
    await store.give_up([Lease("s", "ann", 1)], by_death=False)
    (claim,) = await store.claim("bob", 1)
    await store.append([Append(claim.lease, [StoredEvent(1, "", "words")])])
    await store.open(opening, "ann")
    assert await store.head("s") == StreamHead("tenant", "bob", 1, is_finished=False, is_cancelled=False)
    await store.close()


async def test_a_stream_opened_again_takes_the_place_of_the_one_before() -> None:
    """In memory the first one's bytes were counted for ever: soon there was no room for anything that had ended."""
    store = MemoryStore(MemoryBounds(max_bytes=1000))
    for stream_id in (*["again"] * 5, "other"):
        opened = await store.open(Opening(stream_id, "tenant", b""), "owner")
        assert isinstance(opened, Opened)
        await store.append([Append(opened.lease, [StoredEvent(1, "", "x" * 300, is_final=True)])])
    kept = [await store.read(stream_id, 0, 1) for stream_id in ("again", "other")]
    assert [len(events) for events in kept] == [1, 1]


async def test_a_redis_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    store = RedisStore(f"unix://{tmp_path / 'nothing.sock'}", "p:", RedisBounds())
    with pytest.raises(StoreUnavailable):
        await store.head("s")
    await store.close()


async def test_a_store_that_is_closed_has_no_connection_left(redis_url: str) -> None:
    """All stayed open: a pool that a client of Redis is given is nobody's to close, unless the client takes it over."""
    store = RedisStore(redis_url, "closed:", RedisBounds())
    async with Redis.from_url(redis_url) as redis:
        before = await redis.client_list()
        await store.heartbeat("owner", 1.0)
        await store.wait({"s": 0}, 0.01)
        assert len(await redis.client_list()) == len(before) + 2
        await store.close()
        assert len(await redis.client_list()) == len(before)


async def test_a_call_that_is_cancelled_ends_cancelled_whatever_it_is_doing(redis_url: str) -> None:
    """The heartbeat of a server told to stop lost its cancellation while a command was sent, and beat on for ever."""
    store = RedisStore(redis_url, "cancelled:", RedisBounds())
    await store.heartbeat("owner", 1.0)
    num_cancelled = 0
    for num_turns in range(40):
        beating = asyncio.create_task(store.heartbeat("owner", 1.0))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        num_cancelled += beating.cancel()
        await asyncio.wait({beating})
        num_cancelled -= beating.cancelled()
    assert num_cancelled == 0
    await store.close()


@pytest.mark.parametrize("home", ["memory", "redis"])
async def test_an_idempotency_key_is_kept_as_long_as_the_answer_it_stands_for(home: str, redis_url: str) -> None:
    """Redis kept it for an hour more: a busy server's keys were most of what it held."""
    store: Store = MemoryStore(MemoryBounds(ttl_s=0.1)) if home == "memory" else RedisStore(redis_url, "keys:", RedisBounds(ttl_s=0.1))
    use = KeyUse("tenant", "key", "fingerprint")
    opened = await store.open(Opening("first", "tenant", b"", use), "owner")
    assert isinstance(opened, Opened)
    assert await store.open(Opening("second", "tenant", b"", use), "owner") == AlreadyOpen("first", "fingerprint")
    await store.append([Append(opened.lease, [StoredEvent(1, "", "end", is_final=True)])])
    async with asyncio.timeout(5):
        while isinstance(await store.open(Opening("second", "tenant", b"", use), "owner"), AlreadyOpen):
            await store.read("first", 0, 1)
    await store.close()


@pytest.mark.parametrize("home", ["memory", "redis"])
async def test_only_what_a_survivor_can_go_on_from_makes_deaths_forgotten(home: str, redis_url: str) -> None:
    """In memory any event did, progress too: a request that killed its engine while it drew was never found to be poison."""
    store = in_memory() if home == "memory" else in_redis(redis_url)()
    await store.open(Opening("stream", "tenant", b""), "owner")
    lease = Lease("stream", "owner", 1)
    for num_deaths, canon in ((1, []), (2, [b"word"]), (1, [])):
        await store.give_up([lease], by_death=True)
        (claim,) = await store.claim("owner", 1)
        assert claim.num_deaths == num_deaths
        await store.append([Append(claim.lease, [StoredEvent(claim.last + 1, "progress", "")], canon)])
        lease = claim.lease
    await store.close()
