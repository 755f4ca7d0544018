"""Seconds of a step by its load: fitted to the steps of a real run, kept in a file, used by the simulation.

The terms are those of the engine's own cost model (`server.engine.cost_model`), which learns them as it goes; here all steps of a run
are fitted at once: least squares of relative errors with no negative term, by coordinate descent, then scaled so that the sum of all
steps is right, since the steps that a busy machine draws out count in an hour's traffic but not in a median.

What of its pace a long pass keeps beside steps is one term more: of two that have the same to do, the one that was beside more of them had
the machine whole for less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from loadtests.simulate.bits import Cut, some_of_each
from server.engine.cost_model import NO_LOAD, SHORTEST_S, Load

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

NUM_SWEEPS = 2000
NUM_ROUNDS = 5
NUM_SPREAD = 50
SPELL_S = 3.0
"""How finely a change of the machine's speed is followed: a spell holds several long passes."""
NUM_LEVELLINGS = 8
"""Costs and speeds are fitted in turns, since each hides in the other where one kind of step is commoner in a slow spell."""
LARGEST_ERROR = 0.5
"""Steps further off than this after a round of fitting are left out of the next: something else had the machine."""
FIRST_PACE_BESIDE = 0.5
"""Where the search for what a pass keeps of its pace begins."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step of a real run.

    Attributes:
        is_cold: whether it is a step of decode rows alone right after other work, whose data it found in the caches.
        seconds: how long it had the machine, a step beside a pass its part of it, and a pass beside steps the whole.
        is_beside: whether it was made beside a long pass.
        bits_s: the bits of a long pass; bits_per_layer: how many of each layer were asked for.
        beside_s: for how long it was a long pass that had what steps left it.
        at_s: when it was done, in seconds since the run began.
    """

    load: Load
    seconds: float
    is_cold: bool = False
    is_beside: bool = False
    bits_s: tuple[float, ...] = ()
    bits_per_layer: int = 1
    beside_s: float = 0.0
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How steps differ from what their load costs, as factors of equal chance: steps of decode rows alone, with prompts, with pictures."""

    words: tuple[float, ...] = (1.0,)
    prompts: tuple[float, ...] = (1.0,)
    pictures: tuple[float, ...] = (1.0,)

    def of(self, load: Load) -> tuple[float, ...]:
        """Return the factors of steps like one with ``load``."""
        if not load.mixed:
            return self.words
        return self.pictures if load.gen_steps else self.prompts


@dataclass(frozen=True, slots=True)
class Costs:
    """What steps cost on a machine.

    Attributes:
        seconds: for one of each term of a load.
        cold_s: what a step of decode rows alone takes more right after other work.
        spread: how they differ from that; beside: how those made beside a long pass do.
        share_of_steps: the share of the processors that those have; 0 where steps are let through between a pass's bits.
        pace_beside: the share of its pace that a long pass keeps beside a step.
        overhead_s: what each step takes outside the runner; arrival_s: what taking in a request does.
        median_error: median relative error of the fit; num_steps: how many steps it was made from.
        cuts: how long passes were cut into bits.
        slowness: how many times as long steps took in each ``SPELL_S`` of the run; nothing where that is not asked.
    """

    seconds: Load
    overhead_s: float
    median_error: float
    num_steps: int
    cold_s: float = 0.0
    spread: Spread = Spread()
    cuts: tuple[Cut, ...] = ()
    arrival_s: float = 0.0
    beside: Spread = Spread()
    share_of_steps: float = 0.0
    pace_beside: float = 0.0
    slowness: tuple[float, ...] = ()

    def of(self, load: Load) -> float:
        """Return the seconds of a step in the runner."""
        return sum(seconds * amount for seconds, amount in zip(self.seconds, load, strict=True))

    def slowness_at(self, run_s: float) -> float:
        """Return how many times as long a step takes ``run_s`` after the run began."""
        return self.slowness[int(run_s / SPELL_S)] if 0.0 <= run_s < SPELL_S * len(self.slowness) else 1.0


def fit_costs(steps: list[MeasuredStep], overhead_s: float) -> Costs:
    """Fit to the loads of steps and their seconds.

    Raises:
        ValueError: there are no steps but those made beside a long pass.
    """
    if all(step.is_beside for step in steps):
        raise ValueError("costs cannot be fitted to no steps")
    beside, steps = [step for step in steps if step.is_beside], [step for step in steps if not step.is_beside]
    loads, whole_s, beside_s = _rows(steps), _seconds(steps), np.array([step.beside_s for step in steps])
    pace, taken = FIRST_PACE_BESIDE, whole_s
    kept = np.ones(len(steps), dtype=np.bool_)
    seconds, errors = np.zeros(len(NO_LOAD) + 1), np.zeros(len(steps))
    for _ in range(NUM_ROUNDS):
        taken = np.maximum(whole_s + pace * beside_s, SHORTEST_S)
        terms = np.column_stack([loads, -beside_s])
        *fitted, pace = _non_negative_fit(terms[kept] / taken[kept, None], whole_s[kept] / taken[kept])
        seconds, pace = np.array(fitted), min(pace, 1.0)
        taken = np.maximum(whole_s + pace * beside_s, SHORTEST_S)
        errors = np.abs(loads @ seconds - taken) / taken
        kept = errors <= max(LARGEST_ERROR, float(np.median(errors)))
    scale = float(taken.sum() / max((loads @ seconds).sum(), 1e-12))
    *by_term, cold_s = (float(value) * scale for value in seconds)
    spread = _spread(steps, taken, loads @ seconds * scale)
    cuts = some_of_each(Cut.of(step.load, step.bits_s, step.bits_per_layer) for step in steps if step.bits_s)
    costs = Costs(Load(*by_term), overhead_s, median(errors.tolist()), len(steps), cold_s, spread, cuts, pace_beside=float(pace))
    return replace(costs, beside=_spread(beside, _seconds(beside), _rows(beside) @ seconds * scale))


def _seconds(steps: list[MeasuredStep]) -> Floats:
    return np.array([step.seconds for step in steps])


def _rows(steps: list[MeasuredStep]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([(*step.load, float(step.is_cold)) for step in steps], dtype=np.float64).reshape(len(steps), len(NO_LOAD) + 1)


def fit_in_time(steps: list[MeasuredStep], overhead_s: float) -> Costs:
    """Do the same for a machine whose speed changed during the run: its slowness in each spell is kept, and taken out of the fit."""
    costs = fit_costs(steps, overhead_s)
    slowness: tuple[float, ...] = ()
    for _ in range(NUM_LEVELLINGS):
        slowness = _slowness(steps, costs)
        costs = fit_costs([_level(step, slowness[int(step.at_s / SPELL_S)]) for step in steps], overhead_s)
    return replace(costs, slowness=slowness)


def _level(step: MeasuredStep, slowness: float) -> MeasuredStep:
    """Return what ``step`` would have been on the machine at its usual pace."""
    return replace(step, seconds=step.seconds / slowness, beside_s=step.beside_s / slowness)


def _slowness(steps: list[MeasuredStep], costs: Costs) -> tuple[float, ...]:
    """Return by how much the steps of each spell took longer than they cost; 1 where there were none but beside a long pass."""
    num_spells = int(max(step.at_s for step in steps) / SPELL_S) + 1
    taken_s, cost_s = [0.0] * num_spells, [0.0] * num_spells
    for step in steps:
        if step.is_beside:
            continue
        spell = int(step.at_s / SPELL_S)
        taken_s[spell] += step.seconds + costs.pace_beside * step.beside_s
        cost_s[spell] += costs.of(step.load)
    return tuple(taken / cost if cost else 1.0 for taken, cost in zip(taken_s, cost_s, strict=True))


def _spread(steps: list[MeasuredStep], taken_s: Floats, fitted_s: Floats) -> Spread:
    """Return how the steps of each kind, that took ``taken_s``, differ from ``fitted_s``."""
    is_mixed = np.array([step.load.mixed > 0 for step in steps], dtype=np.bool_)
    has_pictures = np.array([step.load.gen_steps > 0 for step in steps], dtype=np.bool_)
    kinds = (~is_mixed, is_mixed & ~has_pictures, is_mixed & has_pictures)
    return Spread(*(_factors(taken_s[kind], fitted_s[kind]) for kind in kinds))


def _factors(taken_s: Floats, fitted_s: Floats) -> tuple[float, ...]:
    """Return the middles of equal parts of the ordered ratios, so scaled that steps with ``fitted_s`` take as long in all as these."""
    if not len(taken_s):
        return (1.0,)
    middles = (np.arange(NUM_SPREAD) + 0.5) / NUM_SPREAD
    factors = np.quantile(taken_s / np.maximum(fitted_s, SHORTEST_S), middles)
    return tuple(float(value) for value in factors * (taken_s.sum() / fitted_s.sum() / factors.mean()))


def _non_negative_fit(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]], sums: Floats) -> Floats:
    """Return the x >= 0 that brings rows · x closest to ``sums``, in columns scaled to equal length."""
    lengths = np.linalg.norm(rows, axis=0)
    scaled = rows / np.where(lengths > 0, lengths, 1.0)
    products, targets = scaled.T @ scaled, scaled.T @ sums
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
    cold_s: float
    spread: Spread
    cuts: tuple[Cut, ...]
    arrival_s: float
    beside: Spread
    share_of_steps: float
    pace_beside: float


def write_costs(path: Path, costs: Costs) -> None:
    """Write ``costs`` as JSON."""
    seconds = costs.seconds._asdict()
    others = (costs.overhead_s, costs.median_error, costs.num_steps, costs.cold_s, costs.spread, costs.cuts, costs.arrival_s)
    document = CostsFile(seconds, *others, costs.beside, costs.share_of_steps, costs.pace_beside)
    path.write_bytes(msgspec.json.encode(document) + b"\n")


def read_costs(path: Path) -> Costs:
    """Read what `write_costs` wrote.

    Raises:
        msgspec.MsgspecError: the file is not what it should be.
    """
    document = msgspec.json.decode(path.read_bytes(), type=CostsFile)
    return Costs(Load(**document.seconds), *msgspec.structs.astuple(document)[1:])
