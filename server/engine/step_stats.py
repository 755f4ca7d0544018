"""Puts together what one step did and how full the engine is."""

from __future__ import annotations

from server.engine.batch import Batch, BatchResult, DenoiseStep
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.engine.sequence import Lane
from server.messages import StepStats

NUM_GUIDANCE_BRANCHES = 3
"""What an image step costs without elision: full, text-dropped, image-dropped."""


def step_stats(step: int, step_s: float, batch: Batch, result: BatchResult, scheduler: Scheduler, pool: PagePool) -> StepStats:
    """Return the statistics of step number ``step``, which took ``step_s`` seconds."""
    num_queries, num_hits = scheduler.take_prefix_counts()
    num_denoise_rows = sum(len(denoise.rows) for denoise in batch.denoises)
    running = scheduler.running
    num_drawing = sum(sequence.lane is Lane.PICTURE for sequence in running)
    return StepStats(
        step=step,
        step_s=step_s,
        forward_s=result.forward_s,
        vae_s=result.vae_s,
        num_decode_rows=len(batch.decodes),
        num_prefill_tokens=sum(piece.num_rows for row in batch.prefills for piece in row.pieces),
        num_denoise_rows=num_denoise_rows,
        num_branches_elided=sum(_num_elided(one) for one in batch.denoises if one.completes),
        num_branches_foreseen=sum(_num_foreseen(one) for one in batch.denoises if one.completes),
        num_gen_tokens=result.num_gen_tokens,
        running_text=len(running) - num_drawing,
        running_image=num_drawing,
        waiting=scheduler.num_waiting,
        pages_used=pool.num_used,
        pages_total=pool.num_pages,
        num_preemptions=scheduler.num_preemptions,
        num_und_tokens=result.num_und_tokens,
        num_pairs=int(batch.load.pairs),
        num_rows=int(batch.load.rows),
        predicted_s=scheduler.predicted_s if not batch.is_empty else 0.0,
        cost_error=scheduler.costs.alone.error,
        num_prefix_queries=num_queries,
        num_prefix_hits=num_hits,
        num_pictures_encoded=result.num_pictures_encoded,
        pages_cached=pool.num_idle,
        num_expired=scheduler.admission.num_expired,
        num_refused=scheduler.admission.num_refused,
        waiting_text=scheduler.admission.num_waiting(Lane.TEXT),
        waiting_image=scheduler.admission.num_waiting(Lane.PICTURE),
        text_drain_per_s=scheduler.drain_rate.per_s(Lane.TEXT),
        image_drain_per_s=scheduler.drain_rate.per_s(Lane.PICTURE),
    )


def _num_elided(step: DenoiseStep) -> int:
    """Count the branches that needed no velocity of their own."""
    return sum(NUM_GUIDANCE_BRANCHES - len(euler.computed) - len(euler.foreseen) for euler in step.eulers)


def _num_foreseen(step: DenoiseStep) -> int:
    """Count the velocities that step caching foresaw instead of computing them."""
    return sum(len(euler.foreseen) for euler in step.eulers)
