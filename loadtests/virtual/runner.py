"""A runner that computes nothing and lets a virtual clock run on by what each step would cost."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from loadtests.replays.clock import VirtualClock
from loadtests.virtual.bits import cut_like
from loadtests.virtual.costs import Costs
from server.engine.batch import Batch, BatchResult, DrawnToken
from server.engine.bit_pace import BitPace, BitPaces
from server.engine.cost_model import NO_LOAD, Load
from server.messages import Picture

NUM_ORDINARY_IDS = 256


@dataclass(slots=True)
class Caches:
    """Whether the last that was computed were words alone: the next word then finds what it needs in the processor's caches."""

    hold_words: bool = False


@dataclass(slots=True)
class VirtualPass:
    """A long pass in virtual time, cut like a real one; ``bits_s`` are the seconds of what is left of it, the next bit last."""

    clock: VirtualClock
    caches: Caches
    outcome: BatchResult
    bits_s: list[float]
    pace: BitPace
    result: BatchResult | None = None

    @property
    def next_bit_s(self) -> float:
        """How long the next bit should take, as far as a real pass knows it."""
        return self.pace.next_s

    def advance(self, until_s: float) -> bool:
        """Go on, at least one bit, and stop before one that should not be over by ``until_s``."""
        is_cold, self.caches.hold_words = self.caches.hold_words, False
        while self.bits_s:
            bit_s = self.bits_s.pop()
            if not is_cold:
                self.pace.note(bit_s)
            is_cold = False
            self.clock.advance(bit_s)
            if self.bits_s and self.clock.now() + self.next_bit_s > until_s:
                return False
        self.result = self.outcome
        return True


@dataclass(slots=True)
class VirtualPassBeside:
    """A long pass in virtual time that goes on beside the steps; ``left_s`` is what is left of it, in seconds of the whole machine.

    ``pace`` is what it keeps of its pace beside a step, and ``share`` what its engine counts that it had of the machine.
    """

    clock: VirtualClock
    outcome: BatchResult
    left_s: float
    pace: float
    share: float
    result: BatchResult | None = None

    def __post_init__(self) -> None:
        self.outcome.execute_s = 0.0

    @property
    def next_bit_s(self) -> float:
        return 0.0

    def advance(self, until_s: float) -> bool:
        """Have the machine whole until ``until_s`` or the end."""
        seconds = max(0.0, min(self.left_s, until_s - self.clock.now()))
        self.clock.advance(seconds)
        self.outcome.execute_s += seconds
        self.left_s -= seconds
        if self.left_s <= 0.0:
            self.result = self.outcome
        return self.result is not None

    def go_on(self, seconds: float) -> None:
        """Take in that it has been beside a step for so many seconds."""
        seconds = min(seconds, self.left_s / self.pace) if self.pace else seconds
        self.outcome.execute_s += self.share * seconds
        self.outcome.beside_s += seconds
        self.left_s -= self.pace * seconds


@dataclass(slots=True)
class Tally:
    """The loads of all steps, added up."""

    load: Load = NO_LOAD

    def add(self, load: Load) -> None:
        self.load = Load(*(one + other for one, other in zip(self.load, load, strict=True)))


@dataclass(slots=True)
class VirtualRunner:
    """Draws tokens of no meaning and pictures of no pixels.

    Attributes:
        num_layers: a long pass that none was measured of falls into so many even bits for each bit of a layer asked for.
        luck: which of the measured differences each step has.
        began_s: when the run began whose slowness the costs tell.
        num_drawn: keeps the pictures apart in every cache.
    """

    clock: VirtualClock
    costs: Costs
    num_layers: int
    luck: random.Random
    tally: Tally = field(default_factory=Tally)
    began_s: float = math.inf
    num_drawn: int = 0
    caches: Caches = field(default_factory=Caches)
    bit_paces: BitPaces = field(default_factory=BitPaces)
    under_way: VirtualPassBeside | None = None

    def execute(self, batch: Batch) -> BatchResult:
        result = self._result(batch)
        if batch.is_beside and self.under_way is not None:
            seconds = result.execute_s + self.costs.overhead_s
            self.under_way.go_on(seconds)
            self.clock.advance(seconds)
            return result
        is_words = not batch.load.mixed
        if is_words and not self.caches.hold_words:
            result.execute_s += self._slowness(batch) * self.costs.cold_s
        self.caches.hold_words = is_words
        self.clock.advance(result.execute_s + self.costs.overhead_s)
        return result

    def begin(self, batch: Batch) -> VirtualPass | VirtualPassBeside:
        result = self._result(batch)
        self.clock.advance(self.costs.overhead_s)
        if self.costs.share_of_steps:
            self.caches.hold_words = False
            share = 1.0 - self.costs.share_of_steps
            self.under_way = VirtualPassBeside(self.clock, result, result.execute_s, self.costs.pace_beside, share)
            return self.under_way
        num_bits = self.num_layers * batch.bits_per_layer
        shares = cut_like(self.costs.cuts, batch.load, self.costs.seconds, bits_per_layer=batch.bits_per_layer)
        shares = shares or (1.0 / num_bits,) * num_bits
        pace = self.bit_paces.of(batch.bits_per_layer)
        return VirtualPass(self.clock, self.caches, result, [share * result.execute_s for share in reversed(shares)], pace)

    def forget(self, sequence_ids: list[int]) -> None:
        """Nothing is kept, so nothing is forgotten."""

    def _slowness(self, batch: Batch) -> float:
        return self.costs.slowness.at(self.clock.now() - self.began_s, batch.load)

    def _result(self, batch: Batch) -> BatchResult:
        self.tally.add(batch.load)
        spread = self.costs.beside if batch.is_beside else self.costs.spread
        cost_s = self.costs.of(batch.load, is_beside=batch.is_beside)
        result = BatchResult(execute_s=self._slowness(batch) * cost_s * self.luck.choice(spread.of(batch.load)))
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
