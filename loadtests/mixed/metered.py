"""A runner that notes what each step had to do, how long the engine's cost model thought it would take, and how long it took;
and when it was at work on what."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

from server.engine.batch import Batch, BatchResult
from server.engine.cost_model import CostModel, Load
from server.engine.loop import DividedPass, Executor


@dataclass(frozen=True, slots=True)
class Sample:
    """One step: its load, the seconds foreseen and the seconds taken in the runner; whether it came between the bits of another."""

    load: Load
    predicted_s: float
    taken_s: float
    is_between: bool = False

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
    """Passes batches on to a runner and keeps a sample of each; ``cost`` is the engine's model, asked before it learns of the step."""

    runner: Executor
    cost: CostModel
    samples: list[Sample] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    under_way: MeteredPass | None = None

    def execute(self, batch: Batch) -> BatchResult:
        predicted_s, start_s = self.cost.predict(batch.load), time.perf_counter()
        result = self.runner.execute(batch)
        is_between = self.under_way is not None and self.under_way.result is None
        self.samples.append(Sample(batch.load, predicted_s, result.execute_s, is_between))
        doing = Doing.PICTURE if batch.denoises else Doing.PROMPT if batch.prefills else Doing.WORDS
        self.spells.append(Spell(doing, start_s, time.perf_counter()))
        return result

    def begin(self, batch: Batch) -> DividedPass:
        self.under_way = MeteredPass(self.runner.begin(batch), batch.load, self.cost.predict(batch.load), self.samples, self.spells)
        return self.under_way

    def forget(self, sequence_ids: list[int]) -> None:
        self.runner.forget(sequence_ids)


@dataclass(slots=True)
class MeteredPass:
    """A long pass that leaves a sample when it is done."""

    steps: DividedPass
    load: Load
    predicted_s: float
    samples: list[Sample]
    spells: list[Spell]
    result: BatchResult | None = None
    next_bit_s: float = 0.0

    def advance(self, until_s: float) -> bool:
        start_s = time.perf_counter()
        is_done = self.steps.advance(until_s)
        self.spells.append(Spell(Doing.PICTURE, start_s, time.perf_counter()))
        self.result, self.next_bit_s = self.steps.result, self.steps.next_bit_s
        if self.result is not None:
            self.samples.append(Sample(self.load, self.predicted_s, self.result.execute_s))
        return is_done


def median_error(samples: list[Sample]) -> float:
    """Return the median relative error of the engine's predictions."""
    return median(sample.error for sample in samples)
