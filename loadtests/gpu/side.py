"""The stream that pictures are decoded on beside the steps: one of the device, or in a rehearsal on a CPU one that works at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.side_stream import Arriving, CudaSideStream, SideStream


class _Arrived:
    def __init__(self, made: torch.Tensor) -> None:
        self._made = made

    def take(self) -> torch.Tensor:
        return self._made


class AtOnce:
    """A `SideStream` without a device to go on by itself."""

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        return _Arrived(work(x))


def side_stream(device: torch.device) -> SideStream:
    """Return a side stream of ``device``."""
    return CudaSideStream(device) if device.type == "cuda" else AtOnce()
