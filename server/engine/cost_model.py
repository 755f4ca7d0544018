"""The cost model: how long a step will take, learnt from the steps measured so far.

    seconds ≈ a + b·und_tokens + c·gen_tokens + d·pairs + e·rows + …

Every term costs something or nothing, never less. Weighted least squares with exponential forgetting: the sums are kept, the
coefficients follow by a few rounds of non-negative coordinate descent after each step, starting from where they were. Errors count
relative to the step's length, so that a decode step of a millisecond weighs as much as a denoise step of a second; a measurement far off
its prediction is moved to the edge of what has been usual before it is taken in, so that a hiccup of the machine teaches nothing and a
lasting change does within a few steps. Steps of decode rows alone and others are forgotten each for newer ones of their kind: while
pictures are drawn without a pause no decode step may be seen alone for hours, and what one costs is still asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import add, mul
from statistics import median
from typing import NamedTuple

SHORTEST_S = 1e-6
PRIOR_SECONDS = (1e-3, 0.0, 0.0, 1e-5, 1e-5, 1e-9, 1e-5, 1e-9, 1e-9, 1e-8)
"""What is assumed before the first measurement, term by term as in `Load`: a small model on a CPU."""
FORGETTING = 0.997
"""What each step leaves of the weight of those before it: about 300 count."""
HURRIED_FORGETTING = 0.9
"""The same while predictions are off to one side: the machine has become faster or slower."""
MAX_BIAS = 0.1
NUM_BIAS_STEPS = 16
NUM_SWEEPS = 3
CLIP_ERRORS = 4.0
"""How many usual errors a measurement may be off before it is moved."""
MIN_USUAL_ERROR = 0.05
NUM_ERRORS_KEPT = 64
FAMILIAR_STEPS_PER_LESSON = 16
NUM_STEPS_TRUSTED_BLINDLY = 12
"""So many measurements are taken in as they are: the first predictions mean nothing."""


class Load(NamedTuple):
    """What a step has to do, term by term; a tuple, because a prediction is made several times a step.

    Attributes:
        steps: 1, the term of what every step costs.
        mixed: 1 for a step of more than decode rows; gen_steps: 1 where the generation expert's weights are read too.
        und_tokens, gen_tokens: query tokens of each expert.
        pairs: attended pairs of query and key.
        rows: rows of any kind.
        encoded_pixels, decoded_pixels: pictures read through the VAE or the ViT, and pictures finished.
        keys: rows of the cache that are read. A decode row has as many pairs, but waits for each key to come from memory, which the
            many queries of a prompt or a picture share.
    """

    steps: float = 1.0
    mixed: float = 0.0
    gen_steps: float = 0.0
    und_tokens: float = 0.0
    gen_tokens: float = 0.0
    pairs: float = 0.0
    rows: float = 0.0
    encoded_pixels: float = 0.0
    decoded_pixels: float = 0.0
    keys: float = 0.0

    def joined(self, other: Load) -> Load:
        """Return the load of both done in one step."""
        return Load(
            max(self.steps, other.steps),
            max(self.mixed, other.mixed),
            max(self.gen_steps, other.gen_steps),
            self.und_tokens + other.und_tokens,
            self.gen_tokens + other.gen_tokens,
            self.pairs + other.pairs,
            self.rows + other.rows,
            self.encoded_pixels + other.encoded_pixels,
            self.decoded_pixels + other.decoded_pixels,
            self.keys + other.keys,
        )


NO_LOAD = Load(steps=0.0)
NUM_TERMS = len(NO_LOAD)


class CostModel:
    """Seconds of a step by its load. Starts from an assumption, learns with `observe`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew from the assumption."""
        self._seconds = list(PRIOR_SECONDS)
        self._sums = {is_mixed: _Sums() for is_mixed in (False, True)}
        self._errors: deque[float] = deque(maxlen=NUM_ERRORS_KEPT)
        self._biases: deque[float] = deque(maxlen=NUM_BIAS_STEPS)
        self.num_observed = 0

    @property
    def error(self) -> float:
        """Median relative error of the latest predictions."""
        return median(self._errors) if self._errors else 0.0

    def predict(self, load: Load) -> float:
        """Return the seconds a step with ``load`` should take."""
        return max(SHORTEST_S, _sum_of_products(self._seconds, load))

    def fixed_s(self, load: Load) -> float:
        """Return what of that is the same for any number of rows of these kinds."""
        return self.predict(Load(load.steps, load.mixed, load.gen_steps))

    def observe(self, load: Load, seconds: float) -> None:
        """Take in that a step with ``load`` took ``seconds``."""
        if seconds <= 0.0:
            return
        predicted = self.predict(load)
        taken = self._clipped(seconds, predicted)
        if self.num_observed >= NUM_STEPS_TRUSTED_BLINDLY:
            self._errors.append(abs(seconds - predicted) / seconds)
            self._biases.append(seconds / predicted - 1.0)
        self.num_observed += 1
        if self._teaches_nothing(load, seconds, predicted):
            return
        self._sums[load.mixed > 0.0].add(load, taken, self._forgetting())
        words, others = self._sums.values()
        targets = [one + other for one, other in zip(words.targets, others.targets, strict=True)]
        products = [list(map(add, one, other)) for one, other in zip(words.products, others.products, strict=True)]
        for _ in range(NUM_SWEEPS):
            self._sweep(products, targets)

    def _teaches_nothing(self, load: Load, seconds: float, predicted: float) -> bool:
        """Tell whether a decode step, the commonest and the shortest, went as foreseen: most of those are not worth their arithmetic."""
        is_familiar = not load.mixed and abs(seconds - predicted) < MIN_USUAL_ERROR * seconds
        return is_familiar and self.num_observed % FAMILIAR_STEPS_PER_LESSON != 0

    def _clipped(self, seconds: float, predicted: float) -> float:
        if len(self._errors) < NUM_STEPS_TRUSTED_BLINDLY:
            return seconds
        width = 1.0 + CLIP_ERRORS * max(self.error, MIN_USUAL_ERROR)
        return min(max(seconds, predicted / width), predicted * width)

    def _forgetting(self) -> float:
        if len(self._biases) == NUM_BIAS_STEPS and abs(median(self._biases)) > MAX_BIAS:
            return HURRIED_FORGETTING
        return FORGETTING

    def _sweep(self, products: list[list[float]], targets: list[float]) -> None:
        """One round of coordinate descent; terms that have not been seen stay as assumed."""
        for i, row in enumerate(products):
            if row[i] > 0.0:
                residual = targets[i] - _sum_of_products(row, self._seconds)
                self._seconds[i] = max(0.0, self._seconds[i] + residual / row[i])


class _Sums:
    """The sums of least squares over steps of one kind: of ``load load^T`` and of ``load seconds``, each step by its weight."""

    def __init__(self) -> None:
        self.products = [[0.0] * NUM_TERMS for _ in range(NUM_TERMS)]
        self.targets = [0.0] * NUM_TERMS

    def add(self, load: Load, seconds: float, forgetting: float) -> None:
        """Add a step; those before count ``forgetting`` times as much from now on."""
        weight = 1.0 / (seconds * seconds)
        for i, row in enumerate(self.products):
            scaled = weight * load[i]
            row[:] = [forgetting * product + scaled * amount for product, amount in zip(row, load, strict=True)]
            self.targets[i] = forgetting * self.targets[i] + scaled * seconds


def _sum_of_products(first: Sequence[float], second: Sequence[float]) -> float:
    """Sum them in order; half the time of a generator, and a step asks some thirty times."""
    total: float = sum(map(mul, first, second))
    return total
