"""Requests accepted, resumed, cancelled and deleted: every answer is a stream that goes on whoever reads it.

`Acceptance.accept` checks a body, opens a stream and starts the work; readers come and go by the stream's id, here or on any replica
that shares the store. What nobody reads is given up after a grace period, which is nothing unless the client can come back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace

from server.access.keys import ANYONE, Tenant
from server.errors import DeadlineExceeded, EngineUnavailable, IdempotencyConflict, Overloaded, StoreAway, StreamNotFound
from server.metrics import Resume
from server.serving.asks import Ask
from server.serving.generation import GenerationService, Prepared, seeded
from server.serving.picture_links import PictureLinks
from server.serving.producing import Producer, Work
from server.serving.quotas import Account, Quotas
from server.serving.reading import Reading, not_found
from server.serving.spec import Spec
from server.serving.surfaces import Reply, Stamp, Surface
from server.store.store import AlreadyOpen, KeyUse, Opening, StoredEvent, StoreFull, StoreUnavailable
from server.streams.hub import StreamGone, StreamHub

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in.

    Attributes:
        surface: the wire format it is in.
        tenant: whose it is; nobody else can read or cancel it.
        base_url: how its client reached this server.
        key: the client's idempotency key.
        is_resumable: the client says that it comes back for an answer it lost sight of.
        is_background: the answer is made whether or not anybody reads it.
        deadline_s: how long the client waits for its end; None leaves it to the server.
        arrived: when its first bytes were here, by the monotonic clock.
    """

    surface: Surface
    body: bytes
    tenant: Tenant = ANYONE
    base_url: str = ""
    key: str | None = None
    is_resumable: bool = False
    is_background: bool = False
    deadline_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer may take, in seconds.

    Attributes:
        resumable_s: without a reader, where the client can come back.
        by_default_s: without a reader, where it says nothing about that.
        longest_s: from its arrival to its end, whatever the client would wait.
    """

    resumable_s: float
    by_default_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class _Entry:
    """A request that was read. ``use``: of its idempotency key, where it has one."""

    arrival: Arrival
    stamp: Stamp
    reply: Reply
    use: KeyUse | None


class Acceptance:
    """Accepts requests of any surface and gives readers their streams."""

    def __init__(
        self, service: GenerationService, hub: StreamHub, producer: Producer, quotas: Quotas, links: PictureLinks, patience: Patience
    ) -> None:
        self._service = service
        self._links = links
        self._quotas = quotas
        self._hub = hub
        self._producer = producer
        self._patience = patience
        self._beginnings: set[asyncio.Task[Reading]] = set()

    async def accept(self, arrival: Arrival) -> Reading:
        """Begin an answer, or join the one that the same idempotency key began.

        Raises:
            InvalidRequest: it cannot be done.
            EngineUnavailable, Overloaded, QuotaExceeded: not now.
            DeadlineExceeded: its time was over before the engine had it.
            IdempotencyConflict: the key belongs to another request.
        """
        surface = arrival.surface
        stamp = Stamp(
            f"{surface.id_prefix}{uuid.uuid4().hex}", int(time.time()), secrets.randbits(63), arrival.tenant.name, arrival.base_url
        )
        reply = await asyncio.to_thread(surface.open, arrival.body, stamp)
        entry = _Entry(arrival, stamp, reply, _use(arrival))
        joined = await self._joined(entry)
        if joined is not None:
            return joined
        ask = self._on_account(reply.ask, arrival)
        account = self._quotas.enter(arrival.tenant, ask.n)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._quotas.settle, account)
            with ExitStack() as place:
                place.enter_context(self._service.place(ask))
                await self._quotas.charge_request(account)
                prepared = await self._prepared(ask, entry)
                beginning = self._begin(entry, prepared, account, place.pop_all())
            undo.pop_all()
            return await self._whole(beginning)

    async def num_prompt_tokens(self, ask: Ask, tenant: Tenant) -> int:
        """Return how many tokens the prompt of an ask of ``tenant`` has; nothing is begun, but it is a request of the tenant's like others.

        Raises:
            InvalidRequest: it cannot be read.
            Overloaded, QuotaExceeded: not now.
            StoreAway
        """
        account = self._quotas.enter(tenant, 1)
        try:
            with self._service.place(ask):
                await self._quotas.charge_request(account)
                return await self._service.num_prompt_tokens(await self._links.resolved(ask, tenant.name))
        except StoreUnavailable as error:
            raise StoreAway from error
        finally:
            await self._quotas.settle(account)

    async def _whole(self, beginning: Coroutine[None, None, Reading]) -> Reading:
        """Await a beginning, which is not left in the middle when the client goes: what the store knows of must be worked on."""
        task = asyncio.create_task(beginning)
        self._beginnings.add(task)
        task.add_done_callback(self._beginnings.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_leave)
            raise

    async def _joined(self, entry: _Entry) -> Reading | None:
        """Return a reading of the answer that the request's idempotency key began; None where it began none."""
        stream = None if entry.use is None else await self._hub.used(entry.use)
        return None if stream is None else self._join(stream, entry)

    async def _prepared(self, ask: Ask, entry: _Entry) -> Prepared:
        """Prepare an ask, with the pictures it names by address, within its client's time."""
        arrived, deadline_s = entry.arrival.arrived, self._deadline_s(entry.arrival)
        limit = asyncio.timeout(arrived + deadline_s - time.monotonic())
        try:
            async with limit:
                ask = await self._links.resolved(ask, entry.arrival.tenant.name)
                return await self._service.prepare(seeded(ask, entry.stamp.seed), arrived)
        except StoreUnavailable as error:
            raise StoreAway from error
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceeded(f"The request was still being prepared after {deadline_s:g} s, all the time it had.") from error

    async def _begin(self, entry: _Entry, prepared: Prepared, account: Account, place: ExitStack) -> Reading:
        """Begin an answer, whose place is held until the engine counts it."""
        with place:
            async with AsyncExitStack() as undo:
                undo.push_async_callback(self._quotas.settle, account)
                await self._quotas.charge(account, prepared.plan)
                grace_s = self._grace_s(entry.arrival, is_whole=entry.reply.is_whole)
                reading = await self._open(entry, Work(entry.reply, prepared, account, grace_s))
                if reading.account is account:
                    undo.pop_all()
                return reading

    async def _open(self, entry: _Entry, work: Work) -> Reading:
        arrival, stamp = entry.arrival, entry.stamp
        spec = Spec(
            surface=arrival.surface.name,
            body=arrival.body,
            created=stamp.created,
            seed=stamp.seed,
            base_url=arrival.base_url,
            weight=arrival.tenant.weight,
            deadline_s=self._deadline_s(arrival),
            grace_s=work.grace_s,
            traceparent=work.prepared.traceparent,
        )
        opening = Opening(stamp.stream_id, arrival.tenant.name, spec.encode(), entry.use)
        try:
            stream = await self._hub.open(opening)
        except StoreFull as error:
            raise Overloaded("The server keeps as many answers as it can hold. Try again shortly.") from error
        if isinstance(stream, AlreadyOpen):
            return self._join(stream, entry)
        reading = Reading(self._hub, stamp.stream_id, 0, is_whole=entry.reply.is_whole)
        reading.is_first = True
        try:
            self._producer.start(stream, work)
        except EngineUnavailable as error:
            await self._producer.hand_back(stream, work.reply, error)
        else:
            reading.account = work.account
        return reading

    def _join(self, stream: AlreadyOpen, entry: _Entry) -> Reading:
        if entry.use is None or stream.fingerprint != entry.use.fingerprint:
            raise IdempotencyConflict("This Idempotency-Key was used for another request. Send a new key with a new request.")
        self._hub.metrics.idempotency_hits.inc()
        return Reading(self._hub, stream.stream_id, 0, is_whole=entry.reply.is_whole)

    async def resume(self, stream_id: str, after: int, tenant: str) -> Reading:
        """Read a stream from the event after ``after``.

        Raises:
            StreamNotFound: there is none, or it is somebody else's.
            StoreAway: only the store could tell.
        """
        try:
            await self._check(stream_id, tenant)
        except StreamNotFound:
            self._hub.metrics.resumes.labels(Resume.UNKNOWN.value).inc()
            raise
        is_live = self._hub.owned_stream(stream_id) is not None
        self._hub.metrics.resumes.labels((Resume.FOLLOWED if is_live else Resume.REPLAYED).value).inc()
        return Reading(self._hub, stream_id, after)

    async def ending(self, stream_id: str, tenant: str) -> StoredEvent | None:
        """Return the final event of a stream; None while it has none.

        Raises:
            StreamNotFound, StoreAway: see `resume`.
        """
        await self._check(stream_id, tenant)
        try:
            return await self._hub.ending(stream_id)
        except StreamGone as error:
            raise not_found(stream_id) from error
        except StoreUnavailable as error:
            raise StoreAway from error

    async def cancel(self, stream_id: str, tenant: str) -> None:
        """End a stream, here or wherever it is worked on.

        Raises:
            StreamNotFound, StoreAway: see `resume`.
        """
        await self._check(stream_id, tenant)
        try:
            await self._hub.cancel(stream_id)
        except StoreUnavailable as error:
            raise StoreAway from error

    async def delete(self, stream_id: str, tenant: str) -> None:
        """Forget a stream; one that is under way is ended first.

        Raises:
            StreamNotFound, StoreAway: see `resume`.
        """
        await self.cancel(stream_id, tenant)
        reading = Reading(self._hub, stream_id, 0)
        try:
            await reading.final()
            await self._hub.delete(stream_id)
        except StoreUnavailable as error:
            raise StoreAway from error
        finally:
            reading.close()

    async def _check(self, stream_id: str, tenant: str) -> None:
        """See that a stream exists and belongs to ``tenant``."""
        try:
            owner = await self._hub.tenant(stream_id)
        except StoreUnavailable as error:
            raise StoreAway from error
        if owner != tenant:
            raise not_found(stream_id)

    def _on_account(self, ask: Ask, arrival: Arrival) -> Ask:
        """Put an ask on its tenant's account, and bound its time. Where nobody has a key, whom the client names is believed."""
        timed = replace(ask, deadline_s=self._deadline_s(arrival))
        return timed if arrival.tenant is ANYONE else timed.on_account(arrival.tenant.name, arrival.tenant.weight)

    def _deadline_s(self, arrival: Arrival) -> float:
        longest_s = self._patience.longest_s
        return longest_s if arrival.deadline_s is None else min(longest_s, arrival.deadline_s)

    def _grace_s(self, arrival: Arrival, *, is_whole: bool) -> float | None:
        if arrival.is_background:
            return None
        if arrival.is_resumable or arrival.key is not None:
            return self._patience.resumable_s
        return 0.0 if is_whole else self._patience.by_default_s


def _leave(beginning: asyncio.Task[Reading]) -> None:
    """Close the reading of a client that went before it had it."""
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().close()


def _use(arrival: Arrival) -> KeyUse | None:
    if arrival.key is None:
        return None
    digest = hashlib.sha256(arrival.surface.name.encode() + b"\0" + arrival.body).hexdigest()
    return KeyUse(arrival.tenant.name, arrival.key, digest)
