"""How long the next bit of a long pass should take, from how long the latest did."""

from __future__ import annotations

from collections import deque
from statistics import median

NUM_KEPT = 16
"""Most of a layer's."""


class BitPace:
    """The latest bits of passes that are cut alike. Those of a layer differ; one layer is like the other."""

    def __init__(self) -> None:
        self._latest_s: deque[float] = deque(maxlen=NUM_KEPT)

    def note(self, seconds: float) -> None:
        """Take in that a bit took ``seconds``."""
        self._latest_s.append(seconds)

    @property
    def next_s(self) -> float:
        """Seconds of a bit as most are, 0 while none is known.

        The first after a step let through is slow, since what it needs is no longer in the caches: to stop in time for another such would
        leave a third of a short slot unused.
        """
        return median(self._latest_s) if self._latest_s else 0.0
