"""The store does what it is told and its answer is lost: nobody who writes or reads a stream sees a difference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.metrics import Metrics
from server.store import redis_scripts
from server.store.redis import RedisBounds, RedisStore
from server.store.store import AlreadyOpen, KeyUse, Opening
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream
from tests.lossy_redis import LossyRedis, lossy_redis

ASKED_ONCE, ASKED_TWICE = 1, 2
"""How often the store is asked before it counts as away: the second time by the client of Redis itself."""

OPENING = Opening("s", "tenant", b"spec", KeyUse("tenant", "key", "fingerprint"))


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[LossyRedis]:
    with lossy_redis(tmp_path) as lossy:
        yield lossy


@pytest.fixture
async def hub(lossy: LossyRedis) -> AsyncIterator[StreamHub]:
    """The streams of a process whose answers may be lost."""
    store = RedisStore(lossy.url, "p:", RedisBounds())
    hub = StreamHub(store, "writer", Metrics())
    running = asyncio.create_task(hub.run())
    yield hub
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await store.close()


@pytest.mark.parametrize("num_losses", [ASKED_ONCE, ASKED_TWICE])
async def test_a_stream_whose_opening_was_not_heard_of_is_written_by_who_opened_it(
    hub: StreamHub, lossy: LossyRedis, num_losses: int
) -> None:
    """Its key led to it when it was opened again: who opened it joined it as a reader, and nobody ever wrote it."""
    lossy.lose_answers(redis_scripts.OPEN, num_losses)
    stream = await hub.open(OPENING)
    assert isinstance(stream, OwnedStream) and lossy.has_lost_all
    stream.write("", "words", is_final=True)
    await hub.release(stream)
    other = RedisStore(lossy.whole_url, "p:", RedisBounds())
    assert await other.open(Opening("t", "tenant", b"", OPENING.key), "other") == AlreadyOpen("s", "fingerprint")
    assert [event.payload for event in await other.read("s", 0, 10)] == ["words"]
    await other.close()
