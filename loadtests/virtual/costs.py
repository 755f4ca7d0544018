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

from loadtests.virtual.bits import Cut, some_of_each
from server.engine.cost_model import NO_LOAD, SHORTEST_S, Load

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Rows = np.ndarray[tuple[int, int], np.dtype[np.float64]]

NUM_SWEEPS = 2000
NUM_ROUNDS = 5
NUM_SPREAD = 50
SPELL_S = 3.0
"""How finely a change of the machine's speed is followed: a spell holds several long passes."""
LEAST_BESIDE = 100
"""So many decode steps beside a long pass say what such steps cost."""
NEARNESS = 0.1
"""How much it weighs that they cost so many times what they cost alone, beside all of them."""
LEAST_WORDS = 10
"""So many of its steps of decode rows alone say how slow those were in a spell."""
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
class Slowness:
    """How many times as long steps took in each ``SPELL_S`` of a run: those of decode rows alone, which memory binds, and the others, which
    arithmetic does. What else is at work on a machine seldom slows both down alike. Nothing where that is not asked."""

    words: tuple[float, ...] = ()
    others: tuple[float, ...] = ()

    def at(self, run_s: float, load: Load) -> float:
        """Return how many times as long a step with ``load`` takes ``run_s`` after the run began."""
        spells = self.others if load.mixed else self.words
        return spells[int(run_s / SPELL_S)] if 0.0 <= run_s < SPELL_S * len(spells) else 1.0


STEADY = Slowness()


