"""Work beside the steps: on a stream of its own.

What goes on there takes the processors that the steps leave free: the device begins work of higher priority first, whenever it has both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

STEPS_PRIORITY = -1
"""Lower numbers go first; 0, that of a device's own stream and of side streams, is the last there is."""


class Arriving(Protocol):
    """A tensor that is being made."""

    def take(self) -> torch.Tensor | None:
        """Return it, None while it is not complete; waits for nothing."""
        ...


class SideStream(Protocol):
    """Does one work after the other, and lets the host and the steps go on."""

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        """Begin to compute ``work(x)``; ``x`` is one of the host's, or the host has seen that it is complete.

        Raises:
            RuntimeError: what the device raises.
        """
        ...


class CudaSideStream:
    """A `SideStream` of lowest priority on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        if x.is_cuda:
            x.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            made = work(x)
            is_made = torch.cuda.Event()
            is_made.record()
        return _Arriving(made, is_made)


class _Arriving:
    """What ``made`` holds once ``is_made`` has happened."""

    def __init__(self, made: torch.Tensor, is_made: torch.cuda.Event) -> None:
        self._made = made
        self._is_made = is_made

    def take(self) -> torch.Tensor | None:
        if not self._is_made.query():
            return None
        if self._made.is_cuda:
            # Whoever takes it reads it on the stream of the steps; its memory is free again only when they are done.
            with torch.inference_mode():
                self._made.record_stream(torch.cuda.current_stream())
        return self._made


def give_steps_priority(device: torch.device) -> None:
    """Let what this thread gives ``device`` from now on go before what side streams do. Waits for the device; a CPU has no streams."""
    if device.type != "cuda" or torch.cuda.current_stream(device).priority <= STEPS_PRIORITY:
        return
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.set_stream(torch.cuda.Stream(device, priority=STEPS_PRIORITY))
