"""The store does what it is told and its answer is lost: nobody who writes or reads a stream sees a difference."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.store import redis_scripts
from server.store.redis import RedisBounds, RedisStore
from server.store.store import AlreadyOpen, Append, KeyUse, Lease, Opening, StoreUnavailable
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream
from tests.lossy_redis import LossyRedis, lossy_redis
from tests.server.streams.running_hub import running_hub

ASKED_ONCE, ASKED_TWICE = 1, 2
"""How often the store is asked before it counts as away: the second time by the client of Redis itself."""

OPENING = Opening("s", "tenant", b"spec", KeyUse("tenant", "key", "fingerprint"))


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[LossyRedis]:
    with lossy_redis(tmp_path) as lossy:
        yield lossy


@pytest.fixture
async def store(lossy: LossyRedis) -> AsyncIterator[RedisStore]:
    """The store of a process to which answers may be lost."""
    store = RedisStore(lossy.url, "p:", RedisBounds())
    yield store
    await store.close()


@pytest.fixture
async def hub(store: RedisStore) -> AsyncIterator[StreamHub]:
    """The streams of that process."""
    async with running_hub(store) as hub:
        yield hub


@pytest.fixture
async def other(lossy: LossyRedis) -> AsyncIterator[RedisStore]:
    """The store of another process, which hears every answer."""
    store = RedisStore(lossy.whole_url, "p:", RedisBounds())
    yield store
    await store.close()


@pytest.mark.parametrize("num_losses", [ASKED_ONCE, ASKED_TWICE])
async def test_a_stream_whose_opening_was_not_heard_of_is_written_by_who_opened_it(
    hub: StreamHub, lossy: LossyRedis, other: RedisStore, num_losses: int
) -> None:
    """Its key led to it when it was opened again: who opened it joined it as a reader, and nobody ever wrote it."""
    lossy.lose_answers(redis_scripts.OPEN, num_losses)
    stream = await hub.open(OPENING)
    assert isinstance(stream, OwnedStream) and lossy.has_lost_all
    stream.write("", "words", is_final=True)
    await hub.release(stream)
    assert await other.open(Opening("t", "tenant", b"", OPENING.key), "other") == AlreadyOpen("s", "fingerprint")
    assert [event.payload for event in await other.read("s", 0, 10)] == ["words"]


@pytest.mark.parametrize("num_losses", [ASKED_ONCE, ASKED_TWICE])
async def test_events_whose_writing_was_not_heard_of_are_sent_again_with_those_that_came_since(
    hub: StreamHub, lossy: LossyRedis, other: RedisStore, num_losses: int
) -> None:
    """Events that the store had in part were taken for a gap: the stream went on without the store, where it ran for ever."""
    stream = await hub.open(OPENING)
    assert isinstance(stream, OwnedStream)
    lossy.lose_answers(redis_scripts.APPEND, num_losses)
    stream.write("", "one")
    await stream.change()
    stream.write("", "two", is_final=True)
    await hub.release(stream)
    assert stream.is_durable and lossy.has_lost_all
    assert [event.payload for event in await other.read("s", 0, 10)] == ["one", "two"]


@pytest.mark.parametrize("num_losses", [ASKED_ONCE, ASKED_TWICE])
async def test_canon_whose_writing_was_not_heard_of_is_there_once(
    hub: StreamHub, lossy: LossyRedis, other: RedisStore, num_losses: int
) -> None:
    """Nothing told it from new canon where no event was sent with it: who took the stream over repeated a word."""
    stream = await hub.open(OPENING)
    assert isinstance(stream, OwnedStream)
    lossy.lose_answers(redis_scripts.APPEND, num_losses)
    for canon in (b"one", b"two"):
        stream.note(canon)
        await stream.change()
    assert lossy.has_lost_all
    await hub.give_up([stream], by_death=False)
    (claim,) = await other.claim("other", 1)
    assert claim.canon == [b"one", b"two"]


async def test_who_takes_a_stream_over_adds_to_its_canon(hub: StreamHub, other: RedisStore) -> None:
    assert await other.open(OPENING, "other")
    await other.append([Append(Lease("s", "other", 1), [], [b"one"])])
    await other.give_up([Lease("s", "other", 1)], by_death=False)
    (claim,) = await other.claim("writer", 1)
    stream = hub.adopt(claim)
    stream.note(b"two")
    await hub.give_up([stream], by_death=False)
    (claim,) = await other.claim("other", 1)
    assert claim.canon == [b"one", b"two"]


@pytest.mark.parametrize("num_losses", [ASKED_ONCE, ASKED_TWICE])
async def test_streams_whose_claim_was_not_heard_of_are_those_of_the_next_claim(
    store: RedisStore, lossy: LossyRedis, other: RedisStore, num_losses: int
) -> None:
    """They were the claimant's, who lived and knew nothing of them: nobody else could have them, and nobody worked on them."""
    streams = {"s", "t"}
    for stream_id in streams:
        await other.open(Opening(stream_id, "tenant", b"spec"), "other")
        await other.append([Append(Lease(stream_id, "other", 1), [], [b"one"])])
    await other.give_up([Lease(stream_id, "other", 1) for stream_id in streams], by_death=False)
    lossy.lose_answers(redis_scripts.CLAIM, num_losses)
    if num_losses == ASKED_TWICE:
        with pytest.raises(StoreUnavailable):
            await store.claim("writer", 4)
    claims = await store.claim("writer", 4)
    assert lossy.has_lost_all and {claim.lease for claim in claims} == {Lease(stream_id, "writer", 2) for stream_id in streams}
    assert all(claim.canon == [b"one"] for claim in claims)
    assert await store.claim("writer", 4) == []
