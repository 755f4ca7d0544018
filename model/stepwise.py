"""Long computations that can be interrupted: generators that yield where somebody else may have the device for a while.

What they compute does not depend on whether anybody does.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

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
