"""Takes in what a step brought: tokens, finished Euler steps and pictures; and moves each sequence on to what it does next."""

from __future__ import annotations

from server.engine.batch import Batch, BatchResult, DecodeRow, DenoiseStep, PaintedPreview
from server.engine.preview_steps import preview_steps
from server.engine.roster import Roster
from server.engine.sequence import AfterFill, Fill, Phase, Sequence
from server.engine.turns import TurnEnd, Turns
from server.messages import ImageOutput, Picture, PreviewOutput, ProgressOutput, SilentDraw, TextClosed, TokenOutput


class Commit:
    """Results in, changes of the sequences and outputs out."""

    def __init__(self, roster: Roster, turns: Turns) -> None:
        self._roster = roster
        self._turns = turns
        self.void: set[int] = set()
        """Sequences whose row in the step that ran ahead is of no use: their text ended before it."""

    def without_void(self, batch: Batch) -> Batch:
        """Return the part of ``batch``, the next to be committed, whose rows are still wanted, to be run again.

        Its texts go on from tokens that are known by now; what the runner last drew for them may be what these very rows drew. Where
        pages are still to be copied every row is wanted, since something must be run that copies them.
        """
        void = set() if batch.copies else self.void
        wanted = batch.restricted_to(set(batch.sequence_ids()) - void)
        wanted.decodes = [self._with_token(row) for row in wanted.decodes]
        return wanted

    def _with_token(self, row: DecodeRow) -> DecodeRow:
        sequence = self._roster.running.get(row.sequence_id)
        return row._replace(token_id=sequence.open_ids[-1]) if sequence is not None and sequence.open_ids else row

    def take_in(self, batch: Batch, result: BatchResult) -> None:
        """Take in the result of ``batch``; sequences that ended meanwhile are passed over."""
        running = self._roster.running
        void, self.void = self.void, set()
        for row in batch.decodes:
            if row.sequence_id in running and row.sequence_id in result.tokens and row.sequence_id not in void:
                self._take_token(running[row.sequence_id], result)
        for painted in result.previews:
            if painted.sequence_id in running:
                self._take_preview(running[painted.sequence_id], painted)
        for step in batch.denoises:
            if step.sequence_id in running and step.completes:
                self._take_euler_steps(running[step.sequence_id], step, result)
        for prefill in batch.prefills:
            sequence = running.get(prefill.sequence_id)
            if sequence is not None and prefill.draw is not None:
                self._take_decision(sequence, result.tokens[prefill.sequence_id].token_id)

    def _take_token(self, sequence: Sequence, result: BatchResult) -> None:
        drawn = result.tokens[sequence.sequence_id]
        runs_ahead = sequence.is_in_flight
        if runs_ahead:
            sequence.full.retreat()
        end = self._turns.on_text_token(sequence, drawn.token_id)
        if end.is_answer_token:
            self._roster.outputs.tokens.append(TokenOutput(sequence.request.request_id, drawn.token_id, drawn.logprob))
        else:
            self._roster.outputs.silent.append(SilentDraw(sequence.request.request_id, drawn.token_id))
        self._apply(sequence, end)
        if runs_ahead and sequence.phase is Phase.DECODE:
            sequence.full.advance(1, 1)
        elif runs_ahead:
            self.void.add(sequence.sequence_id)

    def _take_decision(self, sequence: Sequence, token_id: int) -> None:
        self._roster.outputs.silent.append(SilentDraw(sequence.request.request_id, token_id))
        self._apply(sequence, self._turns.on_decision(sequence, token_id))

    def _take_preview(self, sequence: Sequence, painted: PaintedPreview) -> None:
        image, request = sequence.image, sequence.request
        assert image is not None
        if painted.preview < image.num_previews:
            return  # its step failed and was run again
        image.num_previews = painted.preview + 1
        num_steps = len(image.steps)
        step = preview_steps(num_steps, request.image.num_previews)[painted.preview]
        preview = PreviewOutput(request.request_id, image.index, painted.preview, step, num_steps, painted.picture)
        self._roster.outputs.previews.append(preview)

    def _take_euler_steps(self, sequence: Sequence, step: DenoiseStep, result: BatchResult) -> None:
        image, request = sequence.image, sequence.request
        assert image is not None
        image.step += len(step.eulers)
        image.num_under_way -= len(step.eulers)
        if request.wants_progress:
            done = [ProgressOutput(request.request_id, image.index, euler.number + 1, len(image.steps)) for euler in step.eulers]
            self._roster.outputs.progress += done
        if step.is_last and sequence.sequence_id in result.late:
            sequence.phase = Phase.VAE
            sequence.num_in_flight += 1
        elif step.is_last:
            self.take_picture(sequence, result.pictures[sequence.sequence_id])

    def take_picture(self, sequence: Sequence, picture: Picture) -> None:
        """Take in a sequence's finished picture."""
        assert sequence.image is not None
        sequence.stood_aside_s = 0.0
        self._roster.outputs.images.append(ImageOutput(sequence.request.request_id, sequence.image.index, picture))
        self._apply(sequence, self._turns.on_picture(sequence, picture))

    def _apply(self, sequence: Sequence, end: TurnEnd) -> None:
        if end.closed_text:
            self._roster.outputs.closed.append(TextClosed(sequence.request.request_id))
        if end.finish is not None:
            self._roster.finish(sequence, end.finish)

    def move_on_ahead(self, under_way: Batch) -> None:
        """Let those whose contexts are whole once ``under_way`` has landed go on to what needs nothing else of it."""
        for row in under_way.prefills:
            sequence = self._roster.running.get(row.sequence_id)
            if sequence is not None and sequence.after_fill is not AfterFill.DECIDE:
                self.move_on(sequence)

    def move_on(self, sequence: Sequence) -> None:
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
        pool = self._roster.pool
        bases = [sequence.full, *sequence.branches]
        fresh = []
        for held in sequence.image.plan.segments[1:]:
            base = max(bases, key=lambda context: context.common_segments(held))
            fresh.append(base.fork(pool, base.common_segments(held)))
        sequence.release_branches(pool)
        sequence.branches = fresh
        sequence.fills = [Fill(context, held) for context, held in zip(fresh, sequence.image.plan.segments[1:], strict=True)]
        sequence.after_fill = AfterFill.DENOISE
        sequence.phase = Phase.PREFILL
