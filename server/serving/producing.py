"""Makes answers: one task for each stream runs the generation, writes its pieces, and sees that the stream ends with a final one.

The task may begin in the middle: the pieces of the canon are written again, and those that the stream has already are left out. When the
engine dies under it, the stream is given up, for whoever claims it to go on: another replica, or this one with its next engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from server.errors import Cancelled, EngineUnavailable, GenerationFailed, PlaitError
from server.serving.events import PictureEvent
from server.serving.generation import Generation, GenerationService, Prepared, Tape
from server.serving.output_stream import Output
from server.serving.quotas import Account, Quotas
from server.serving.surfaces import Piece, Reply
from server.store.store import StoreUnavailable
from server.streams.hub import StreamHub
from server.streams.owned import OwnedStream

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """An answer to be made.

    Attributes:
        account: the part of its tenant's quota that it uses.
        grace_s: for how many seconds it goes on without a reader; None: to its end.
        past: what engines have said of it before.
        num_written: how many pieces its stream has.
    """

    reply: Reply
    prepared: Prepared
    account: Account
    grace_s: float | None
    past: Sequence[tuple[int, Output]] = ()
    num_written: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A task at work on a stream; ``reply`` says how the stream is ended, where it is not yet."""

    task: asyncio.Task[None]
    reply: Reply | None


