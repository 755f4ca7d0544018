"""Long computations that can be interrupted: generators that yield where somebody else may have the device for a while.

What they compute does not depend on whether anybody does.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

BLOCKS_PER_LAYER = 6
"""Into how many blocks of tokens what follows attention in a layer is cut where it shall be left often; each is then about as long as
the projections before attention, or attention itself."""
BITS_PER_LAYER = 2 + BLOCKS_PER_LAYER
LEAST_BLOCK = 64
"""Fewer tokens are not a block of their own: reading the weights would take longer than using them."""

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
