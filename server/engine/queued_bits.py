"""How far the host is ahead of the device in a long pass: a bit that is only queued holds up whoever comes after it all the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

MOST_QUEUED = 2
"""One that the device is at, and one that it can go on with at once."""


class Mark(Protocol):
    """A place in the device's work, which an event of `torch.cuda` is."""

    def query(self) -> bool:
        """Tell whether the device has come to it."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...


class QueuedBits:
    """The bits of one pass that the device has been given; ``mark`` marks the end of what it has, None where the host computes itself."""

    def __init__(self, mark: Callable[[], Mark] | None) -> None:
        self._mark = mark
        self._ends: deque[Mark] = deque()

    def add(self) -> None:
        """Count in the bit that was just given to the device, and wait until it has no more than ``MOST_QUEUED``."""
        if self._mark is None:
            return
        self._ends.append(self._mark())
        self._wait_for_all_but(MOST_QUEUED)

    def leave(self) -> None:
        """Wait until the device has no more than one: while it is at that, the host makes the step that is let through.

        Fewer, and the device would wait for the host; more, and that step's time would be taken to be longer than it is.
        """
        self._wait_for_all_but(1)

    @property
    def num_left(self) -> int:
        """How many the device is not done with."""
        return sum(not end.query() for end in self._ends)

    def _wait_for_all_but(self, number: int) -> None:
        while len(self._ends) > number:
            self._ends.popleft().synchronize()


def mark_on(device: torch.device) -> Callable[[], Mark] | None:
    """Return what marks the work that ``device`` has been given on the current stream; None for a CPU, where work is done when given."""
    return _record if device.type == "cuda" else None


def _record() -> Mark:
    event = torch.cuda.Event()
    event.record()
    return event
