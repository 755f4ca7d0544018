"""Long computations that can be interrupted: generators that yield where somebody else may have the device for a while.

What they compute does not depend on whether anybody does.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

LEAST_BLOCK = 64
"""Fewer tokens are not a block of their own: reading the weights would take longer than using them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a layer is cut where it shall be left often: at most into how many blocks of tokens.

    Attributes:
        num_projected: before attention; attention is as divisible. num_finished: after it, where most of the work is.
    """

    num_projected: int
    num_finished: int

    @property
    def num_bits(self) -> int:
        """Into how many bits of about equal length it is cut, and into how many parts attention may be at most."""
        return 2 * self.num_projected + self.num_finished

    def into(self, num_bits: int) -> Cut:
        """Return one like this of about ``num_bits`` bits, no finer than this."""
        share = min(1.0, num_bits / self.num_bits)
        return Cut(math.ceil(share * self.num_projected), math.ceil(share * self.num_finished))


GPU_CUT = Cut(1, 6)
"""A GPU reads the weights again for every block."""
CPU_CUT = Cut(8, 64)
"""A CPU has them in its caches: 64 tokens together take hardly longer than they would among 512 (`server.engine.budget.CUT_SHARE`)."""
UNCUT = Cut(1, 1)


def finest_cut(device_type: str) -> Cut:
    """Return how finely a layer is worth cutting on ``cpu`` or ``cuda``."""
    return GPU_CUT if device_type == "cuda" else CPU_CUT


T = TypeVar("T")

Steps = Generator[None, None, T]
"""Yields between its steps and returns the result."""


def run_through(steps: Steps[T]) -> T:
    """Run without interruption."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def blocks_of(num_tokens: int, num_blocks: int) -> list[slice]:
    """Cut tokens into up to ``num_blocks`` near-equal blocks; a few tokens are no block of their own."""
    size = max(1, -(-num_tokens // max(1, min(num_blocks, num_tokens // LEAST_BLOCK))))
    return [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]
