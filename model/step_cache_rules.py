"""Step caching: which evaluations of a velocity are computed and which are foreseen from those before them. No tensors.

TaylorSeer (Liu et al. 2025, arXiv:2503.06923) as BAGEL offers it (modeling/bagel/bagel.py, spec 6.6): the first evaluations are computed,
afterwards every ``interval``-th, the others follow from a Taylor series. Two departures: BAGEL foresees each layer's output, here the
velocity itself is foreseen, so that an evaluation left out costs nothing at all; and the last step of a picture is always computed, since
nothing that follows would mend it (`loadtests/results/storybook` has what it is worth).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepCache:
    """How much is left out.

    Attributes:
        interval: of so many evaluations one is computed; 2 or more.
        order: of the Taylor series; 0 repeats the last computed velocity.
        num_first: so many evaluations are computed before any is left out; 1 or more.
    """

    interval: int
    order: int = 1
    num_first: int = 5

    def is_computed(self, evaluation: int) -> bool:
        """Tell whether an evaluation, counted from 0 in its own context, is computed; that of a picture's last step always is."""
        last_of_first = self.num_first - 1
        return evaluation <= last_of_first or (evaluation - last_of_first) % self.interval == 0
