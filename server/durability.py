"""Wires what makes answers outlive their process: the store the settings name, the streams over it, and the heartbeat."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from server.metrics import Metrics
from server.serving.accepting import Acceptance, Patience
from server.serving.engine_client import EngineClient, EnginePhase
from server.serving.generation import GenerationService
from server.serving.picture_links import PictureLinks
from server.serving.producing import Producer
from server.serving.quotas import Quotas
from server.serving.shutdown import Farewell
from server.serving.surfaces import Surface
from server.serving.takeover import ClaimDesk, Continuing, LeasePace, Takeover
from server.settings import BadSettings, Settings
from server.store.memory import MemoryBounds, MemoryStore
from server.store.redis import RedisBounds, RedisStore
from server.store.store import Store
from server.streams.hub import StreamHub

BEATS_PER_LEASE = 8
"""Heartbeats in the time of one lease: a few may come late without harm, and given-up work is found soon."""


@dataclass(frozen=True, slots=True)
class Durability:
    """The parts; somebody must await `run`."""

    store: Store
    hub: StreamHub
    producer: Producer
    acceptance: Acceptance
    takeover: Takeover
    farewell: Farewell

    async def run(self) -> None:
        """Keep streams and heartbeat going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hub.run())
            tasks.create_task(self.takeover.run())


@dataclass(frozen=True, slots=True)
class Shared:
    """What the parts need of the rest of the server."""

    store: Store
    links: PictureLinks
    service: GenerationService
    engine: EngineClient
    metrics: Metrics


def build_durability(settings: Settings, shared: Shared, surfaces: Sequence[Surface]) -> Durability:
    """Make the parts and hand them to each other."""
    store, service, metrics = shared.store, shared.service, shared.metrics
    owner = uuid.uuid4().hex
    hub = StreamHub(store, owner, metrics)
    quotas = Quotas(store)
    producer = Producer(service, hub, quotas)
    acceptance = Acceptance(service, hub, producer, quotas, shared.links, _patience(settings))
    desk = ClaimDesk(Continuing(service, shared.links, producer), hub, surfaces, metrics)
    pace = LeasePace(settings.lease_s, settings.lease_s / BEATS_PER_LEASE)
    takeover = Takeover(store, hub, desk, owner, pace, lambda: shared.engine.status.phase is EnginePhase.READY)
    farewell = Farewell(takeover, producer, is_shared=settings.store is not None)
    return Durability(store, hub, producer, acceptance, takeover, farewell)


def open_store(settings: Settings) -> Store:
    """Return the store the settings name: one in this process, or Redis, which need not be there yet.

    Raises:
        BadSettings: the store's address is malformed; it is not shown, since it may hold a password.
    """
    if settings.store is None:
        return MemoryStore(MemoryBounds(ttl_s=settings.stream_ttl_s))
    try:
        return RedisStore(settings.store.get_secret_value(), settings.store_prefix, RedisBounds(settings.stream_ttl_s))
    except ValueError as error:
        raise BadSettings("store: not the address of a Redis; expected redis://host:6379/0, rediss://host:6379/0 or unix://path") from error


def _patience(settings: Settings) -> Patience:
    """Where a store is shared, every client can come back, to any server, and is given the time for it."""
    by_default_s = 0.0 if settings.store is None else settings.resume_grace_s
    return Patience(settings.resume_grace_s, by_default_s, settings.longest_answer_s)
