"""Makes answers: one task for each stream runs the generation, writes its pieces, and sees that the stream ends with a final one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from server.errors import Cancelled, GenerationFailed, PlaitError
from server.serving.generation import Generation, GenerationService, Prepared
from server.serving.quotas import Account, Quotas
from server.serving.surfaces import Piece, Reply
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Linger:
    """For how many seconds an answer goes on without a reader; None: to its end."""

    grace_s: float | None


@dataclass(frozen=True, slots=True)
class Metered:
    """Answers under way, and the account they run on."""

    generation: Generation
    account: Account


class Producer:
    """Runs generations into streams."""

    def __init__(self, service: GenerationService, hub: StreamHub, quotas: Quotas) -> None:
        self._service = service
        self._quotas = quotas
        self._hub = hub
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, stream: OwnedStream, reply: Reply, prepared: Prepared, linger: Linger, account: Account) -> None:
        """Begin an answer; its first reader must have joined.

        Raises:
            EngineUnavailable: no engine is ready.
        """
        generation = self._service.begin(prepared)
        task = asyncio.create_task(self._produce(stream, reply, Metered(generation, account), linger))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _produce(self, stream: OwnedStream, reply: Reply, metered: Metered, linger: Linger) -> None:
        writing = asyncio.create_task(_write(stream, reply, metered))
        tasks: set[asyncio.Task[object]] = {writing, asyncio.create_task(stream.cancelled.wait())}
        if linger.grace_s is not None:
            tasks.add(asyncio.create_task(self._hub.abandoned(stream, linger.grace_s)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything else: the engine should hear of it within the step.
            metered.generation.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._quotas.settle(metered.account)
        _see_to_the_end(stream, reply, writing)
        await self._hub.release(stream)


async def _write(stream: OwnedStream, reply: Reply, metered: Metered) -> None:
    async for piece in reply.write(metered.account.watch(metered.generation.events())):
        _put(stream, piece)


def _put(stream: OwnedStream, piece: Piece) -> None:
    stream.write(piece.name, piece.payload, is_final=piece.is_final)


def _see_to_the_end(stream: OwnedStream, reply: Reply, writing: asyncio.Task[None]) -> None:
    """Write the final piece if the writer did not come to it."""
    if stream.is_ended or stream.is_lost:
        return
    error = None if writing.cancelled() else writing.exception()
    if isinstance(error, PlaitError):
        _put(stream, reply.failure(error))
    elif error is not None:
        logger.error("the answer of stream %s could not be written", stream.lease.stream_id, exc_info=error)
        _put(stream, reply.failure(GenerationFailed("The server failed while it wrote this answer.", "server_error")))
    else:
        _put(stream, reply.failure(Cancelled("The answer was cancelled, or nobody read it any more.")))
