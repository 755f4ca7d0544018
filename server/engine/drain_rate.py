"""How fast requests leave, lane by lane: what a client that is turned away is told to wait."""

from __future__ import annotations

from collections import deque

from server.engine.sequence import Lane

NUM_FINISHES_KEPT = 128
LEAST_FINISHES_KEPT = 16
MOMENT_S = 1e-3
LATELY_S = 20.0
"""Finishes before that are forgotten, as long as enough are left."""


class DrainRate:
    """Requests of each lane finished per second, over the latest ones of a stretch without idleness."""

    def __init__(self) -> None:
        self._finished_s: dict[Lane, deque[float]] = {lane: deque(maxlen=NUM_FINISHES_KEPT) for lane in Lane}
        self._per_s = dict.fromkeys(Lane, 0.0)

    def begin_stretch(self) -> None:
        """Note that there was nothing to do: the time until the next finish says nothing. Rates measured before stand."""
        for finished in self._finished_s.values():
            finished.clear()

    def forget(self) -> None:
        """Start anew, as if nothing had ever finished."""
        self.begin_stretch()
        self._per_s = dict.fromkeys(Lane, 0.0)

    def count(self, lane: Lane, now_s: float) -> None:
        """Count a request that finished at ``now_s``.

        Requests that began together end together: those of the first moment belong to the time before it. Within ``MOMENT_S`` of the one
        before, as the answers of one step are, is the same moment.
        """
        finished = self._finished_s[lane]
        if finished and now_s - finished[-1] < MOMENT_S:
            now_s = finished[-1]
        finished.append(now_s)
        while len(finished) > LEAST_FINISHES_KEPT and now_s - finished[0] > LATELY_S:
            finished.popleft()
        if now_s > finished[0]:
            self._per_s[lane] = (len(finished) - finished.count(finished[0])) / (now_s - finished[0])

    def per_s(self, lane: Lane) -> float:
        """Return the rate; 0 while it is not known."""
        return self._per_s[lane]
