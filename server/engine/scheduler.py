"""The scheduler: which rows share the next step, and what the last step's results mean for each sequence.

Each step takes every decode row first, then whole images and prompt chunks, the longest unserved first, until the token budget is
used. Pure Python: `schedule` makes a `Batch`, the runner executes it, `commit` takes in the result. Contexts advance when a row is
scheduled, so that a failed step needs no undoing: its sequences are dropped whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from server.engine.batch import Batch, BatchResult, DecodeRow, DenoiseRow, DenoiseStep, NewImage, PaintedPreview
from server.engine.chunks import take_chunk
from server.engine.context import Context
from server.engine.grammar import NO_GRAMMARS, Grammars
from server.engine.guidance import Branch, active_branches
from server.engine.options import ModelFacts, SchedulerLimits
from server.engine.pages import OutOfPages, PagePool
from server.engine.preview_steps import preview_after, preview_steps
from server.engine.segments import NUM_MARKERS, total_rows
from server.engine.sequence import AfterFill, Fill, Phase, Sequence
from server.engine.turns import Refeed, TurnEnd, Turns
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageOutput,
    PreviewOutput,
    ProgressOutput,
    Request,
    TextClosed,
    TokenOutput,
)


@dataclass(slots=True)
class Outputs:
    """What a step means to the outside; see `StepReport` for the order."""

    tokens: list[TokenOutput] = field(default_factory=list)
    closed: list[TextClosed] = field(default_factory=list)
    progress: list[ProgressOutput] = field(default_factory=list)
    previews: list[PreviewOutput] = field(default_factory=list)
    images: list[ImageOutput] = field(default_factory=list)
    finished: list[FinishedOutput] = field(default_factory=list)


class Scheduler:
    """Owns every sequence and every page."""

    def __init__(
        self, pool: PagePool, facts: ModelFacts, limits: SchedulerLimits, refeed: Refeed, grammars: Grammars = NO_GRAMMARS
    ) -> None:
        self._pool = pool
        self._facts = facts
        self._limits = limits
        self._turns = Turns(facts, refeed, grammars)
        self._waiting: list[Sequence] = []
        self._running: dict[int, Sequence] = {}
        self._next_id = 0
        self._step = 0
        self._outputs = Outputs()
        self._dropped_images: list[int] = []
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def running(self) -> list[Sequence]:
        """The sequences that hold pages, in order of admission."""
        return list(self._running.values())

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def num_running(self, *, drawing: bool) -> int:
        """Count the running sequences that are (or are not) drawing a picture."""
        return sum((sequence.image is not None) is drawing for sequence in self._running.values())

    def submit(self, request: Request) -> None:
        """Queue a request; one that can never fit is refused at once, as a FinishedOutput with reason ERROR."""
        sequence = self._turns.start(self._next_id, request)
        self._next_id += 1
        refusal = self._refusal(sequence)
        if refusal is not None:
            self._finish(sequence, FinishReason.ERROR, "context_length_exceeded", refusal)
            return
        self._waiting.append(sequence)

    def _refusal(self, sequence: Sequence) -> str | None:
        num_rows = total_rows(sequence.history) + 1
        capacity = self._pool.num_pages * self._pool.page_size
        if num_rows > capacity:
            return f"the prompt needs {num_rows} cache rows, the server has {capacity}"
        num_positions = sum(segment.num_positions for segment in sequence.history)
        if num_positions >= self._facts.max_positions:
            return f"the prompt takes {num_positions} positions, the model has {self._facts.max_positions}"
        return None

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request and free its pages; unknown or finished ids are ignored, since an abort may cross a finish."""
        for sequence in (*self._waiting, *self._running.values()):
            if sequence.request.request_id == request_id:
                self._finish(sequence, reason)
                return

    def abort_all(self) -> None:
        """End every request."""
        for sequence in (*self._waiting, *self._running.values()):
            self._finish(sequence, FinishReason.ABORT)

    def fail(self, sequence_ids: list[int], code: str, message: str) -> None:
        """End the given sequences with an error."""
        for sequence_id in sequence_ids:
            if sequence_id in self._running:
                self._finish(self._running[sequence_id], FinishReason.ERROR, code, message)

    def _finish(self, sequence: Sequence, reason: FinishReason, code: str | None = None, message: str | None = None) -> None:
        """The one way out: pages, latents and queue places are given back and the terminal output is made."""
        sequence.release(self._pool)
        sequence.phase = Phase.FINISHED
        self._running.pop(sequence.sequence_id, None)
        self._waiting = [other for other in self._waiting if other is not sequence]
        self._dropped_images.append(sequence.sequence_id)
        usage = replace(sequence.usage, completion_text_tokens=len(sequence.text_ids))
        self._outputs.finished.append(FinishedOutput(sequence.request.request_id, reason, usage, code, message))

    def take_outputs(self) -> Outputs:
        """Return what has happened since the last call."""
        outputs, self._outputs = self._outputs, Outputs()
        return outputs

    def take_dropped(self) -> list[int]:
        """Return the sequences whose latents the runner may forget."""
        dropped, self._dropped_images = self._dropped_images, []
        return dropped

    # -- one step forward ---------------------------------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """Choose the rows of the next step and reserve their pages."""
        self._step += 1
        self._admit()
        batch = Batch()
        served: set[int] = set()
        for sequence in sorted(self._running.values(), key=lambda other: other.sequence_id):
            if sequence.phase is Phase.DECODE:
                self._schedule_decode(sequence, batch, served)
        budget = max(1, self._limits.max_batch_tokens - len(batch.decodes))
        is_first = True
        for sequence in sorted(self._running.values(), key=lambda other: (other.last_served_step, other.sequence_id)):
            if sequence.phase is Phase.DENOISE and sequence.sequence_id in self._running:
                num_tokens = self._schedule_denoise(sequence, batch, budget, is_first=is_first)
            elif sequence.phase is Phase.PREFILL and sequence.sequence_id in self._running:
                num_tokens = self._schedule_prefill(sequence, batch, served, budget, is_first=is_first)
            else:
                continue
            if num_tokens:
                sequence.last_served_step = self._step
                served.add(sequence.sequence_id)
                is_first = False
                budget -= num_tokens
        return batch

    def _admit(self) -> None:
        """Let waiting sequences in, oldest first, while their canon fits into the free pages."""
        while self._waiting and len(self._running) < self._limits.max_running:
            sequence = self._waiting[0]
            num_rows = total_rows(sequence.history) + len(sequence.open_ids) + 1
            if self._running and self._pool.pages_for(num_rows) + len(self._running) > self._pool.num_free:
                return
            self._waiting.pop(0)
            self._running[sequence.sequence_id] = sequence
            sequence.fill_canon()

    def _schedule_decode(self, sequence: Sequence, batch: Batch, served: set[int]) -> None:
        if sequence.sequence_id not in self._running or not self._reserve(sequence, sequence.full, 1, batch, served):
            return
        context = sequence.full
        draw = self._turns.draw_for(sequence)
        token_id = sequence.open_ids[context.open_rows]
        batch.decodes.append(DecodeRow(sequence.sequence_id, context.pages, context.kv_len, context.rope_pos, token_id, draw))
        context.advance(1, 1)
        served.add(sequence.sequence_id)

    def _schedule_denoise(self, sequence: Sequence, batch: Batch, budget: int, *, is_first: bool) -> int:
        """Add every branch of the sequence's image, or nothing. Returns the query tokens added."""
        image, params = sequence.image, sequence.request.image
        assert image is not None
        timestep = image.timesteps[image.step]
        branches = active_branches(params, timestep)
        contexts: list[Context] = []
        row_of: dict[Branch, int] = {}
        for branch in branches:
            context = sequence.context_of(branch)
            index = next((k for k, other in enumerate(contexts) if other is context), len(contexts))
            if index == len(contexts):
                contexts.append(context)
            row_of[branch] = index
        num_latents = (params.height // self._facts.latent_stride) * (params.width // self._facts.latent_stride)
        num_tokens = len(contexts) * (num_latents + NUM_MARKERS)
        if num_tokens > budget and not is_first:
            return 0
        rows = [DenoiseRow(sequence.sequence_id, context.pages, context.kv_len, context.rope_pos) for context in contexts]
        if not image.has_noise:
            batch.new_images.append(NewImage(sequence.sequence_id, image.index, params))
            image.has_noise = True
        is_last = image.step + 1 == len(image.timesteps)
        preview = preview_after(image.step + 1, len(image.timesteps), params.num_previews)
        batch.denoises.append(DenoiseStep(sequence.sequence_id, rows, row_of, params, timestep, image.dts[image.step], is_last, preview))
        return num_tokens

    def _schedule_prefill(self, sequence: Sequence, batch: Batch, served: set[int], budget: int, *, is_first: bool) -> int:
        """Add a chunk of each of the sequence's unfinished contexts. Returns the query tokens added."""
        num_tokens = 0
        for fill in sequence.fills:
            if fill.is_done:
                continue
            chunk = take_chunk(fill, budget - num_tokens, may_exceed=is_first and num_tokens == 0)
            if not chunk.pieces and chunk.num_segments == 0:
                break
            if not self._reserve(sequence, fill.context, chunk.num_rows, batch, served):
                break
            is_end = chunk.completes and fill is sequence.fills[-1]
            draw = self._turns.draw_for(sequence) if is_end and sequence.after_fill is AfterFill.DECIDE else None
            row = chunk.apply(fill, sequence.sequence_id, draw)
            if row is not None:
                batch.prefills.append(row)
            num_tokens += chunk.num_rows
        return num_tokens

    def _reserve(self, sequence: Sequence, context: Context, num_rows: int, batch: Batch, served: set[int]) -> bool:
        """Reserve pages, preempting younger sequences if need be. Returns whether the row may be scheduled now."""
        while True:
            try:
                batch.copies.extend(context.reserve(self._pool, num_rows))
                return True
            except OutOfPages:
                if not self._preempt_one(sequence, served):
                    break
        others_hold_pages = any(other.full.pages or other.branches for other in self._running.values() if other is not sequence)
        if not others_hold_pages and not served:
            self._give_up(sequence)
        return False

    def _preempt_one(self, sequence: Sequence, served: set[int]) -> bool:
        """Take the pages of the youngest sequence that is younger than this one and has no row in the batch yet."""
        younger = [
            other
            for other in self._running.values()
            if other.sequence_id > sequence.sequence_id and other.sequence_id not in served and (other.full.pages or other.branches)
        ]
        if not younger:
            return False
        victim = max(younger, key=lambda other: other.sequence_id)
        del self._running[victim.sequence_id]
        victim.preempt(self._pool)
        self._waiting.append(victim)
        self._waiting.sort(key=lambda other: other.sequence_id)
        self.num_preemptions += 1
        return True

    def _give_up(self, sequence: Sequence) -> None:
        """End a sequence that has the whole pool to itself and still does not fit."""
        capacity = self._pool.num_pages * self._pool.page_size
        if sequence.phase is Phase.DECODE:
            self._finish(sequence, FinishReason.LENGTH)
        else:
            message = f"the answer outgrew the server's {capacity} cache rows"
            self._finish(sequence, FinishReason.ERROR, "context_length_exceeded", message)

    # -- taking in what came back -------------------------------------------------------------------------------------------

    def commit(self, batch: Batch, result: BatchResult) -> None:
        """Take in the result of ``batch``: tokens, finished Euler steps, pictures; move every sequence on."""
        for row in batch.decodes:
            if row.sequence_id in self._running and row.sequence_id in result.tokens:
                self._commit_token(self._running[row.sequence_id], result)
        for painted in result.previews:
            if painted.sequence_id in self._running:
                self._commit_preview(self._running[painted.sequence_id], painted)
        for step in batch.denoises:
            if step.sequence_id in self._running:
                self._commit_denoise(self._running[step.sequence_id], step, result)
        for prefill in batch.prefills:
            sequence = self._running.get(prefill.sequence_id)
            if sequence is not None and prefill.draw is not None:
                self._apply(sequence, self._turns.on_decision(sequence, result.tokens[prefill.sequence_id].token_id))
        for sequence in list(self._running.values()):
            self._move_on(sequence)

    def _commit_token(self, sequence: Sequence, result: BatchResult) -> None:
        drawn = result.tokens[sequence.sequence_id]
        end = self._turns.on_text_token(sequence, drawn.token_id)
        if end.is_answer_token:
            self._outputs.tokens.append(TokenOutput(sequence.request.request_id, drawn.token_id, drawn.logprob))
        self._apply(sequence, end)

    def _commit_preview(self, sequence: Sequence, painted: PaintedPreview) -> None:
        image, request = sequence.image, sequence.request
        assert image is not None
        num_steps = len(image.timesteps)
        step = preview_steps(num_steps, request.image.num_previews)[painted.preview]
        preview = PreviewOutput(request.request_id, image.index, painted.preview, step, num_steps, painted.picture)
        self._outputs.previews.append(preview)

    def _commit_denoise(self, sequence: Sequence, step: DenoiseStep, result: BatchResult) -> None:
        image, request = sequence.image, sequence.request
        assert image is not None
        image.step += 1
        if request.wants_progress:
            self._outputs.progress.append(ProgressOutput(request.request_id, image.index, image.step, len(image.timesteps)))
        if step.is_last:
            picture = result.pictures[sequence.sequence_id]
            self._outputs.images.append(ImageOutput(request.request_id, image.index, picture))
            self._apply(sequence, self._turns.on_picture(sequence, picture))

    def _apply(self, sequence: Sequence, end: TurnEnd) -> None:
        if end.closed_text:
            self._outputs.closed.append(TextClosed(sequence.request.request_id))
        if end.finish is not None:
            self._finish(sequence, end.finish)

    def _move_on(self, sequence: Sequence) -> None:
        """Follow a sequence through every change that needs no forward pass."""
        while sequence.phase is Phase.PREFILL and all(fill.is_done for fill in sequence.fills):
            match sequence.after_fill:
                case AfterFill.BEGIN_TEXT:
                    self._turns.begin_text(sequence)
                case AfterFill.BEGIN_IMAGE:
                    self._turns.begin_image(sequence)
                    self._build_branches(sequence)
                case AfterFill.REBUILD_BRANCHES:
                    self._build_branches(sequence)
                case AfterFill.RESUME_TEXT:
                    sequence.phase = Phase.DECODE
                case AfterFill.DENOISE:
                    sequence.phase = Phase.DENOISE
                case AfterFill.DECIDE:
                    raise AssertionError("a decision is drawn with the row that completes the context")

    def _build_branches(self, sequence: Sequence) -> None:
        """Fork each further context of the image from whichever context shares most of it; prefill the rest."""
        assert sequence.image is not None
        bases = [sequence.full, *sequence.branches]
        fresh: list[Context] = []
        for held in sequence.image.plan.segments[1:]:
            base = max(bases, key=lambda context: context.common_segments(held))
            fresh.append(base.fork(self._pool, base.common_segments(held)))
        sequence.release_branches(self._pool)
        sequence.branches = fresh
        sequence.fills = [Fill(context, held) for context, held in zip(fresh, sequence.image.plan.segments[1:], strict=True)]
        sequence.after_fill = AfterFill.DENOISE
        sequence.phase = Phase.PREFILL
