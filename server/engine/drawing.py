"""An image under way in the runner: its latents, the velocities of the step in hand, and what is foreseen of those to come.

A drawing is never changed: a step makes a new one, which takes the old one's place when the whole batch has gone well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from model.forecast import Forecast
from model.guidance import BagelScales, bagel_velocity, illume_velocity
from model.guidance_rules import GuidanceMode
from server.engine.batch import DenoiseStep
from server.engine.guidance import Branch
from server.engine.image_steps import EulerStep
from server.messages import ImageParams

Velocities = dict[int, torch.Tensor]
"""By context: ``[num_tokens, channels]``."""
Watch = Callable[[EulerStep, torch.Tensor, torch.Tensor], None]
"""Is shown each Euler step that is taken: the step, the latents before it and its velocity."""


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


def guided(params: ImageParams, context_of: dict[Branch, int], velocities: Velocities) -> torch.Tensor:
    """Combine the velocities of an image's contexts into one (spec 6.2, 8.4)."""

    def of(branch: Branch) -> torch.Tensor | None:
        return velocities[context_of[branch]] if branch in context_of else None

    full = velocities[context_of[Branch.FULL]]
    if params.guidance is GuidanceMode.BAGEL:
        scales = BagelScales(params.text_scale, params.image_scale, params.renorm, params.renorm_min)
        return bagel_velocity(full, of(Branch.NO_TEXT), of(Branch.NO_IMAGE), scales)
    return illume_velocity(full, of(Branch.IMAGES_ONLY), of(Branch.NOTHING), params.text_scale, params.image_scale)
