"""What a replica that leaves hands back of what no engine has begun, and what it goes on with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.api.chat_surface import ChatSurface
from server.messages import Request
from server.serving.accepting import Arrival
from server.serving.picture_links import PictureLinks
from server.store.memory import MemoryStore
from server.store.store import AlreadyOpen, Append, AppendResult, Opened, Opening, StoreFull, StoreUnavailable
from tests.server.api.chats import hello, user
from tests.server.scripted_engine import Output, ScriptedEngine
from tests.server.serving.replica import running_replica

WAIT_S = 10.0
BODY = json.dumps({"model": "tiny_a", "messages": [user("hi")], "stream": True}).encode()


class HinderedStore(MemoryStore):
    """Answers every write with ``error``, where there is one."""

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

    def _refuse(self) -> None:
        if self.error is not None:
            raise self.error


def queued(request: Request) -> list[list[Output]]:
    """Nothing is said before the engine is released."""
    return [[], *hello(request)]


@pytest.mark.parametrize("error", [None, StoreFull])
async def test_what_waits_is_handed_back_where_the_store_has_all_of_it(tmp_path: Path, error: type[StoreUnavailable] | None) -> None:
    engine, store = ScriptedEngine(queued), HinderedStore()
    async with running_replica(engine, store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        durability = replica.durability
        reading = await durability.acceptance.accept(Arrival(ChatSurface("tiny_a", PictureLinks(store)), BODY, key="k"))
        assert await reading.next(), "the store has what is written before the engine says anything"
        store.error = error
        durability.takeover.is_draining = True
        await durability.producer.hand_over(only_queued=True)
        (claim,) = await store.claim("other", 8, only_given_up=True)
        assert claim.lease.stream_id == reading.stream_id
        assert durability.hub.owned_stream(reading.stream_id) is None


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
