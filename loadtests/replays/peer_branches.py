"""The denoise rows a peer computes: one for each branch whose scale asks for it, equal contexts or not.

Outside the guidance interval, and at scale 1, BAGEL's own code, vLLM-Omni and Plait alike compute the conditional branch alone. Inside
it, vLLM-Omni 0.30 (``diffusion/models/bagel/bagel_transformer.py``, ``use_cfg_img = cfg_img_scale > 1.0``) runs the image-dropped branch
of a text-to-image request although its context is the full one ("cfg_img reuses gen KV for text2img"): three rows where the result needs
two.
"""

from __future__ import annotations

from dataclasses import replace

from server.engine.batch import Batch, BatchResult, DenoiseStep
from server.engine.loads import denoise_load
from server.engine.loop import DividedPass, Executor
from server.engine.segments import NUM_MARKERS


def with_every_branch(step: DenoiseStep) -> DenoiseStep:
    """Give each branch of ``step`` a row of its own."""
    (euler,) = step.eulers
    row_of = {row.context: row for row in step.rows}
    rows = [replace(row_of[context], context=index) for index, context in enumerate(euler.context_of.values())]
    context_of = {branch: index for index, branch in enumerate(euler.context_of)}
    return replace(step, rows=rows, eulers=[replace(euler, context_of=context_of, computed=tuple(range(len(rows))))])


class PeerBranches:
    """A runner that computes what a peer would and returns what the batch asked for."""

    def __init__(self, runner: Executor) -> None:
        self._runner = runner

    def execute(self, batch: Batch) -> BatchResult:
        steps = [with_every_branch(step) for step in batch.denoises]
        load = batch.load
        for thrifty, whole in zip(batch.denoises, steps, strict=True):
            for row in whole.rows[len(thrifty.rows) :]:
                load = load.joined(denoise_load(whole.num_row_tokens - NUM_MARKERS, row.kv_len))
        return self._runner.execute(replace(batch, denoises=steps, load=load))

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("a peer's engine has no goal that a pass would be divided for")

    def forget(self, sequence_ids: list[int]) -> None:
        self._runner.forget(sequence_ids)
