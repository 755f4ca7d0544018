"""What a velocity will be at the next steps, by a Taylor series of finite differences (TaylorSeer, Liu et al. 2025, equation 4).

The step's number is the variable. Each context of an image has its own series. Everything is element by element, so that a forecast does
not depend on who shares the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was found at ``step``: ``factors[i]`` estimates the derivative of order i, float32 ``[num_tokens, channels]``."""

    step: int
    factors: tuple[torch.Tensor, ...]

    @classmethod
    def begin(cls, step: int, velocity: torch.Tensor) -> Forecast:
        """Start a series from its first velocity; no derivative is known yet."""
        return cls(step, (velocity.float(),))

    def followed_by(self, step: int, velocity: torch.Tensor, order: int) -> Forecast:
        """Return the series after the velocity computed at ``step``, a later one, with derivatives up to ``order``.

        The derivative of order i+1 is the difference of those of order i, over the steps between them.
        """
        distance = step - self.step
        assert distance > 0, "velocities are computed in the order of steps"
        factors = [velocity.float()]
        for before in self.factors[:order]:
            factors.append((factors[-1] - before) / distance)
        return Forecast(step, tuple(factors))

    def velocity(self, step: int) -> torch.Tensor:
        """Foresee the velocity at ``step``: the sum of f_i (step - s)^i / i!."""
        ahead = step - self.step
        foreseen = self.factors[0].clone()
        for i, factor in enumerate(self.factors[1:], start=1):
            foreseen.add_(factor, alpha=ahead**i / math.factorial(i))
        return foreseen
