"""Numbers of the device brought to the host together: each reading is a wait, so a step reads once, and may do so later."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch


class Reading:
    """Numbers on their way to the host, behind the work that the device has been given so far."""

    def __init__(self, columns: Sequence[torch.Tensor], device: torch.device) -> None:
        self._here: list[list[float]] | None = None
        """On a CPU nothing is on its way, and to join the tensors would take longer than to read them one by one."""
        if device.type == "cpu":
            self._here = [column.flatten().tolist() for column in columns]
            return
        self._ends = list(accumulate((column.numel() for column in columns), initial=0))
        joined = torch.cat([column.double().flatten() for column in columns]) if columns else torch.empty(0)
        self._on_host = joined.to("cpu", non_blocking=True)
        self._has_come: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._has_come = torch.cuda.Event()
            self._has_come.record()

    def numbers(self) -> list[list[float]]:
        """Wait until the numbers are here, and return those of each tensor, flattened."""
        if self._here is not None:
            return self._here
        if self._has_come is not None:
            self._has_come.synchronize()
        numbers: list[float] = self._on_host.tolist()
        return [numbers[start:end] for start, end in pairwise(self._ends)]


def begin_reading(columns: Sequence[torch.Tensor], device: torch.device) -> Reading:
    """Begin to read the numbers of each tensor on ``device``, whatever their dtypes; waiting for none is waiting for the device.

    Booleans, integers up to 2^53 and floats up to 64 bits arrive exactly.
    """
    return Reading(columns, device)


def read_together(columns: Sequence[torch.Tensor]) -> list[list[float]]:
    """Return the numbers of each tensor, flattened; see `begin_reading`. The host waits for the device once."""
    return begin_reading(columns, columns[0].device).numbers() if columns else []


def send_to_host(x: torch.Tensor) -> torch.Tensor:
    """Return a copy of ``x`` on the host, complete once the work is that its stream has been given so far; on a CPU it is ``x`` itself."""
    if not x.is_cuda:
        return x
    on_host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    on_host.copy_(x, non_blocking=True)
    return on_host
