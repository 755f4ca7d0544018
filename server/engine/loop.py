"""The engine loop: take in messages, schedule, execute, commit, report; once round is one step.

A step that raises is run again in halves until the sequence that breaks it stands alone; that one fails, the others go on as if
nothing had happened (the runner changes no state in a step that raised).
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

from server.engine.batch import Batch, BatchResult
from server.engine.link import Incoming, Link
from server.engine.pages import PagePool
from server.engine.phases import PhaseWatch
from server.engine.scheduler import Scheduler
from server.messages import Abort, Request, Shutdown, StepReport, StepStats

logger = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
"""How long an idle engine waits for a message before it looks again whether it should stop."""


class Executor(Protocol):
    """What the loop needs of a runner."""

    def execute(self, batch: Batch) -> BatchResult: ...

    def forget(self, sequence_ids: list[int]) -> None: ...


class Engine:
    """One scheduler, one runner, one link."""

    def __init__(self, scheduler: Scheduler, runner: Executor, pool: PagePool, link: Link) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._pool = pool
        self._link = link
        self._num_steps = 0
        self._phases = PhaseWatch(time.perf_counter)

    def run(self) -> None:
        """Serve until told to shut down."""
        while self._take_in(self._link.receive(0.0 if self._scheduler.has_work else IDLE_WAIT_S)):
            self.step()

    def submit(self, message: Incoming) -> None:
        """Take in one message, as `run` does."""
        self._take_in([message])

    def _take_in(self, messages: list[Incoming]) -> bool:
        for message in messages:
            match message:
                case Request():
                    self._phases.arrived(message.request_id)
                    self._scheduler.submit(message)
                case Abort():
                    self._scheduler.abort(message.request_id)
                case Shutdown():
                    return False
        return True

    def step(self) -> StepReport | None:
        """Run one step and report it; None when there was nothing to do and nothing to say."""
        started = time.perf_counter()
        batch = self._scheduler.schedule()
        self._phases.look(self._scheduler.running)
        result = BatchResult()
        if not batch.is_empty:
            self._num_steps += 1
            result = self._execute(batch)
            self._scheduler.commit(batch, result)
        self._runner.forget(self._scheduler.take_dropped())
        outputs = self._scheduler.take_outputs()
        timelines = self._phases.after_step(outputs.images, outputs.finished, self._scheduler.running, result.vae_s)
        if batch.is_empty and not outputs.finished:
            return None
        stats = self._stats(batch, result, time.perf_counter() - started)
        report = StepReport(
            outputs.tokens, outputs.closed, outputs.progress, outputs.images, outputs.finished, stats, timelines, outputs.previews
        )
        self._link.send(report)
        return report

    def _execute(self, batch: Batch) -> BatchResult:
        """Execute ``batch``; on an error, its halves, down to the sequence at fault."""
        try:
            return self._runner.execute(batch)
        except Exception:
            sequence_ids = batch.sequence_ids()
            if len(sequence_ids) == 1:
                logger.exception("a step failed for one request; it is ended, the others go on")
                self._scheduler.fail(sequence_ids, "server_error", "the model failed on this request")
                return BatchResult()
        result = BatchResult()
        middle = len(sequence_ids) // 2
        for half in (sequence_ids[:middle], sequence_ids[middle:]):
            part = self._execute(batch.restricted_to(set(half)))
            result.tokens.update(part.tokens)
            result.pictures.update(part.pictures)
            result.previews += part.previews
            result.num_und_tokens += part.num_und_tokens
            result.num_gen_tokens += part.num_gen_tokens
            result.forward_s += part.forward_s
            result.vae_s += part.vae_s
        return result

    def _stats(self, batch: Batch, result: BatchResult, step_s: float) -> StepStats:
        num_rows = sum(len(step.rows) for step in batch.denoises)
        return StepStats(
            step=self._num_steps,
            step_s=step_s,
            forward_s=result.forward_s,
            num_decode_rows=len(batch.decodes),
            num_prefill_tokens=sum(piece.num_rows for row in batch.prefills for piece in row.pieces),
            num_denoise_rows=num_rows,
            num_branches_elided=NUM_GUIDANCE_BRANCHES * len(batch.denoises) - num_rows,
            num_gen_tokens=result.num_gen_tokens,
            running_text=self._scheduler.num_running(drawing=False),
            running_image=self._scheduler.num_running(drawing=True),
            waiting=self._scheduler.num_waiting,
            pages_used=self._pool.num_used,
            pages_total=self._pool.num_pages,
            num_preemptions=self._scheduler.num_preemptions,
            vae_s=result.vae_s,
        )


NUM_GUIDANCE_BRANCHES = 3
"""What an image step costs without elision: full, text-dropped, image-dropped."""
