"""How long a decode step should be planned to take: as long as they lately took, not as long as they take on average.

Between the bits of a long pass a decode step that is slower than foreseen makes every reader wait beyond the target, and one that is
faster makes nobody happier. So it is planned by a high quantile of what the latest took from the choice of their rows to the taking in of
their tokens, each against what the cost model says of its load.
"""

from __future__ import annotations

from collections import deque

from server.engine.cost_model import CostModel, Load

NUM_KEPT = 64
QUANTILE = 0.9


class DecodePace:
    """The latest decode steps, as ratios of the cost model's seconds."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._ratios: deque[float] = deque(maxlen=NUM_KEPT)
        self._slowness = 1.0

    def note(self, load: Load, seconds: float) -> None:
        """Take in that a step of the decode rows of ``load`` alone took ``seconds``, all that goes with it included."""
        self._ratios.append(seconds / self._cost.predict(load))
        ordered = sorted(self._ratios)
        self._slowness = max(1.0, ordered[int(QUANTILE * (len(ordered) - 1))])

    def planned_s(self, load: Load) -> float:
        """Return how long a step of the decode rows of ``load`` alone should be planned to take, in seconds."""
        return self._slowness * self._cost.predict(load)
