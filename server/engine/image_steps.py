"""The Euler steps of an image, decided before the first: what each combines, and which velocities are computed for it.

With step caching a velocity that is not computed is foreseen from those of the same context before it (`model.forecast`). Counters are
per context, and advance only when the context is needed (spec 6.6): a branch that sets in late has its first evaluations computed too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from server.engine.guidance import Branch, BranchPlan, active_branches
from server.messages import ImageParams


@dataclass(frozen=True, slots=True)
class EulerStep:
    """One step from one time to the next along the guided velocity.

    Attributes:
        number: counted from 0.
        timestep: the shifted time of its velocities; dt: how far it goes.
        context_of: which context's velocity serves each branch that is needed.
        computed: the contexts whose velocity is computed, in the order of first need; the others are foreseen.
    """

    number: int
    timestep: float
    dt: float
    context_of: dict[Branch, int]
    computed: tuple[int, ...]

    @property
    def foreseen(self) -> list[int]:
        """The contexts whose velocity is not computed."""
        return [context for context in dict.fromkeys(self.context_of.values()) if context not in self.computed]


def plan_steps(params: ImageParams, times: list[float], dts: list[float], plan: BranchPlan) -> list[EulerStep]:
    """Plan every Euler step of an image; the first and the last compute all that they need."""
    num_evaluated: Counter[int] = Counter()
    steps: list[EulerStep] = []
    for number, (timestep, dt) in enumerate(zip(times, dts, strict=True)):
        context_of = {branch: plan.context_of[branch] for branch in active_branches(params, timestep)}
        if steps and steps[-1].context_of == context_of:
            context_of = steps[-1].context_of  # held once: pictures that wait are many, and each is planned
        needed = list(dict.fromkeys(context_of.values()))
        leaves_out = None if number == len(times) - 1 else params.step_cache
        computed = tuple(context for context in needed if leaves_out is None or leaves_out.is_computed(num_evaluated[context]))
        num_evaluated.update(needed)
        steps.append(EulerStep(number, timestep, dt, context_of, computed))
    return steps


def run_from(steps: list[EulerStep], number: int) -> list[EulerStep]:
    """Return step ``number`` and those after it for which nothing is computed: they are taken together."""
    end = number + 1
    while end < len(steps) and not steps[end].computed:
        end += 1
    return steps[number:end]
