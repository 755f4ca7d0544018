"""A runner that computes nothing and lets a virtual clock run on by what each step would cost."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from loadtests.mixed.clock import VirtualClock
from loadtests.simulate.costs import Costs
from server.engine.batch import Batch, BatchResult, DrawnToken
from server.engine.cost_model import NO_LOAD, Load
from server.messages import Picture

NUM_ORDINARY_IDS = 256
LUCK_SEED = 0
"""Every simulation has the same luck."""


@dataclass(slots=True)
class VirtualPass:
    """A long pass in virtual time, as divisible as the real one."""

    clock: VirtualClock
    outcome: BatchResult
    bit_s: float
    left_s: float
    result: BatchResult | None = None
    next_bit_s: float = 0.0

    def advance(self, until_s: float) -> bool:
        """Go on, at least one bit, and stop before one that would not be over by ``until_s``."""
        while self.result is None:
            bit_s = min(self.bit_s, self.left_s)
            self.clock.advance(bit_s)
            self.left_s -= bit_s
            self.next_bit_s = bit_s
            if self.left_s <= 0:
                self.result = self.outcome
            elif self.clock.now() + self.bit_s > until_s:
                return False
        return True


@dataclass(slots=True)
class Tally:
    """The loads of all steps, added up."""

    load: Load = NO_LOAD

    def add(self, load: Load) -> None:
        self.load = Load(*(one + other for one, other in zip(self.load, load, strict=True)))


@dataclass(slots=True)
class VirtualRunner:
    """Draws tokens of no meaning and pictures of no pixels; ``num_drawn`` keeps the pictures apart in every cache."""

    clock: VirtualClock
    costs: Costs
    num_bits: int
    tally: Tally = field(default_factory=Tally)
    num_drawn: int = 0
    under_way: VirtualPass | None = None
    luck: random.Random = field(default_factory=lambda: random.Random(LUCK_SEED))

    def execute(self, batch: Batch) -> BatchResult:
        result = self._result(batch)
        if self.under_way is not None and self.under_way.result is None:
            result.execute_s += self.costs.between_s
        self.clock.advance(result.execute_s + self.costs.overhead_s)
        return result

    def begin(self, batch: Batch) -> VirtualPass:
        result = self._result(batch)
        self.clock.advance(self.costs.overhead_s)
        self.under_way = VirtualPass(self.clock, result, result.execute_s / self.num_bits, result.execute_s)
        return self.under_way

    def forget(self, sequence_ids: list[int]) -> None:
        """Nothing is kept, so nothing is forgotten."""

    def _result(self, batch: Batch) -> BatchResult:
        self.tally.add(batch.load)
        result = BatchResult(execute_s=self.costs.of(batch.load) * self.luck.choice(self.costs.spread))
        for row in batch.decodes:
            result.tokens[row.sequence_id] = DrawnToken((row.sequence_id * 31 + row.draw.index) % NUM_ORDINARY_IDS)
        for prefill in batch.prefills:
            if prefill.draw is not None:
                result.tokens[prefill.sequence_id] = DrawnToken(prefill.draw.index % NUM_ORDINARY_IDS)
        for step in batch.denoises:
            if step.is_last and step.completes:
                self.num_drawn += 1
                result.pictures[step.sequence_id] = unpainted(step.params.height, step.params.width, self.num_drawn)
        return result


def unpainted(height: int, width: int, number: int) -> Picture:
    """Return a picture that has a number for its pixels."""
    return Picture(height, width, number.to_bytes(16, "little"))
