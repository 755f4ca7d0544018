"""Streams accepted while the store is away: it learns of them when it is back, whether or not anything was written to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.fleet.processes import free_port
from server.store import redis_scripts
from server.store.memory import MemoryStore
from server.store.redis import RedisBounds, RedisStore
from server.store.store import AlreadyOpen, KeyUse, Opened, Opening, StoreUnavailable
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream
from tests.lossy_redis import lossy_redis
from tests.redis_server import redis_on_socket
from tests.server.streams.running_hub import running_hub

WAIT_S = 5.0
ASKED_TWICE = 2
"""How often Redis is asked before it counts as away."""

KEY = KeyUse("tenant", "key", "fingerprint")
OPENING = Opening("s", "tenant", b"spec", KEY)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with redis_on_socket(tmp_path) as url:
        yield url


async def open_while_away(hub: StreamHub, opening: Opening) -> OwnedStream:
    """Accept a stream that the store does not hear of."""
    hub.store_failed(StoreUnavailable())
    stream = await hub.open(opening)
    assert isinstance(stream, OwnedStream)
    return stream


async def test_a_stream_without_an_event_is_given_up_only_when_the_store_knows_it(redis_url: str) -> None:
    """It was given up to nobody, since the store had never heard of it: what was accepted ended as a stream that is not there."""
    store = RedisStore(redis_url, "p:", RedisBounds())
    async with running_hub(store) as hub, asyncio.timeout(WAIT_S):
        stream = await open_while_away(hub, OPENING)
        hub.store_answered()
        with pytest.raises(StoreUnavailable):
            await hub.give_up([stream], by_death=True)
        assert not stream.is_lost
        await stream.change()
        await hub.give_up([stream], by_death=True)
        (claim,) = await store.claim("other", 1)
    await store.close()
    assert (claim.lease.stream_id, claim.spec) == ("s", b"spec")


async def test_the_log_says_why_the_store_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """It said only that it is; the doctor knew the cause."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", "p:", RedisBounds())
    async with running_hub(store) as hub, asyncio.timeout(WAIT_S):
        await hub.open(OPENING)
    await store.close()
    assert "the store is away; going on without it (Error 111 connecting to 127.0.0.1" in caplog.text


async def test_what_is_written_without_a_store_costs_the_same_however_long_it_has_been_away() -> None:
    """All that it lacked was gone through again with every event: after a minute the event loop did nothing else."""
    async with running_hub(MemoryStore()) as hub:
        stream = await open_while_away(hub, OPENING)

        def work_s() -> float:
            began_s = time.thread_time()
            for _ in range(1000):
                stream.write("", "word")
                stream.note(b"word")
            return time.thread_time() - began_s

        first_s = work_s()
        for _ in range(8):
            last_s = work_s()
        assert last_s < 5 * first_s


class SlowStore(MemoryStore):
    """Opens a stream when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_opening, self.may_open = asyncio.Event(), asyncio.Event()

    async def open(self, opening: Opening, owner: str) -> Opened | AlreadyOpen:
        self.is_opening.set()
        await self.may_open.wait()
        return await super().open(opening, owner)


async def test_a_stream_accepted_while_another_is_made_known_is_made_known_too() -> None:
    """Its events were sent before the store knew it: it was taken for lost, and could not be resumed any more."""
    store = SlowStore()
    async with running_hub(store) as hub, asyncio.timeout(WAIT_S):
        early = await open_while_away(hub, OPENING)
        early.write("", "words")
        await store.is_opening.wait()
        late = await open_while_away(hub, Opening("late", "tenant", b"spec"))
        late.write("", "words", is_final=True)
        store.may_open.set()
        await hub.release(late)
    assert late.is_durable
    assert [event.payload for event in await store.read("late", 0, 10)] == ["words"]


async def test_a_key_that_is_freed_while_its_stream_is_made_known_is_free() -> None:
    """The store was asked with the key and not told after: asking again led to the failed answer."""
    store = SlowStore()
    async with running_hub(store) as hub, asyncio.timeout(WAIT_S):
        stream = await open_while_away(hub, OPENING)
        await store.is_opening.wait()
        await hub.free_key(stream)
        store.may_open.set()
        await stream.change()
    assert await store.head("s") is not None and await store.used(KEY) is None


async def test_a_key_that_is_freed_after_an_opening_that_was_not_heard_of_is_free(tmp_path: Path) -> None:
    with lossy_redis(tmp_path) as lossy:
        store = RedisStore(lossy.url, "p:", RedisBounds())
        async with running_hub(store) as hub, asyncio.timeout(WAIT_S):
            lossy.lose_answers(redis_scripts.OPEN, ASKED_TWICE)
            stream = await hub.open(OPENING)
            assert isinstance(stream, OwnedStream) and lossy.has_lost_all
            await hub.free_key(stream)
            await stream.change()
            assert await store.head("s") is not None and await store.used(KEY) is None
        await store.close()
