"""How long a step takes beside a long pass: so many times longer than alone as the latest of its kind did.

It has some of the processors alone, and the memory and the caches with the pass. Where passes are left for it, it takes what it takes
alone. A step with a prompt, which is bound by processors, is never taken to be slower than by their number: one that once was would not be
tried again.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from server.engine.batch import Batch
from server.engine.cost_model import CostModel, Load

NUM_KEPT = 32


class BesideCost:
    """Seconds of a step by its load, beside a long pass."""

    def __init__(self, cost: CostModel, share_of_steps: float) -> None:
        """Start from the cost alone; ``share_of_steps`` of the processors are a step's beside a pass, 0 where it has a turn of its own."""
        self._cost = cost
        self._unknown = 1.0 / share_of_steps if share_of_steps else 1.0
        self._latest: dict[bool, deque[float]] = {is_mixed: deque(maxlen=NUM_KEPT) for is_mixed in (False, True)}
        self._ratios: dict[bool, float] = {}

    def predict(self, load: Load) -> float:
        """Return the seconds a step with ``load`` should take."""
        return self._cost.predict(load) * self._ratios.get(bool(load.mixed), self._unknown)

    def fixed_s(self, load: Load) -> float:
        """Return what of that is the same for any number of rows of these kinds."""
        return self.predict(Load(load.steps, load.mixed, load.gen_steps))

    def observe(self, load: Load, seconds: float) -> None:
        """Take in that a step with ``load`` took ``seconds``."""
        if seconds <= 0.0:
            return
        latest = self._latest[bool(load.mixed)]
        latest.append(seconds / self._cost.predict(load))
        ratio = median(latest)
        self._ratios[bool(load.mixed)] = min(ratio, self._unknown) if load.mixed else ratio


class StepCosts:
    """What steps take: alone, and beside a long pass."""

    def __init__(self, share_of_steps: float) -> None:
        self.alone = CostModel()
        self.beside = BesideCost(self.alone, share_of_steps)
        self.share_of_steps = share_of_steps

    @property
    def are_beside(self) -> bool:
        """Whether steps are made beside a long pass, and not between its bits."""
        return self.share_of_steps > 0.0

    def foreseen_s(self, batch: Batch) -> float:
        """Return how long ``batch`` should take in the runner."""
        return (self.beside if batch.is_beside else self.alone).predict(batch.load)

    def observe(self, batch: Batch, seconds: float) -> None:
        """Take in that ``batch`` took ``seconds``."""
        (self.beside if batch.is_beside else self.alone).observe(batch.load, seconds)

    def machine_s(self, batch: Batch, seconds: float) -> float:
        """Return what ``seconds`` of ``batch`` took of the machine, in seconds of all of it."""
        return seconds * self.share_of_steps if batch.is_beside else seconds
