"""How long the next bit of a long pass should take, from how long the latest did."""

from __future__ import annotations

from collections import deque

NUM_KEPT = 16
"""Most of a layer's."""
NUM_SLOWER = 1
"""So many of them may have taken longer than the next one is taken to: what else the machine does now and then is not waited for."""


class BitPace:
    """The latest bits of passes that are cut alike. Those of a layer differ; one layer is like the other.

    The first bit after others have had the device is slow, since what it needs is no longer in the caches. It is taken in any case, so
    how long the next one takes is only asked of those that follow it.
    """

    def __init__(self) -> None:
        self._latest_s: deque[float] = deque(maxlen=NUM_KEPT)

    def note(self, seconds: float) -> None:
        """Take in that a bit right after another took ``seconds``."""
        self._latest_s.append(seconds)

    @property
    def next_s(self) -> float:
        """Seconds that all but few of the latest did not exceed, 0 while none is known."""
        num = len(self._latest_s)
        return sorted(self._latest_s)[max(0, num - 1 - NUM_SLOWER * num // NUM_KEPT)] if num else 0.0
