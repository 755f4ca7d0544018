"""How long the next bit of a long pass should take, from how long the latest did."""

from __future__ import annotations

from collections import deque

NUM_KEPT = 16
"""Most of a layer's."""
NUM_QUARTERS = 3
"""So many quarters of them take no longer than the next one is taken to."""


class BitPace:
    """The latest bits of passes that are cut alike. Those of a layer differ; one layer is like the other."""

    def __init__(self) -> None:
        self._latest_s: deque[float] = deque(maxlen=NUM_KEPT)

    def note(self, seconds: float) -> None:
        """Take in that a bit took ``seconds``."""
        self._latest_s.append(seconds)

    @property
    def next_s(self) -> float:
        """Seconds that three of four bits do not exceed, 0 while none is known.

        The first after a step let through is slow, since what it needs is no longer in the caches. Where most bits are such, the next is
        taken to be one; where few are, to stop in time for another would leave a good part of each slot unused.
        """
        return sorted(self._latest_s)[NUM_QUARTERS * len(self._latest_s) // 4] if self._latest_s else 0.0
