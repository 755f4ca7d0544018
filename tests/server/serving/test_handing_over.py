"""What a replica that leaves hands back of what no engine has begun, and what it goes on with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.api.chat_surface import ChatSurface
from server.durability import Durability
from server.messages import Request
from server.serving.accepting import Arrival
from server.serving.picture_links import PictureLinks
from server.serving.reading import Reading
from server.store.memory import MemoryStore
from server.store.store import AlreadyOpen, Append, AppendResult, Lease, Opened, Opening, StoreFull, StoreUnavailable
from server.streams.owned import OwnedStream
from tests.server.api.chats import hello, user
from tests.server.scripted_engine import Output, ScriptedEngine
from tests.server.serving.replica import running_replica

pytestmark = pytest.mark.timeout(60)
BODY = json.dumps({"model": "tiny_a", "messages": [user("hi")], "stream": True}).encode()


class HinderedStore(MemoryStore):
    """Answers with ``error``, where there is one: what would fill it, or everything where that is its absence."""

    def __init__(self) -> None:
        super().__init__()
        self.error: type[StoreUnavailable] | None = None

    def come_back_empty(self) -> None:
        """Answer again, as a server that kept nothing on a disk does after its end."""
        self.__init__()  # type: ignore[misc]

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


@dataclass(frozen=True, slots=True)
class Leaving:
    """A replica that takes up nothing more."""

    engine: ScriptedEngine
    store: HinderedStore
    durability: Durability


@pytest.fixture
async def leaving(tmp_path: Path) -> AsyncIterator[Leaving]:
    engine, store = ScriptedEngine(queued), HinderedStore()
    async with running_replica(engine, store, tmp_path) as replica:
        replica.durability.takeover.is_draining = True
        yield Leaving(engine, store, replica.durability)


async def ask(durability: Durability, key: str) -> Reading:
    return await durability.acceptance.accept(Arrival(ChatSurface("tiny_a", PictureLinks(durability.store)), BODY, key=key))


async def begin(durability: Durability, key: str) -> tuple[Reading, OwnedStream]:
    """Ask, until the store has what is written before the engine says anything."""
    reading = await ask(durability, key)
    assert await reading.next()
    stream = durability.hub.owned_stream(reading.stream_id)
    assert stream is not None
    return reading, stream


async def claimed(store: HinderedStore) -> list[str]:
    """Return the streams that another replica takes up."""
    return [claim.lease.stream_id for claim in await store.claim("other", 8, only_given_up=True)]


async def test_what_waits_is_handed_back(leaving: Leaving) -> None:
    reading, _ = await begin(leaving.durability, "k")
    await leaving.durability.producer.hand_over(only_queued=True)
    assert await claimed(leaving.store) == [reading.stream_id]
    assert leaving.durability.hub.owned_stream(reading.stream_id) is None


async def test_what_a_full_store_lacks_something_of_is_answered_here_and_the_rest_handed_back(leaving: Leaving) -> None:
    reading, _ = await begin(leaving.durability, "whole")
    other, stream = await begin(leaving.durability, "not whole")
    leaving.store.error = StoreFull
    stream.write("", "{}")
    while leaving.durability.hub.can_give_up(stream):
        await asyncio.sleep(0.01)
    await leaving.durability.producer.hand_over(only_queued=True)
    assert await claimed(leaving.store) == [reading.stream_id]
    leaving.engine.release()
    assert (await other.final()).payload == "[DONE]"


async def test_what_was_stopped_before_the_store_was_known_to_be_away_is_handed_back_when_it_is_there_again(leaving: Leaving) -> None:
    """Its lease was kept, and nobody worked on it, until this server had ended."""
    reading, stream = await begin(leaving.durability, "k")
    leaving.store.error = StoreUnavailable
    assert leaving.durability.hub.can_give_up(stream), "the test is of a store that nobody has missed yet"
    with pytest.raises(StoreUnavailable):
        await leaving.durability.producer.hand_over(only_queued=True)
    leaving.store.error = None
    while not (found := await claimed(leaving.store)):
        await asyncio.sleep(0.01)
    assert found == [reading.stream_id]


async def test_what_a_store_forgot_while_it_was_away_ends_here(leaving: Leaving) -> None:
    """Nobody can claim it any more, and its reader waited for ever."""
    reading, stream = await begin(leaving.durability, "k")
    leaving.store.error = StoreUnavailable
    stream.write("", "{}")
    with pytest.raises(StoreUnavailable):
        await leaving.durability.producer.hand_over(only_queued=True)
    leaving.store.come_back_empty()
    ending = await reading.final()
    assert "shutting down" in ending.payload


async def test_what_waits_is_answered_here_where_the_store_is_away(leaving: Leaving) -> None:
    """Its work was stopped, and nobody else could know of it."""
    leaving.store.error = StoreUnavailable
    reading = await ask(leaving.durability, "k")
    await leaving.durability.producer.hand_over(only_queued=True)
    leaving.engine.release()
    assert (await reading.final()).payload == "[DONE]"
