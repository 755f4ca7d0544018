"""What a replica that leaves hands back of what no engine has begun, and what it goes on with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.api.chat_surface import ChatSurface
from server.durability import Durability
from server.messages import Request
from server.serving.accepting import Arrival, Reading
from server.serving.picture_links import PictureLinks
from server.store.memory import MemoryStore
from server.store.store import AlreadyOpen, Append, AppendResult, Lease, Opened, Opening, StoreFull, StoreUnavailable
from server.streams.owned import OwnedStream
from tests.server.api.chats import hello, user
from tests.server.scripted_engine import Output, ScriptedEngine
from tests.server.serving.replica import running_replica

WAIT_S = 10.0
BODY = json.dumps({"model": "tiny_a", "messages": [user("hi")], "stream": True}).encode()


class HinderedStore(MemoryStore):
    """Answers with ``error``, where there is one: what would fill it, or everything where that is its absence."""

    def __init__(self) -> None:
        super().__init__()
        self.error: type[StoreUnavailable] | None = None

    async def open(self, opening: Opening, owner: str) -> Opened | AlreadyOpen:
        self._refuse()
        return await super().open(opening, owner)

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        self._refuse()
        return await super().append(appends)

    async def heartbeat(self, owner: str, lease_s: float) -> set[str]:
        if self.error is StoreUnavailable:
            raise StoreUnavailable
        return await super().heartbeat(owner, lease_s)

    async def give_up(self, leases: Sequence[Lease], *, by_death: bool) -> None:
        if self.error is StoreUnavailable:
            raise StoreUnavailable
        await super().give_up(leases, by_death=by_death)

    def _refuse(self) -> None:
        if self.error is not None:
            raise self.error


def queued(request: Request) -> list[list[Output]]:
    """Nothing is said before the engine is released."""
    return [[], *hello(request)]


async def begin(durability: Durability, key: str) -> tuple[Reading, OwnedStream]:
    """Ask, until the store has what is written before the engine says anything."""
    reading = await durability.acceptance.accept(Arrival(ChatSurface("tiny_a", PictureLinks(durability.store)), BODY, key=key))
    assert await reading.next()
    stream = durability.hub.owned_stream(reading.stream_id)
    assert stream is not None
    return reading, stream


async def claimed(store: HinderedStore) -> list[str]:
    """Return the streams that another replica takes up."""
    return [claim.lease.stream_id for claim in await store.claim("other", 8, only_given_up=True)]


async def test_what_waits_is_handed_back(tmp_path: Path) -> None:
    engine, store = ScriptedEngine(queued), HinderedStore()
    async with running_replica(engine, store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        durability = replica.durability
        durability.takeover.is_draining = True
        reading, _ = await begin(durability, "k")
        await durability.producer.hand_over(only_queued=True)
        assert await claimed(store) == [reading.stream_id]
        assert durability.hub.owned_stream(reading.stream_id) is None


async def test_what_a_full_store_lacks_something_of_is_answered_here_and_the_rest_handed_back(tmp_path: Path) -> None:
    engine, store = ScriptedEngine(queued), HinderedStore()
    async with running_replica(engine, store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        durability = replica.durability
        durability.takeover.is_draining = True
        reading, _ = await begin(durability, "whole")
        other, stream = await begin(durability, "not whole")
        store.error = StoreFull
        stream.write("", "{}")
        while durability.hub.can_give_up(stream):
            await asyncio.sleep(0.01)
        await durability.producer.hand_over(only_queued=True)
        assert await claimed(store) == [reading.stream_id]
        engine.release()
        assert (await other.final()).payload == "[DONE]"


async def test_what_was_stopped_before_the_store_was_known_to_be_away_is_handed_back_when_it_is_there_again(tmp_path: Path) -> None:
    """Its lease was kept, and nobody worked on it, until this server had ended."""
    engine, store = ScriptedEngine(queued), HinderedStore()
    async with running_replica(engine, store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        durability = replica.durability
        durability.takeover.is_draining = True
        reading, stream = await begin(durability, "k")
        store.error = StoreUnavailable
        assert durability.hub.can_give_up(stream), "the test is of a store that nobody has missed yet"
        with pytest.raises(StoreUnavailable):
            await durability.producer.hand_over(only_queued=True)
        store.error = None
        while not (found := await claimed(store)):
            await asyncio.sleep(0.01)
        assert found == [reading.stream_id]


async def test_what_waits_is_answered_here_where_the_store_is_away(tmp_path: Path) -> None:
    """Its work was stopped, and nobody else could know of it."""
    engine, store = ScriptedEngine(queued), HinderedStore()
    async with running_replica(engine, store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        durability = replica.durability
        store.error = StoreUnavailable
        reading = await durability.acceptance.accept(Arrival(ChatSurface("tiny_a", PictureLinks(store)), BODY, key="k"))
        durability.takeover.is_draining = True
        await durability.producer.hand_over(only_queued=True)
        engine.release()
        assert (await reading.final()).payload == "[DONE]"
