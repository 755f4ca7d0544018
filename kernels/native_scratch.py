"""Memory that native calls compute in: each thread has its own, since a pass may go on beside the steps."""

from __future__ import annotations

import threading

import torch


class Scratch(threading.local):
    """Float32 memory of the thread that asks."""

    def __init__(self) -> None:
        self._values = torch.empty(0, dtype=torch.float32)

    def of(self, num_values: int) -> torch.Tensor:
        """Return memory of at least so many values, good until this thread's next call; grown when too small, never given back."""
        if self._values.shape[0] < num_values:
            self._values = torch.empty(num_values, dtype=torch.float32)
        return self._values
