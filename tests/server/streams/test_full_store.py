"""A store that has no room: what is written goes on without it, and nobody waits until it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from server.store.memory import MemoryStore
from server.store.store import Append, AppendResult, Opening, StoreFull, StoreUnavailable
from server.streams.hub import StreamHub
from server.streams.owned import RECENT_BYTES, OwnedStream
from tests.server.streams.running_hub import running_hub

WAIT_S = 5.0


class FullStore(MemoryStore):
    """Takes no event."""

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        if appends:
            raise StoreFull
        return []


@pytest.fixture
def store() -> FullStore:
    return FullStore()


@pytest.fixture
async def hub(store: FullStore) -> AsyncIterator[StreamHub]:
    async with running_hub(store) as hub:
        yield hub


@pytest.fixture
async def stream(hub: StreamHub) -> OwnedStream:
    """A stream with an event that the store does not take."""
    stream = await hub.open(Opening("s", "tenant", b""))
    assert isinstance(stream, OwnedStream)
    stream.write("", "one")
    async with asyncio.timeout(WAIT_S):
        await stream.change()
    return stream


async def test_events_are_shown_at_once_and_the_store_does_not_count_as_away(hub: StreamHub, stream: OwnedStream) -> None:
    stream.write("", "two", is_final=True)
    async with asyncio.timeout(WAIT_S):
        assert [event.payload async for event in hub.read("s", 0)] == ["one", "two"]
    assert not hub.is_store_absent and stream.is_durable


async def test_a_reader_far_behind_has_the_events_that_the_store_lacks(hub: StreamHub, stream: OwnedStream) -> None:
    """They were looked for in the store, which has none of them, again and again without a pause."""
    pictures = [letter * RECENT_BYTES for letter in "ab"]
    for picture in pictures:
        stream.write("", picture)
    stream.write("", "end", is_final=True)
    async with asyncio.timeout(WAIT_S):
        assert [event.payload async for event in hub.read("s", 0)] == ["one", *pictures, "end"]
        assert [event.payload async for event in hub.read("s", 2)] == [pictures[1], "end"]


async def test_a_stream_is_neither_handed_over_nor_deleted_without_what_the_store_lacks_of_it(hub: StreamHub, stream: OwnedStream) -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(StoreUnavailable):
            await hub.give_up([stream], by_death=False)
        with pytest.raises(StoreUnavailable):
            await hub.delete("s")
    assert not stream.is_lost


async def test_streams_of_which_the_store_has_everything_are_handed_over_beside_one_that_it_lacks_something_of(
    hub: StreamHub, store: FullStore, stream: OwnedStream
) -> None:
    """None was, and their work had been stopped already."""
    whole = await hub.open(Opening("whole", "tenant", b"spec"))
    assert isinstance(whole, OwnedStream)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(StoreUnavailable):
            await hub.give_up([stream, whole], by_death=False)
    assert [claim.lease.stream_id for claim in await store.claim("other", 2)] == ["whole"]
    assert whole.is_lost and not stream.is_lost
