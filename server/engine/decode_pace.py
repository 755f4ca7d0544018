"""How long a decode step should be planned to take: as long as slow ones lately took, not as long as they take on average.

Let through a long pass, a decode step that is slower than foreseen makes every reader wait beyond the target, and one that is
faster makes nobody happier. So it is planned by high quantiles of what the latest took from the choice of their rows to the taking in of
their tokens, each against what the cost model says of its load: most steps shall be in time, and all but a few no more than a little late.
"""

from __future__ import annotations

from collections import deque

from server.engine.beside_cost import BesideCost
from server.engine.cost_model import CostModel, Load

NUM_KEPT = 128
MOST, ALL_BUT_FEW = 0.9, 0.995
"""All but the slowest one of those kept: of a hundred words one may be late, so what happens twice in so many is planned for."""


class DecodePace:
    """The latest decode steps let through a long pass, as ratios of the seconds foreseen."""

    def __init__(self, cost: CostModel | BesideCost) -> None:
        self._cost = cost
        self._ratios: deque[float] = deque(maxlen=NUM_KEPT)
        self._slow = self._slowest = 1.0

    def note(self, load: Load, seconds: float) -> None:
        """Take in that a step of the decode rows of ``load`` alone took ``seconds``, all that goes with it included."""
        self._ratios.append(seconds / self._cost.predict(load))
        ordered = sorted(self._ratios)
        self._slow, self._slowest = (max(1.0, ordered[int(share * (len(ordered) - 1))]) for share in (MOST, ALL_BUT_FEW))

    def planned_s(self, load: Load) -> float:
        """Return how long a step of the decode rows of ``load`` alone takes at most for the most part, in seconds."""
        return self._slow * self._cost.predict(load)

    def slowest_s(self, load: Load) -> float:
        """Return how long it takes at most with few exceptions, in seconds."""
        return self._slowest * self._cost.predict(load)