@dataclass(frozen=True, slots=True)
class Costs:
    """What steps cost on a machine.

    Attributes:
        seconds: for one of each term of a load.
        cold_s: what a step of decode rows alone takes more right after other work.
        spread: how they differ from that.
        beside: how steps made beside a long pass do; words_beside: what one of each term costs decode steps there, None where that is what
            it costs alone.
        share_of_steps: the share of the processors that those have; 0 where steps are let through between a pass's bits.
        pace_beside: the share of its pace that a long pass keeps beside a step.
        overhead_s: what each step takes outside the runner; arrival_s: what taking in a request does.
        median_error: median relative error of the fit; num_steps: how many steps it was made from.
        cuts: how long passes were cut into bits.
        slowness: how the machine's speed changed during the run.
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
    slowness: Slowness = STEADY
    words_beside: Load | None = None

    def of(self, load: Load, *, is_beside: bool = False) -> float:
        """Return the seconds of a step in the runner."""
        of_each = self.words_beside if is_beside and self.words_beside is not None and not load.mixed else self.seconds
        return sum(seconds * amount for seconds, amount in zip(of_each, load, strict=True))


def fit_costs(steps: list[MeasuredStep], overhead_s: float) -> Costs:
    """Fit to the loads of steps and their seconds.

    Raises:
        ValueError: there are no steps but those made beside a long pass.
    """
    if all(step.is_beside for step in steps):
        raise ValueError("costs cannot be fitted to no steps")
    beside, steps = [step for step in steps if step.is_beside], [step for step in steps if not step.is_beside]
    loads, whole_s, beside_s = _rows(steps), _seconds(steps), np.array([step.beside_s for step in steps])
    *by_term, cold_s, pace = _robust_fit(loads, whole_s, beside_s)
    seconds, taken = np.array([*by_term, cold_s]), np.maximum(whole_s + pace * beside_s, SHORTEST_S)
    errors = np.abs(loads @ seconds - taken) / taken
    seconds *= taken.sum() / max((loads @ seconds).sum(), 1e-12)
    spread = _spread(steps, taken, loads @ seconds)
    cuts = some_of_each(Cut.of(step.load, step.bits_s, step.bits_per_layer) for step in steps if step.bits_s)
    *by_term, cold_s = (float(value) for value in seconds)
    costs = Costs(Load(*by_term), overhead_s, median(errors.tolist()), len(steps), cold_s, spread, cuts, pace_beside=float(pace))
    return _with_beside(costs, beside)


def _with_beside(costs: Costs, steps: list[MeasuredStep]) -> Costs:
    """Add what ``steps`` beside a long pass cost: they have one of the processors and what is left of the memory.

    Decode steps are fitted where enough were seen, near to so many times what they cost alone, which decides what these do not tell
    apart. Those with prompts are few: they cost what they cost alone, but for their spread.
    """
    words = [step for step in steps if not step.load.mixed]
    if len(words) >= LEAST_BESIDE:
        loads, taken, alone = _rows(words)[:, :-1], _seconds(words), np.array(costs.seconds)
        near = alone * (taken.sum() / max((loads @ alone).sum(), SHORTEST_S))
        rows = loads / taken[:, None]
        pull = NEARNESS * np.linalg.norm(rows, axis=0)
        fitted = _non_negative_fit(np.vstack([rows, np.diag(pull)]), np.concatenate([np.ones(len(words)), pull * near]))
        costs = replace(costs, words_beside=Load(*(float(value) for value in np.where(pull > 0.0, fitted, near))))
    fitted_s = np.array([costs.of(step.load, is_beside=True) for step in steps])
    return replace(costs, beside=_spread(steps, _seconds(steps), fitted_s))


def _robust_fit(loads: Rows, whole_s: Floats, beside_s: Floats) -> list[float]:
    """Return the seconds for one of each column of ``loads``, and what of its pace a pass keeps in ``beside_s``.

    Steps far off are left out.
    """
    pace = FIRST_PACE_BESIDE
    kept = np.ones(len(loads), dtype=np.bool_)
    seconds = np.zeros(loads.shape[1])
    for _ in range(NUM_ROUNDS):
        taken = np.maximum(whole_s + pace * beside_s, SHORTEST_S)
        terms = np.column_stack([loads, -beside_s])
        *fitted, pace = _non_negative_fit(terms[kept] / taken[kept, None], whole_s[kept] / taken[kept])
        seconds, pace = np.array(fitted), min(pace, 1.0)
        taken = np.maximum(whole_s + pace * beside_s, SHORTEST_S)
        errors = np.abs(loads @ seconds - taken) / taken
        kept = errors <= max(LARGEST_ERROR, float(np.median(errors)))
    return [*seconds.tolist(), pace]


def _seconds(steps: list[MeasuredStep]) -> Floats:
    return np.array([step.seconds for step in steps])


def _rows(steps: list[MeasuredStep]) -> Rows:
    return np.array([(*step.load, float(step.is_cold)) for step in steps], dtype=np.float64).reshape(len(steps), len(NO_LOAD) + 1)


def fit_in_time(steps: list[MeasuredStep], overhead_s: float) -> Costs:
    """Do the same for a machine whose speed changed during the run: its slowness in each spell is kept, and taken out of the fit."""
    costs, slowness = fit_costs(steps, overhead_s), STEADY
    for _ in range(NUM_LEVELLINGS):
        slowness = _slowness(steps, costs)
        costs = fit_costs([_level(step, slowness.at(step.at_s, step.load)) for step in steps], overhead_s)
    return replace(costs, slowness=slowness)


def _level(step: MeasuredStep, slowness: float) -> MeasuredStep:
    """Return what ``step`` would have been on the machine at its usual pace."""
    return replace(step, seconds=step.seconds / slowness, beside_s=step.beside_s / slowness)


def _slowness(steps: list[MeasuredStep], costs: Costs) -> Slowness:
    """Return by how much the steps of each spell took longer than usual, against what they cost.

    Of those of words it is the median, or a single hiccup would stand for a spell that has few of them; where that says little, words are
    taken to have been as slow as the others, and these as usual where there were none.
    """
    num_spells = int(max(step.at_s for step in steps) / SPELL_S) + 1
    words: dict[bool, list[tuple[int, float]]] = {False: [], True: []}
    taken_s, cost_s = np.zeros(num_spells), np.zeros(num_spells)
    for step in steps:
        spell = int(step.at_s / SPELL_S)
        cost = max(costs.of(step.load, is_beside=step.is_beside) + costs.cold_s * step.is_cold, SHORTEST_S)
        if not step.load.mixed:
            words[step.is_beside].append((spell, step.seconds / cost))
        elif not step.is_beside:
            taken_s[spell] += step.seconds + costs.pace_beside * step.beside_s
            cost_s[spell] += cost
    usual = taken_s.sum() / max(cost_s.sum(), SHORTEST_S)
    others = np.divide(taken_s, usual * cost_s, out=np.ones(num_spells), where=cost_s > 0.0).tolist()
    by_spell: list[list[float]] = [[] for _ in range(num_spells)]
    for measured in filter(None, words.values()):
        usual = median(ratio for _, ratio in measured)
        for spell, ratio in measured:
            by_spell[spell].append(ratio / usual)
    of_words = (median(ratios) if len(ratios) >= LEAST_WORDS else other for ratios, other in zip(by_spell, others, strict=True))
    return Slowness(tuple(of_words), tuple(others))


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


def _non_negative_fit(rows: Rows, sums: Floats) -> Floats:
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
    words_beside: dict[str, float] | None = None


def write_costs(path: Path, costs: Costs) -> None:
    """Write ``costs`` as JSON."""
    seconds = costs.seconds._asdict()
    others = (costs.overhead_s, costs.median_error, costs.num_steps, costs.cold_s, costs.spread, costs.cuts, costs.arrival_s)
    words_beside = None if costs.words_beside is None else costs.words_beside._asdict()
    document = CostsFile(seconds, *others, costs.beside, costs.share_of_steps, costs.pace_beside, words_beside)
    path.write_bytes(msgspec.json.encode(document) + b"\n")


def read_costs(path: Path) -> Costs:
    """Read what `write_costs` wrote.

    Raises:
        msgspec.MsgspecError: the file is not what it should be.
    """
    document = msgspec.json.decode(path.read_bytes(), type=CostsFile)
    words_beside = None if document.words_beside is None else Load(**document.words_beside)
    others = msgspec.structs.astuple(document)[1:-1]
    return replace(Costs(Load(**document.seconds), *others), words_beside=words_beside)
