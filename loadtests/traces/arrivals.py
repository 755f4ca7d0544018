"""When sessions arrive: evenly at random, in bursts, or through a day in small.

A given number of sessions over a given horizon, so that every trace of one load brings the same work: for Poisson arrivals this is the
process itself, given how many came.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

BURST_SHAPE = 0.15
"""Shape of the gamma-distributed gaps of bursty arrivals: a coefficient of variation of 2.6, against 1 for Poisson."""
DIURNAL_SWING = 0.6
"""How far the rate of diurnal arrivals swings about its mean, in one period over the horizon."""
GRID = 4096


class Arrivals(Enum):
    POISSON = "poisson"
    BURSTY = "bursty"
    DIURNAL = "diurnal"
    """Bursty, with a rate that rises and falls once."""


def arrival_times(arrivals: Arrivals, num: int, horizon_s: float, rng: np.random.Generator) -> list[float]:
    """Return ``num`` arrival times in ``[0, horizon_s)``, in order."""
    shape = 1.0 if arrivals is Arrivals.POISSON else BURST_SHAPE
    gaps = rng.gamma(shape, size=num + 1)
    places = np.cumsum(gaps)[:-1] / gaps.sum()
    if arrivals is Arrivals.DIURNAL:
        places = _through_a_day(places)
    return [float(place) * horizon_s for place in places]


def _through_a_day(places: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Warp even time so that its rate is 1 - swing · cos(2πt): quiet at both ends, busy in the middle."""
    times = np.linspace(0.0, 1.0, GRID)
    served = times - DIURNAL_SWING / (2 * math.pi) * np.sin(2 * math.pi * times)
    return np.interp(places, served, times)
