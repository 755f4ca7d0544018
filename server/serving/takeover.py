"""Keeps this replica's claim on its work alive, and takes over the work of those that let theirs lapse.

One heartbeat holds everything an owner has. What its owner gave up, or died with, is claimed under a higher fence and goes on from the
canon. Work under which two owners died in a row, without getting any further in between, is ended with that as its cause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from server.access.keys import ANYONE
from server.errors import EngineUnavailable, GenerationFailed, PlaitError
from server.messages import PreviewOutput, ProgressOutput
from server.metrics import Metrics
from server.metrics import Takeover as TakeoverPhase
from server.serving.canon import decode_outputs
from server.serving.generation import GenerationService, seeded
from server.serving.output_stream import Output
from server.serving.picture_links import PictureLinks
from server.serving.producing import Producer, Work
from server.serving.quotas import Account, Use
from server.serving.spec import Spec
from server.serving.surfaces import Reply, Surface
from server.store.store import Claim, Store, StoreUnavailable
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream

logger = logging.getLogger(__name__)

MAX_DEATHS = 2
"""Owners that may die in a row over the same piece of work."""

RETURN_S = 10.0
"""For how long work taken over goes on without a reader, whatever its client said."""

MAX_CLAIMS = 4
"""Streams taken over at once, so that survivors share them."""


@dataclass(frozen=True, slots=True)
class LeasePace:
    """How long a lease holds without a heartbeat, and how often one is sent and others' work is looked for; in seconds."""

    lease_s: float
    beat_s: float


class Takeover:
    """The heartbeat of one replica, called ``owner``; ``can_work`` says whether it could take on more."""

    def __init__(self, store: Store, hub: StreamHub, desk: ClaimDesk, owner: str, pace: LeasePace, can_work: Callable[[], bool]) -> None:
        self._store = store
        self._hub = hub
        self._desk = desk
        self._owner = owner
        self._pace = pace
        self._can_work = can_work
        self._in_touch_since = time.monotonic()
        self.is_draining = False

    async def run(self) -> None:
        """Beat and claim until cancelled."""
        while True:
            try:
                await self._beat()
            except StoreUnavailable:
                self._hub.store_failed()
                self._in_touch_since = time.monotonic() + self._pace.beat_s
            await asyncio.sleep(self._pace.beat_s)

    async def _beat(self) -> None:
        for stream_id in await self._store.heartbeat(self._owner, self._pace.lease_s):
            self._hub.cancel_here(stream_id)
        # After an absence of the store the others' leases look lapsed: they get the time to renew them.
        is_settled = time.monotonic() - self._in_touch_since >= self._pace.lease_s
        if self._can_work() and not self.is_draining:
            for claim in await self._store.claim(self._owner, MAX_CLAIMS, only_given_up=not is_settled):
                await self._desk.go_on(claim)


@dataclass(frozen=True, slots=True)
class Continuing:
    """What takes a request from its spec to its engine."""

    service: GenerationService
    links: PictureLinks
    producer: Producer


class ClaimDesk:
    """Goes on with claimed work."""

    def __init__(self, continuing: Continuing, hub: StreamHub, surfaces: Sequence[Surface], metrics: Metrics) -> None:
        self._continuing = continuing
        self._hub = hub
        self._surfaces = {surface.name: surface for surface in surfaces}
        self._metrics = metrics

    async def go_on(self, claim: Claim) -> None:
        """Take up a stream where it ends."""
        stream = self._hub.adopt(claim)
        logger.info("going on with stream %s after event %d", claim.lease.stream_id, claim.last)
        try:
            spec = Spec.decode(claim.spec)
            reply = self._surfaces[spec.surface].open(spec.body, spec.stamp(claim.lease.stream_id, claim.tenant))
        except (msgspec.DecodeError, KeyError, PlaitError):
            logger.exception("stream %s cannot be taken up: this server does not understand its request", claim.lease.stream_id)
            await self._leave_to_others(claim, stream)
            return
        try:
            await self._start(claim, stream, spec, reply)
        except EngineUnavailable:
            await self._hub.give_up([stream], by_death=False)
        except PlaitError as error:
            await self._end(stream, reply, error)

    async def _start(self, claim: Claim, stream: OwnedStream, spec: Spec, reply: Reply) -> None:
        if claim.num_deaths >= MAX_DEATHS:
            self._metrics.quarantined.inc()
            raise GenerationFailed(f"{claim.num_deaths} engines in a row ended while they worked on this request.", "poison_request")
        past = decode_outputs(claim.canon)
        self._metrics.takeovers.labels(_phase(past).value).inc()
        ask = replace(reply.ask, deadline_s=spec.deadline_s)
        ask = ask if claim.tenant == ANYONE.name else ask.on_account(claim.tenant, spec.weight)
        ask = await self._continuing.links.resolved(ask, claim.tenant)
        arrived = time.monotonic() - (time.time() - spec.created)
        prepared = await self._continuing.service.prepare(seeded(ask, spec.seed), arrived)
        prepared = replace(prepared, traceparent=spec.traceparent)
        # Its tenant's quota was charged where it was accepted.
        account = Account(ANYONE, 0, Use())
        self._continuing.producer.start(stream, Work(reply, prepared, account, _grace_s(spec), past, claim.last))
        if claim.is_cancelled:
            stream.cancelled.set()

    async def _leave_to_others(self, claim: Claim, stream: OwnedStream) -> None:
        """Give up what this server does not understand; it ends when too many have not."""
        if claim.num_deaths < MAX_DEATHS:
            await self._hub.give_up([stream], by_death=True)
            return
        stream.write("", "", is_final=True)
        await self._hub.release(stream)

    async def _end(self, stream: OwnedStream, reply: Reply, error: PlaitError) -> None:
        piece = reply.failure(error)
        stream.write(piece.name, piece.payload, is_final=True)
        await self._hub.release(stream)


def _grace_s(spec: Spec) -> float | None:
    """Give a client whose connection died with the last owner the time to come back."""
    return None if spec.grace_s is None else max(spec.grace_s, RETURN_S)


def _phase(past: Sequence[tuple[int, Output]]) -> TakeoverPhase:
    """Say what an answer was doing when its owner was lost."""
    if not past:
        return TakeoverPhase.QUEUED
    is_drawing = isinstance(past[-1][1], ProgressOutput | PreviewOutput)
    return TakeoverPhase.IMAGE if is_drawing else TakeoverPhase.TEXT
