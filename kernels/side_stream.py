"""Work beside the steps: on a stream of its own, whose results come to the host by themselves.

What goes on there takes the processors that the steps leave free: the device begins work of higher priority first, whenever it has both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

STEPS_PRIORITY = -1
"""Lower numbers go first; 0, that of a device's own stream and of side streams, is the last there is."""


class Arriving(Protocol):
    """A tensor on its way to the host."""

    def take(self) -> torch.Tensor | None:
        """Return it, None while it is not there; waits for nothing."""
        ...


class SideStream(Protocol):
    """Does one work after the other, and lets the host and the steps go on."""

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        """Begin to compute ``work(x)``; the host has seen that ``x`` is complete.

        Raises:
            RuntimeError: what the device raises.
        """
        ...


class CudaSideStream:
    """A `SideStream` of lowest priority on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        x.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            made = work(x)
            on_host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
            on_host.copy_(made, non_blocking=True)
            has_come = torch.cuda.Event()
            has_come.record()
        return _Copied(on_host, has_come)


class _Copied:
    """What is in ``on_host`` once ``has_come`` has happened."""

    def __init__(self, on_host: torch.Tensor, has_come: torch.cuda.Event) -> None:
        self._on_host = on_host
        self._has_come = has_come

    def take(self) -> torch.Tensor | None:
        return self._on_host if self._has_come.query() else None


def give_steps_priority(device: torch.device) -> None:
    """Let what this thread gives ``device`` from now on go before what side streams do. Waits for the device; a CPU has no streams."""
    if device.type != "cuda" or torch.cuda.current_stream(device).priority <= STEPS_PRIORITY:
        return
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.set_stream(torch.cuda.Stream(device, priority=STEPS_PRIORITY))
