"""How long the next bit of a long pass should take, from how long the latest did."""

from __future__ import annotations

from collections import deque

NUM_KEPT = 16
"""More than a layer's where that falls into few bits."""
LAYERS_KEPT = 2
"""The same where it falls into many."""
NUM_SLOWER = 1
"""So many of them may have taken longer than the next one is taken to: what else the machine does now and then is not waited for."""


class BitPace:
    """The latest bits of passes that are cut alike, into about so many a layer. Those of a layer differ; one layer is like the other.

    The first bit after others have had the device is slow, since what it needs is no longer in the caches. It is taken in any case, so
    how long the next one takes is only asked of those that follow it.
    """

    def __init__(self, bits_per_layer: int = 1) -> None:
        self._latest_s: deque[float] = deque(maxlen=max(NUM_KEPT, LAYERS_KEPT * bits_per_layer))

    def note(self, seconds: float) -> None:
        """Take in that a bit right after another took ``seconds``."""
        self._latest_s.append(seconds)

    @property
    def next_s(self) -> float:
        """Seconds that all but few of the latest did not exceed, 0 while none is known."""
        num = len(self._latest_s)
        return sorted(self._latest_s)[max(0, num - 1 - NUM_SLOWER * num // NUM_KEPT)] if num else 0.0


class BitPaces:
    """The pace of passes, by into how many bits each layer is cut."""

    def __init__(self) -> None:
        self._paces: dict[int, BitPace] = {}

    def of(self, bits_per_layer: int) -> BitPace:
        """Return the pace of passes cut so, to be asked and to be kept up to date."""
        return self._paces.setdefault(bits_per_layer, BitPace(bits_per_layer))