class Producer:
    """Runs generations into streams."""

    def __init__(self, service: GenerationService, hub: StreamHub, quotas: Quotas) -> None:
        self._service = service
        self._quotas = quotas
        self._hub = hub
        self._jobs: dict[OwnedStream, Job] = {}

    def start(self, stream: OwnedStream, work: Work) -> None:
        """Begin an answer, or go on with one; its first reader, if there is one, must have joined.

        Raises:
            EngineUnavailable: no engine is ready.
        """
        # Nothing of a whole answer is seen before its end: what is measured is when its parts were ready.
        once_seen = _at_once if work.reply.is_whole else partial(self._hub.once_next_is_handed_on, stream)
        generation = self._service.begin(work.prepared, stream.lease, Tape(work.past, stream.note, once_seen))
        self._run(stream, self._produce(stream, work, generation), work.reply)

    async def hand_back(self, stream: OwnedStream, reply: Reply, error: EngineUnavailable) -> None:
        """Let others, or this server's next engine, claim a stream that could not be begun; where nobody can, it ends with the error."""
        if stream.is_durable:
            try:
                await self._hub.give_up([stream], by_death=False)
            except StoreUnavailable:
                logger.error("stream %s could not be handed back: the store is away", stream.lease.stream_id)
            else:
                return
        await self._fail(stream, reply, error)
        self._let_go(stream)

    def end(self, stream: OwnedStream, piece: Piece) -> None:
        """End a stream that nothing works on."""
        _put(stream, piece)
        self._let_go(stream)

    def _let_go(self, stream: OwnedStream) -> None:
        self._run(stream, self._hub.release(stream))

    def _run(self, stream: OwnedStream, work: Coroutine[None, None, None], reply: Reply | None = None) -> None:
        task = asyncio.create_task(work)
        self._jobs[stream] = Job(task, reply)
        task.add_done_callback(partial(self._forget, stream))

    def _forget(self, stream: OwnedStream, task: asyncio.Task[None]) -> None:
        if (job := self._jobs.get(stream)) is not None and job.task is task:
            del self._jobs[stream]

    async def hand_over(self, *, only_queued: bool) -> None:
        """Stop work and let others claim it: all of it, or what the engine has not begun and somebody else can.

        Raises:
            StoreUnavailable: others could not be told of all of it; of what had not begun they are as soon as the store answers again.
        """
        jobs = {
            stream: job for stream, job in self._jobs.items() if not only_queued or (not stream.has_canon and self._hub.can_give_up(stream))
        }
        for job in jobs.values():
            job.task.cancel()
        await asyncio.gather(*(job.task for job in jobs.values()), return_exceptions=True)
        try:
            await self._hub.give_up(list(jobs), by_death=False)
        except StoreUnavailable:
            for stream, job in jobs.items() if only_queued else ():
                if stream.is_ended or job.reply is None:
                    self._let_go(stream)
                elif not stream.is_lost:
                    self._run(stream, self._leave(stream, job.reply), job.reply)
            raise

    async def _leave(self, stream: OwnedStream, reply: Reply) -> None:
        """Let others claim an answer as soon as the store can tell them; it ends here where that cannot come any more."""
        if not await self._hub.give_up_in_the_end(stream, by_death=False):
            error = EngineUnavailable("The server is shutting down, and nobody else can go on with this answer. Try again shortly.")
            await self._fail(stream, reply, error)
            await self._hub.release(stream)

    async def _produce(self, stream: OwnedStream, work: Work, generation: Generation) -> None:
        writing = asyncio.create_task(_write(stream, work, generation))
        tasks: set[asyncio.Task[object]] = {writing, asyncio.create_task(stream.cancelled.wait())}
        if work.grace_s is not None:
            tasks.add(asyncio.create_task(self._hub.abandoned(stream, work.grace_s)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything else: the engine should hear of it within the step.
            generation.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._quotas.settle(work.account)
        if await self._is_given_up(stream, writing):
            return
        if not stream.is_ended and not stream.is_lost:
            await self._fail(stream, work.reply, _cause(stream, writing))
        await self._hub.release(stream)

    async def _fail(self, stream: OwnedStream, reply: Reply, error: PlaitError) -> None:
        """Write the final piece of an answer that has none; where nothing of it was seen and asking again helps, its key begins another."""
        if error.is_retryable and (reply.is_whole or not stream.has_canon):
            await self._hub.free_key(stream)
        if not stream.is_lost:
            _put(stream, reply.failure(error))

    async def _is_given_up(self, stream: OwnedStream, writing: asyncio.Task[None]) -> bool:
        """Give a stream up if its engine has died and somebody can claim it."""
        if writing.cancelled() or not isinstance(writing.exception(), EngineUnavailable) or not stream.is_durable:
            return False
        try:
            await self._hub.give_up([stream], by_death=True)
        except StoreUnavailable:
            return False
        return True


def _at_once(then: Callable[[], None]) -> None:
    then()


async def _write(stream: OwnedStream, work: Work, generation: Generation) -> None:
    """Write the answer into its stream, but for the pieces that are there already."""
    writer = work.reply.writer
    num_left_out = _put_new(stream, writer.begin(), work.num_written)
    events = await generation.repeated()
    while events or not generation.is_finished:
        for event in events:
            work.account.count(event)
            shown = await _kept(event, work.reply) if isinstance(event, PictureEvent) else event
            num_left_out = _put_new(stream, writer.take(shown), num_left_out)
        events = [] if generation.is_finished else await generation.next()
    _put_new(stream, writer.end(), num_left_out)


async def _kept(event: PictureEvent, reply: Reply) -> PictureEvent:
    return event if reply.kept is None else await reply.kept(event)


def _put_new(stream: OwnedStream, pieces: Iterable[Piece], num_left_out: int) -> int:
    """Write all but the first ``num_left_out`` pieces; return how many of the next ones are to be left out."""
    for piece in pieces:
        if num_left_out:
            num_left_out -= 1
        else:
            _put(stream, piece)
    return num_left_out


def _put(stream: OwnedStream, piece: Piece) -> None:
    stream.write(piece.name, piece.payload, is_final=piece.is_final)


def _cause(stream: OwnedStream, writing: asyncio.Task[None]) -> PlaitError:
    """Return why the writer did not come to the final piece."""
    error = None if writing.cancelled() else writing.exception()
    if isinstance(error, PlaitError):
        return error
    if error is not None:
        logger.error("the answer of stream %s could not be written", stream.lease.stream_id, exc_info=error)
        return GenerationFailed("The server failed while it wrote this answer.", "server_error")
    return Cancelled("The answer was cancelled, or nobody read it any more.")
