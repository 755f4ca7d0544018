"""A runner that notes what each step had to do, how long the engine's cost model thought it would take, and how long it took, bit by
bit where a pass is left between them; and when it was at work on what."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

from server.engine.batch import Batch, BatchResult
from server.engine.beside_cost import StepCosts
from server.engine.cost_model import Load
from server.engine.loop import DividedPass, Executor


@dataclass(frozen=True, slots=True)
class Sample:
    """One step: its load, the seconds foreseen and the seconds taken in the runner.

    Attributes:
        is_cold: whether it is a step of decode rows alone right after other work, whose data it found in the caches.
        is_beside: whether it was made beside a long pass; then it is not cold.
        bits_s: seconds of each of its own bits, if it is a long pass; bits_per_layer: how many of each layer were asked for.
        beside_s: for how long it was a long pass that had what steps left it.
        at_s: when it was done, on the clock of replays.
    """

    load: Load
    predicted_s: float
    taken_s: float
    is_cold: bool = False
    is_beside: bool = False
    bits_s: tuple[float, ...] = ()
    bits_per_layer: int = 1
    beside_s: float = 0.0
    at_s: float = 0.0

    @property
    def error(self) -> float:
        """How far the prediction was off, relative to what was taken."""
        return abs(self.predicted_s - self.taken_s) / self.taken_s


class Doing(Enum):
    """What a runner is at work on."""

    WORDS = "a decode step"
    PROMPT = "a step with a prompt"
    PICTURE = "bits of a long pass, or a step with a picture"


@dataclass(frozen=True, slots=True)
class Spell:
    """A time without a break at one kind of work; seconds of `time.perf_counter`."""

    doing: Doing
    start_s: float
    end_s: float


@dataclass(slots=True)
class MeteredRunner:
    """Passes batches on to a runner and keeps a sample of each.

    Attributes:
        costs: the engine's models, asked before they learn of the step.
        clock: the one that long passes are told by when to stop; now: that of replays.
    """

    runner: Executor
    costs: StepCosts
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.monotonic
    samples: list[Sample] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    under_way: MeteredPass | None = None

    def execute(self, batch: Batch) -> BatchResult:
        predicted_s, start_s = self.costs.foreseen_s(batch), time.perf_counter()
        doing = Doing.PICTURE if batch.denoises else Doing.PROMPT if batch.prefills else Doing.WORDS
        is_after_other = bool(self.spells) and self.spells[-1].doing is not Doing.WORDS
        is_cold = doing is Doing.WORDS and is_after_other and not batch.is_beside
        result = self.runner.execute(batch)
        self.samples.append(Sample(batch.load, predicted_s, result.execute_s, is_cold, batch.is_beside, at_s=self.now()))
        self.spells.append(Spell(doing, start_s, time.perf_counter()))
        return result

    def begin(self, batch: Batch) -> DividedPass:
        self.under_way = MeteredPass(self, self.runner.begin(batch), batch, self.costs.foreseen_s(batch))
        return self.under_way

    def forget(self, sequence_ids: list[int]) -> None:
        self.runner.forget(sequence_ids)


@dataclass(slots=True)
class MeteredPass:
    """A long pass that is taken bit by bit, or as far as it comes beside the steps, and leaves a sample when it is done."""

    meter: MeteredRunner
    steps: DividedPass
    batch: Batch
    predicted_s: float
    bits_s: list[float] = field(default_factory=list)
    result: BatchResult | None = None

    @property
    def next_bit_s(self) -> float:
        return self.steps.next_bit_s

    def advance(self, until_s: float) -> bool:
        """Go on, at least one bit where there are any, and stop before one that might not be over by ``until_s`` of the meter's clock."""
        start_s = time.perf_counter()
        is_done = self.steps.advance(until_s) if self.meter.costs.are_beside else self._advance_by_bits(until_s)
        self.meter.spells.append(Spell(Doing.PICTURE, start_s, time.perf_counter()))
        self.result = self.steps.result
        if self.result is not None:
            batch, bits_s = self.batch, tuple(self.bits_s)
            self.meter.samples.append(
                Sample(
                    batch.load,
                    self.predicted_s,
                    self.result.execute_s,
                    bits_s=bits_s,
                    bits_per_layer=batch.bits_per_layer,
                    beside_s=self.result.beside_s,
                    at_s=self.meter.now(),
                )
            )
        return is_done

    def _advance_by_bits(self, until_s: float) -> bool:
        clock = self.meter.clock
        is_done, now_s = False, clock()
        while not is_done:
            is_done = self.steps.advance(-math.inf)
            before_s, now_s = now_s, clock()
            self.bits_s.append(now_s - before_s)
            if now_s + self.next_bit_s > until_s:
                break
        return is_done


def median_error(samples: list[Sample]) -> float:
    """Return the median relative error of the engine's predictions."""
    return median(sample.error for sample in samples)
