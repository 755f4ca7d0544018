"""One replica without its HTTP, over a scripted engine, a store and a way to fetch pictures that the test chooses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from server.api.chat_surface import ChatSurface
from server.durability import Durability, Shared, build_durability
from server.metrics import Metrics
from server.serving.engine_client import EngineClient, EnginePhase, RestartPolicy
from server.serving.generation import GenerationService
from server.serving.grammar_writers import GrammarWriters
from server.serving.picture_files import PictureLimits
from server.serving.picture_intake import Fetch, PictureIntake
from server.serving.picture_links import PictureLinks
from server.serving.picture_readers import PictureReaders
from server.serving.prepare import Preparer, PromptLimits
from server.serving.room import Room
from server.serving.spec import Spec
from server.settings import Settings
from server.store.store import Append, Lease, Opening, Store, StoredEvent, StreamStore
from server.tracing import Tracing
from tests.server.running_front import golden_model
from tests.server.scripted_engine import ScriptedEngine

LEASE_S = 0.4
FORMER = "former"
"""Who had what a replica takes over."""


@dataclass(frozen=True, slots=True)
class Replica:
    durability: Durability

    async def answer(self, stream_id: str) -> list[StoredEvent]:
        """Return the events of a stream once it has ended."""
        return [event async for event in self.durability.hub.read(stream_id, 0)]


@asynccontextmanager
async def running_replica(engine: ScriptedEngine, store: Store, directory: Path, fetch: Fetch | None = None) -> AsyncIterator[Replica]:
    """Run a replica until the block ends; fail when it ends before."""
    settings, model, metrics = Settings(lease_s=LEASE_S), golden_model(), Metrics()
    client = EngineClient(engine.launch, directory, metrics.observe_step, RestartPolicy())
    pictures = PictureIntake(PictureReaders(model.config, PictureLimits()), fetch)
    preparer, links = Preparer(model, PromptLimits(), pictures, GrammarWriters()), PictureLinks(store)
    service = GenerationService(model, preparer, client, metrics, Tracing(), Room(client, settings.max_in_flight))
    durability = build_durability(settings, Shared(store, links, service, client, metrics), [ChatSurface(model.name, links)])
    running = [asyncio.create_task(client.run()), asyncio.create_task(durability.run())]
    while client.status.phase is not EnginePhase.READY:
        await client.status_change()
    try:
        yield Replica(durability)
        assert not any(task.done() for task in running), "the replica ended by itself"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        preparer.close()


async def given_up(store: StreamStore, stream_id: str, body: bytes, *canon: bytes, deadline_s: float = 60.0) -> None:
    """Leave a request in the store that its owner gave up."""
    spec = Spec("chat", body, created=int(time.time()), seed=1, base_url="", weight=1.0, deadline_s=deadline_s, grace_s=None)
    await store.open(Opening(stream_id, "tenant", spec.encode()), FORMER)
    lease = Lease(stream_id, FORMER, 1)
    await store.append([Append(lease, [], canon)])
    await store.give_up([lease], by_death=False)
