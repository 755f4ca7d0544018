"""An image under way in the runner: its latents, the velocities of the step in hand, and what is foreseen of those to come.

A drawing is never changed: a step makes a new one, which takes the old one's place when the whole batch has gone well.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from kernels.guidance import guided_velocity
from kernels.mix import Mix
from model.forecast import Forecast
from model.guidance import BagelScales, bagel_mix, illume_mix
from model.guidance_rules import GuidanceMode
from server.engine.batch import DenoiseStep
from server.engine.guidance import Branch
from server.engine.image_steps import EulerStep
from server.messages import ImageParams

Velocities = dict[int, torch.Tensor]
"""By context: ``[num_tokens, channels]``."""
Watch = Callable[[EulerStep, torch.Tensor, torch.Tensor], None]
"""Is shown each Euler step that is taken: the step, the latents before it and its velocity."""
ValueT = TypeVar("ValueT")

MIXED_IN = {GuidanceMode.BAGEL: (Branch.NO_TEXT, Branch.NO_IMAGE), GuidanceMode.ILLUME: (Branch.IMAGES_ONLY, Branch.NOTHING)}
"""The branches beside the full one, in the order they are mixed in."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """``latents`` are float32 ``[num_tokens, channels]``; ``velocities`` those that earlier passes computed of a step's rows."""

    latents: torch.Tensor
    velocities: Velocities = field(default_factory=dict)
    forecasts: dict[int, Forecast] = field(default_factory=dict)

    def after(self, step: DenoiseStep, computed: Velocities, watch: Watch) -> Drawing:
        """Return the drawing after the rows of ``step``, whose velocities are ``computed``: moved on once all of them are in."""
        velocities = {**self.velocities, **computed} if step.first_row else computed
        if not step.completes:
            return replace(self, velocities=velocities)
        forecasts = self._forecasts(step, velocities)
        x_t = self.latents
        for euler in step.eulers:
            foreseen = {context: forecasts[context].velocity(euler.number) for context in euler.foreseen}
            velocity = guided(step.params, euler.context_of, {**velocities, **foreseen})
            watch(euler, x_t, velocity)
            x_t = x_t - velocity * euler.dt
        return Drawing(x_t, forecasts=forecasts)

    def _forecasts(self, step: DenoiseStep, velocities: Velocities) -> dict[int, Forecast]:
        cache, number = step.params.step_cache, step.eulers[0].number
        if cache is None:
            return {}
        begun = self.forecasts
        fresh = {
            context: begun[context].followed_by(number, velocity, cache.order) if context in begun else Forecast.begin(number, velocity)
            for context, velocity in velocities.items()
        }
        return {**begun, **fresh}


def guided(params: ImageParams, context_of: Mapping[Branch, int], velocities: Velocities) -> torch.Tensor:
    """Combine the velocities of an image's contexts into one (spec 6.2, 8.4)."""
    return guided_velocity(mix_of(params, context_of), *branch_velocities(params, context_of, velocities))


def mix_of(params: ImageParams, branches: Container[Branch]) -> Mix:
    """Say how the velocities of ``branches`` become one."""
    if params.guidance is GuidanceMode.BAGEL:
        scales = BagelScales(params.text_scale, params.image_scale, params.renorm, params.renorm_min)
        return bagel_mix(scales, has_no_text=Branch.NO_TEXT in branches, has_no_image=Branch.NO_IMAGE in branches)
    has_images_only, has_nothing = Branch.IMAGES_ONLY in branches, Branch.NOTHING in branches
    return illume_mix(params.text_scale, params.image_scale, has_images_only=has_images_only, has_nothing=has_nothing)


def branch_velocities(
    params: ImageParams, context_of: Mapping[Branch, int], by_context: Mapping[int, ValueT]
) -> tuple[ValueT, ValueT | None, ValueT | None]:
    """Return what belongs to the full branch, and to the first and the second that are mixed in, None where it is not needed."""
    first, second = MIXED_IN[params.guidance]
    return (
        by_context[context_of[Branch.FULL]],
        by_context[context_of[first]] if first in context_of else None,
        by_context[context_of[second]] if second in context_of else None,
    )
