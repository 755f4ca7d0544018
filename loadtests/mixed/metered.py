"""A runner that notes what each step had to do, how long the engine's cost model thought it would take, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from server.engine.batch import Batch, BatchResult
from server.engine.cost_model import CostModel, Load
from server.engine.loop import DividedPass, Executor


@dataclass(frozen=True, slots=True)
class Sample:
    """One step: its load, the seconds foreseen and the seconds taken in the runner."""

    load: Load
    predicted_s: float
    taken_s: float

    @property
    def error(self) -> float:
        """How far the prediction was off, relative to what was taken."""
        return abs(self.predicted_s - self.taken_s) / self.taken_s


@dataclass(slots=True)
class MeteredRunner:
    """Passes batches on to a runner and keeps a sample of each; ``cost`` is the engine's model, asked before it learns of the step."""

    runner: Executor
    cost: CostModel
    samples: list[Sample] = field(default_factory=list)

    def execute(self, batch: Batch) -> BatchResult:
        predicted_s = self.cost.predict(batch.load)
        result = self.runner.execute(batch)
        self.samples.append(Sample(batch.load, predicted_s, result.execute_s))
        return result

    def begin(self, batch: Batch) -> DividedPass:
        return MeteredPass(self.runner.begin(batch), batch.load, self.cost.predict(batch.load), self.samples)

    def forget(self, sequence_ids: list[int]) -> None:
        self.runner.forget(sequence_ids)


@dataclass(slots=True)
class MeteredPass:
    """A long pass that leaves a sample when it is done."""

    steps: DividedPass
    load: Load
    predicted_s: float
    samples: list[Sample]
    result: BatchResult | None = None
    next_bit_s: float = 0.0

    def advance(self, until_s: float) -> bool:
        is_done = self.steps.advance(until_s)
        self.result, self.next_bit_s = self.steps.result, self.steps.next_bit_s
        if self.result is not None:
            self.samples.append(Sample(self.load, self.predicted_s, self.result.execute_s))
        return is_done


def median_error(samples: list[Sample]) -> float:
    """Return the median relative error of the engine's predictions."""
    return median(sample.error for sample in samples)
