"""Seconds of a step by its load: fitted to the steps of a real run, kept in a file, used by the simulation.

The terms are those of the engine's own cost model (`server.engine.cost_model`), which learns them as it goes; here all steps of a run
are fitted at once: least squares of relative errors with no negative term, by coordinate descent, then scaled so that the sum of all
steps is right, since the steps that a busy machine draws out count in an hour's traffic but not in a median.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from server.engine.cost_model import NO_LOAD, SHORTEST_S, Load

NUM_SWEEPS = 2000
NUM_ROUNDS = 5
NUM_SPREAD = 50
LARGEST_ERROR = 0.5
"""Steps further off than this after a round of fitting are left out of the next: something else had the machine."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step of a real run; ``is_between`` says that it came between the bits of a long pass, whose data it found in the caches."""

    load: Load
    seconds: float
    is_between: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """What steps cost on a machine.

    Attributes:
        seconds: for one of each term of a load.
        between_s: what a step between the bits of a long pass takes more.
        spread: how steps differ from what they cost on average, as factors of equal chance whose mean is 1.
        overhead_s: what each step takes outside the runner: scheduling, taking requests in.
        median_error: median relative error of the fit; num_steps: how many steps it was made from.
    """

    seconds: Load
    overhead_s: float
    median_error: float
    num_steps: int
    between_s: float = 0.0
    spread: tuple[float, ...] = (1.0,)

    def of(self, load: Load) -> float:
        """Return the seconds of a step in the runner."""
        return sum(seconds * amount for seconds, amount in zip(self.seconds, load, strict=True))


def fit_costs(steps: list[MeasuredStep], overhead_s: float) -> Costs:
    """Fit to the loads of steps and their seconds.

    Raises:
        ValueError: there are no steps.
    """
    if not steps:
        raise ValueError("costs cannot be fitted to no steps")
    loads = np.array([(*step.load, float(step.is_between)) for step in steps], dtype=np.float64)
    taken = np.array([step.seconds for step in steps])
    kept = np.ones(len(taken), dtype=np.bool_)
    seconds, errors = np.zeros(len(NO_LOAD) + 1), np.zeros(len(taken))
    for _ in range(NUM_ROUNDS):
        seconds = _non_negative_fit(loads[kept] / taken[kept, None])
        errors = np.abs(loads @ seconds - taken) / taken
        kept = errors <= max(LARGEST_ERROR, float(np.median(errors)))
    scale = float(taken.sum() / max((loads @ seconds).sum(), 1e-12))
    *by_term, between_s = (float(value) * scale for value in seconds)
    spread = _spread(taken / np.maximum(loads @ seconds * scale, SHORTEST_S))
    return Costs(Load(*by_term), overhead_s, median(errors.tolist()), len(steps), between_s, spread)


def _spread(ratios: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, ...]:
    """Return the middles of equal parts of the ordered ratios, so scaled that their mean is 1."""
    middles = (np.arange(NUM_SPREAD) + 0.5) / NUM_SPREAD
    quantiles = np.quantile(ratios, middles)
    return tuple(float(value) for value in quantiles / quantiles.mean())


def _non_negative_fit(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the x >= 0 that brings rows · x closest to 1, in columns scaled to equal length."""
    lengths = np.linalg.norm(rows, axis=0)
    scaled = rows / np.where(lengths > 0, lengths, 1.0)
    products, targets = scaled.T @ scaled, scaled.sum(axis=0)
    x = np.zeros(len(targets))
    for _ in range(NUM_SWEEPS):
        for i in np.flatnonzero(lengths):
            x[i] = max(0.0, x[i] + (targets[i] - products[i] @ x) / products[i, i])
    return np.asarray(x / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)


class CostsFile(msgspec.Struct):
    """What `write_costs` writes."""

    seconds: dict[str, float]
    overhead_s: float
    median_error: float
    num_steps: int
    between_s: float = 0.0
    spread: tuple[float, ...] = (1.0,)


def write_costs(path: Path, costs: Costs) -> None:
    """Write ``costs`` as JSON."""
    document = CostsFile(costs.seconds._asdict(), costs.overhead_s, costs.median_error, costs.num_steps, costs.between_s, costs.spread)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def read_costs(path: Path) -> Costs:
    """Read what `write_costs` wrote.

    Raises:
        msgspec.MsgspecError: the file is not what it should be.
    """
    document = msgspec.json.decode(path.read_bytes(), type=CostsFile)
    return Costs(
        Load(**document.seconds), document.overhead_s, document.median_error, document.num_steps, document.between_s, document.spread
    )
