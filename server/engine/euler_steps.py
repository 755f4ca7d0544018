"""Takes the Euler steps of a pass: on a GPU those of all images in one go, where nothing but this pass's velocities goes into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from kernels.guidance import take_euler_steps
from kernels.mix import GuidedStep
from server.engine.batch import DenoiseRow, DenoiseStep
from server.engine.drawing import Drawing, branch_velocities, mix_of
from server.engine.previews import PreviewPainter, preview_due


@dataclass(frozen=True, slots=True)
class RowVelocities:
    """The velocities of a pass's denoise rows: ``values[num_tokens, channels]``, and where each row's begin, by the row's identity."""

    values: torch.Tensor
    start_of: Mapping[int, int]

    def of(self, row: DenoiseRow, num_tokens: int) -> torch.Tensor:
        """Return the velocity of one row."""
        start = self.start_of[id(row)]
        return self.values[start : start + num_tokens]


class EulerSteps:
    """Moves drawings on. ``takes_together``: on a GPU launches cost more than the sums in them; tests set it on a CPU too."""

    def __init__(self, painter: PreviewPainter, *, takes_together: bool) -> None:
        self._painter = painter
        self.takes_together = takes_together

    def take(self, steps: list[DenoiseStep], drawings: Mapping[int, Drawing], velocities: RowVelocities) -> dict[int, Drawing]:
        """Return the drawings of all ``steps`` after them, by sequence."""
        together = [step for step in steps if self.takes_together and _is_plain(step)]
        after = _taken_together(together, drawings, velocities) if together else {}
        for step in steps:
            if step.sequence_id not in after:
                drawing = drawings[step.sequence_id]
                computed = {row.context: velocities.of(row, len(drawing.latents)) for row in step.rows}
                after[step.sequence_id] = drawing.after(step, computed, partial(self._painter.watch, step))
        return after


def _is_plain(step: DenoiseStep) -> bool:
    """Tell whether a step needs its own rows alone and nobody looks at its velocity."""
    is_whole = step.completes and not step.first_row and step.params.step_cache is None
    return is_whole and preview_due(step, step.eulers[0]) is None


def _taken_together(steps: list[DenoiseStep], drawings: Mapping[int, Drawing], velocities: RowVelocities) -> dict[int, Drawing]:
    latents = [drawings[step.sequence_id].latents for step in steps]
    guided = [_guided_step(step, len(x_t), velocities) for step, x_t in zip(steps, latents, strict=True)]
    moved = take_euler_steps(torch.cat(latents), velocities.values, guided).split([len(x_t) for x_t in latents])
    return {step.sequence_id: Drawing(x_t) for step, x_t in zip(steps, moved, strict=True)}


def _guided_step(step: DenoiseStep, num_tokens: int, velocities: RowVelocities) -> GuidedStep:
    (euler,) = step.eulers
    starts = {row.context: velocities.start_of[id(row)] for row in step.rows}
    full, first, second = branch_velocities(step.params, euler.context_of, starts)
    return GuidedStep(mix_of(step.params, euler.context_of), num_tokens, full, first or 0, second or 0, euler.dt)
