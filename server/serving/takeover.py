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

from server.access.keys import ANYONE
from server.errors import GenerationFailed, PlaitError, StoreAway
from server.messages import PreviewOutput, ProgressOutput
from server.metrics import Metrics
from server.metrics import Takeover as TakeoverPhase
from server.serving.canon import decode_outputs
from server.serving.generation import GenerationService, seeded
from server.serving.output_stream import Output
from server.serving.picture_links import PictureLinks
from server.serving.producing import Producer, Work
from server.serving.quotas import Account
from server.serving.spec import Spec
from server.serving.surfaces import Piece, Reply, Surface
from server.store.store import Claim, Store, StoreUnavailable
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream

logger = logging.getLogger(__name__)

MAX_DEATHS = 2
"""Owners that may die in a row over the same piece of work."""

RETURN_S = 10.0
"""For how long work taken over goes on without a reader, whatever its client said."""

NOT_UNDERSTOOD = "The server was changed while this answer was made, and cannot go on with it. Ask again."
FAILED = "The server failed when it tried to go on with this answer."

MAX_CLAIMS = 4
"""Streams prepared at once to go on, so that survivors share them."""


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
        self._in_touch_since: float | None = None
        self._going_on: set[asyncio.Task[None]] = set()
        self.is_draining = False

    async def run(self) -> None:
        """Beat and claim until cancelled. The heartbeat waits for nothing else: everything this replica has hangs on it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_beating())
                tasks.create_task(self._keep_claiming())
        finally:
            for task in self._going_on:
                task.cancel()
            await asyncio.gather(*self._going_on, return_exceptions=True)

    async def _keep_beating(self) -> None:
        while True:
            try:
                await self._beat()
            except StoreUnavailable as error:
                self._store_failed(error)
            await asyncio.sleep(self._pace.beat_s)

    async def _beat(self) -> None:
        cancelled = await self._store.heartbeat(self._owner, self._pace.lease_s)
        self._hub.store_answered()
        if self._in_touch_since is None:
            self._in_touch_since = time.monotonic()
        for stream_id in cancelled:
            self._hub.cancel_here(stream_id)

    async def _keep_claiming(self) -> None:
        while True:
            await asyncio.sleep(self._pace.beat_s)
            try:
                await self._claim()
            except StoreUnavailable as error:
                self._store_failed(error)

    async def _claim(self) -> None:
        """Take over as much as there is room to prepare beside what is being prepared."""
        room = MAX_CLAIMS - len(self._going_on)
        if self._in_touch_since is None or self.is_draining or not room or not self._can_work():
            return
        # After an absence of the store the others' leases look lapsed: they get the time to renew them.
        is_settled = time.monotonic() - self._in_touch_since >= self._pace.lease_s
        for claim in await self._store.claim(self._owner, room, only_given_up=not is_settled):
            task = asyncio.create_task(self._desk.go_on(claim))
            self._going_on.add(task)
            task.add_done_callback(self._going_on.discard)

    def _store_failed(self, error: StoreUnavailable) -> None:
        self._hub.store_failed(error)
        self._in_touch_since = None


@dataclass(frozen=True, slots=True)
class Continuing:
    """What takes a request from its spec to its engine."""

    service: GenerationService
    links: PictureLinks
    producer: Producer


@dataclass(frozen=True, slots=True)
class Resumed:
    """An answer to go on with: how it is written, and what engines have said of it."""

    reply: Reply
    past: Sequence[tuple[int, Output]]


class ClaimDesk:
    """Goes on with claimed work."""

    def __init__(self, continuing: Continuing, hub: StreamHub, surfaces: Sequence[Surface], metrics: Metrics) -> None:
        self._continuing = continuing
        self._hub = hub
        self._surfaces = {surface.name: surface for surface in surfaces}
        self._metrics = metrics

    async def go_on(self, claim: Claim) -> None:
        """Take up a stream where it ends; what cannot be taken up now is left to whoever can, and what nobody can take up ends."""
        stream = self._hub.adopt(claim)
        logger.info("going on with stream %s after event %d", claim.lease.stream_id, claim.last)
        # Whatever another version's words lead to here, the stream must not be kept with nobody at work on it.
        (opened,) = await asyncio.gather(asyncio.to_thread(self._open, claim), return_exceptions=True)
        if isinstance(opened, BaseException):
            logger.error("stream %s cannot be taken up: its request is not understood", claim.lease.stream_id, exc_info=opened)
            await self._leave_to_others(claim, stream, Piece("", is_final=True))
            return
        spec, reply = opened
        (past,) = await asyncio.gather(asyncio.to_thread(decode_outputs, claim.canon), return_exceptions=True)
        if isinstance(past, BaseException):
            logger.error("stream %s cannot be taken up: what was said of it is not understood", claim.lease.stream_id, exc_info=past)
            await self._leave_to_others(claim, stream, reply.failure(GenerationFailed(NOT_UNDERSTOOD, "server_error")))
            return
        (failure,) = await asyncio.gather(self._start(claim, stream, spec, Resumed(reply, past)), return_exceptions=True)
        if failure is not None:
            await self._see_to(failure, stream, spec, reply)

    def _open(self, claim: Claim) -> tuple[Spec, Reply]:
        spec = Spec.decode(claim.spec)
        return spec, self._surfaces[spec.surface].open(spec.body, spec.stamp(claim.lease.stream_id, claim.tenant))

    async def _start(self, claim: Claim, stream: OwnedStream, spec: Spec, resumed: Resumed) -> None:
        if claim.num_deaths >= MAX_DEATHS:
            self._metrics.quarantined.inc()
            raise GenerationFailed(f"{claim.num_deaths} engines in a row ended while they worked on this request.", "poison_request")
        reply, past = resumed.reply, resumed.past
        self._metrics.takeovers.labels(_phase(past).value).inc()
        ask = replace(reply.ask, deadline_s=spec.deadline_s)
        ask = ask if claim.tenant == ANYONE.name else ask.on_account(claim.tenant, spec.weight)
        try:
            ask = await self._continuing.links.resolved(ask, claim.tenant)
        except StoreUnavailable as error:
            raise StoreAway("pictures") from error
        arrived = time.monotonic() - (time.time() - spec.created)
        prepared = await self._continuing.service.prepare(seeded(ask, spec.seed), arrived)
        prepared = replace(prepared, traceparent=spec.traceparent)
        # Its tenant's quota was charged where it was accepted.
        account = Account(ANYONE, 0)
        self._continuing.producer.start(stream, Work(reply, prepared, account, _grace_s(spec), past, claim.last))
        if claim.is_cancelled:
            stream.cancelled.set()

    async def _see_to(self, failure: BaseException, stream: OwnedStream, spec: Spec, reply: Reply) -> None:
        """Leave a stream that could not be begun to another attempt, here or elsewhere, while one may help; else end it."""
        if isinstance(failure, PlaitError):
            if failure.is_retryable and _left_s(spec) > 0:
                await self._hub.give_up_in_the_end(stream, by_death=False)
            else:
                self._continuing.producer.end(stream, reply.failure(failure))
            return
        logger.error("stream %s could not be taken up", stream.lease.stream_id, exc_info=failure)
        self._continuing.producer.end(stream, reply.failure(GenerationFailed(FAILED, "server_error")))

    async def _leave_to_others(self, claim: Claim, stream: OwnedStream, ending: Piece) -> None:
        """Give up what this server does not understand; it ends when too many have not."""
        if claim.num_deaths < MAX_DEATHS:
            await self._hub.give_up_in_the_end(stream, by_death=True)
        else:
            self._continuing.producer.end(stream, ending)


def _left_s(spec: Spec) -> float:
    """Return how much of a request's time is left, in seconds; none or less when it is over."""
    return spec.created + spec.deadline_s - time.time()


def _grace_s(spec: Spec) -> float | None:
    """Give a client whose connection died with the last owner the time to come back."""
    return None if spec.grace_s is None else max(spec.grace_s, RETURN_S)


def _phase(past: Sequence[tuple[int, Output]]) -> TakeoverPhase:
    """Say what an answer was doing when its owner was lost."""
    if not past:
        return TakeoverPhase.QUEUED
    is_drawing = isinstance(past[-1][1], ProgressOutput | PreviewOutput)
    return TakeoverPhase.IMAGE if is_drawing else TakeoverPhase.TEXT
