"""Turns what a sequence needs next into rows of a batch: a decode row, denoise rows, a chunk of its prompt.

Contexts advance when a row is made, so that a failed step needs no undoing: its sequences are dropped whole. Nodes that the rows will
fill are claimed in the prefix cache until the batch is settled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engine.batch import Batch, DecodeRow, DenoiseRow, DenoiseStep, NewImage
from server.engine.budget import StepBudget
from server.engine.chunks import Chunk, take_chunk
from server.engine.cost_model import Load
from server.engine.encodings import Encodings
from server.engine.image_steps import EulerStep, run_from
from server.engine.loads import chunk_load, decoder_load, decodes_load, denoise_load, piece_load
from server.engine.options import ModelFacts
from server.engine.prefix_cache import Claim, Held, PrefixCache
from server.engine.reservations import Reservations
from server.engine.segments import NUM_MARKERS, PictureSegment
from server.engine.sequence import AfterFill, Fill, Phase, Sequence
from server.engine.turns import Turns


@dataclass(slots=True)
class Draft:
    """A batch being filled, and who has rows in it. ``step``: its number among those in which somebody could be passed over."""

    step: int
    batch: Batch = field(default_factory=Batch)
    served: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class DenoisePlan:
    """The Euler steps taken next, the row of each context they compute, what each row costs and how long it is."""

    eulers: list[EulerStep]
    rows: list[DenoiseRow]
    loads: list[Load]
    num_row_tokens: int
    is_last: bool


class RowBuilder:
    """Makes rows. Whether they fit is the budget's word, whether there are pages the reservations'."""

    def __init__(self, facts: ModelFacts, turns: Turns, reservations: Reservations, cache: PrefixCache, encodings: Encodings) -> None:
        self._facts = facts
        self._turns = turns
        self._reservations = reservations
        self._cache = cache
        self._encodings = encodings

    def atomic_loads(self, sequence: Sequence) -> list[Load]:
        """Return the loads of what a sequence needs next where that cannot be cut; empty for a text, which can."""
        if sequence.phase is Phase.DENOISE:
            assert sequence.image is not None
            return self.plan_denoise(sequence).loads[sequence.image.rows_done :]
        segment, kv_len = sequence.next_segment()
        return [piece_load(segment, kv_len)] if isinstance(segment, PictureSegment) else []

    # -- decode -------------------------------------------------------------------------------------------------------------

    def add_decode(self, sequence: Sequence, draft: Draft) -> None:
        """Add the row that draws a text's next token. What it fills is claimed once the token it feeds is known."""
        if not self._reservations.reserve(sequence, sequence.full, 1, draft.batch, draft.served):
            return
        context, is_ahead = sequence.full, sequence.awaits_token
        token_id = None if is_ahead else sequence.open_ids[context.open_rows]
        draw = self._turns.draw_for(sequence, is_ahead=is_ahead)
        draft.batch.decodes.append(DecodeRow(sequence.sequence_id, context.pages, context.kv_len, context.rope_pos, token_id, draw))
        context.advance(1, 1)
        draft.served.add(sequence.sequence_id)
        if not is_ahead:
            draft.batch.claim(sequence.sequence_id, self.claims_of_decode(sequence))

    def claims_of_decode(self, sequence: Sequence) -> list[Claim]:
        """Claim the page that the sequence's latest decode row fills, if it does."""
        if not self._cache.is_page_end(sequence.full):
            return []
        held = Held(sequence.request.cache_scope, sequence.history, tuple(sequence.open_ids))
        return self._cache.extend(sequence.full, held, sequence.sequence_id)

    def close_decodes(self, draft: Draft) -> None:
        """Count the decode rows into the batch's load, once all are there."""
        draft.batch.load = decodes_load(draft.batch.decodes)

    # -- denoise ------------------------------------------------------------------------------------------------------------

    def plan_denoise(self, sequence: Sequence) -> DenoisePlan:
        """Work out the rows of the sequence's next Euler step, and which steps they suffice for."""
        image, params = sequence.image, sequence.request.image
        assert image is not None
        step = image.step + image.num_under_way
        eulers = run_from(image.steps, step)
        rows = [_denoise_row(sequence, context) for context in eulers[0].computed]
        num_latents = (params.height // self._facts.latent_stride) * (params.width // self._facts.latent_stride)
        loads = [denoise_load(num_latents, row.kv_len) for row in rows]
        is_last = step + len(eulers) == len(image.steps)
        if is_last:
            loads[-1] = loads[-1].joined(decoder_load(params.height, params.width))
        return DenoisePlan(eulers, rows, loads, num_latents + NUM_MARKERS, is_last)

    def add_denoise(self, sequence: Sequence, draft: Draft, budget: StepBudget) -> bool:
        """Add the missing rows of the next Euler step as far as the budget goes. Returns whether there are any."""
        image, params = sequence.image, sequence.request.image
        assert image is not None
        plan = self.plan_denoise(sequence)
        num_rows = budget.take_rows(plan.loads[image.rows_done :])
        if not num_rows:
            return False
        first, end = image.rows_done, image.rows_done + num_rows
        if not image.has_noise:
            draft.batch.new_images.append(NewImage(sequence.sequence_id, image.index, params))
            image.has_noise = True
        completes = end == len(plan.rows)
        step = DenoiseStep(
            sequence_id=sequence.sequence_id,
            rows=plan.rows[first:end],
            eulers=plan.eulers,
            params=params,
            is_last=completes and plan.is_last,
            num_row_tokens=plan.num_row_tokens,
            first_row=first,
            completes=completes,
        )
        image.rows_done = 0 if completes else end
        image.num_under_way += len(plan.eulers) * completes
        draft.batch.denoises.append(step)
        draft.served.add(sequence.sequence_id)
        return True

    # -- prefill ------------------------------------------------------------------------------------------------------------

    def add_prefill(self, sequence: Sequence, draft: Draft, budget: StepBudget) -> bool:
        """Add a chunk of each of the sequence's unfinished contexts. Returns whether there is any."""
        has_rows = False
        for fill in sequence.fills:
            if fill.is_done:
                continue
            if self._cache.is_under_way(fill.context, held_by(sequence, fill), sequence.sequence_id):
                break
            chunk = self._fitting_chunk(fill, budget)
            if not chunk.pieces and chunk.num_segments == 0:
                break
            if not self._reservations.reserve(sequence, fill.context, chunk.num_rows, draft.batch, draft.served):
                break
            self._apply(sequence, fill, chunk, draft, budget)
            has_rows = has_rows or chunk.num_rows > 0
            if not fill.is_done:
                break
        return has_rows

    def _fitting_chunk(self, fill: Fill, budget: StepBudget) -> Chunk:
        """Take as much as the budget allows: tokens by its rates, a picture among them only if the step's time allows it too."""
        kv_len, is_ready = fill.context.kv_len, self._encodings.is_ready
        chunk = take_chunk(fill, budget.tokens_for_text(kv_len), may_exceed=budget.is_untouched, is_ready=is_ready)
        first_image = next((k for k, piece in enumerate(chunk.pieces) if isinstance(piece, PictureSegment)), None)
        if first_image is None or budget.fits(chunk_load(chunk.pieces, kv_len)):
            return chunk
        num_rows_before = sum(piece.num_rows for piece in chunk.pieces[:first_image])
        return take_chunk(fill, num_rows_before, may_exceed=budget.is_untouched, is_ready=is_ready)

    def _apply(self, sequence: Sequence, fill: Fill, chunk: Chunk, draft: Draft, budget: StepBudget) -> None:
        is_end = chunk.completes and fill is sequence.fills[-1]
        draw = self._turns.draw_for(sequence) if is_end and sequence.after_fill is AfterFill.DECIDE else None
        if chunk.num_rows:
            budget.take(chunk_load(chunk.pieces, fill.context.kv_len), chunk.num_rows)
        row = chunk.apply(fill, sequence.sequence_id, draw)
        draft.batch.claim(sequence.sequence_id, self._cache.extend(fill.context, held_by(sequence, fill), sequence.sequence_id))
        if row is not None:
            draft.batch.prefills.append(row)
            draft.served.add(sequence.sequence_id)

    def catch_up(self, sequence: Sequence) -> int:
        """Let the contexts being filled take over what the prefix cache holds; return the rows that brought the full context."""
        num_rows = 0
        for fill in sequence.fills:
            if fill.is_done:
                continue
            held = held_by(sequence, fill)
            total = sum(segment.num_rows for segment in fill.segments) + len(fill.open_ids)
            must_compute_last = sequence.after_fill is AfterFill.DECIDE and fill is sequence.fills[-1]
            found = self._cache.adopt(fill.context, held, total - int(must_compute_last))
            num_rows += found if fill.context is sequence.full else 0
        return num_rows


def _denoise_row(sequence: Sequence, index: int) -> DenoiseRow:
    context = sequence.context(index)
    return DenoiseRow(sequence.sequence_id, index, context.pages, context.kv_len, context.rope_pos)


def held_by(sequence: Sequence, fill: Fill) -> Held:
    """Say what a context being filled will hold, and who may share it."""
    return Held(sequence.request.cache_scope, fill.segments, fill.open_ids)


def is_decoding(sequence: Sequence) -> bool:
    """Tell whether a decode row of the sequence could go into the next pass."""
    return sequence.phase is Phase.DECODE and not sequence.is_in_flight and sequence.can_draw_token
