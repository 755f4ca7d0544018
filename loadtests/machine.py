"""What this machine can do at best, measured: large matrix products in the dtype a model runs in, large copies and large reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
READ_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
CALLS = {"cpu": 1, "cuda": 10}
"""Of a sample: launching one call on a GPU and waiting for it take a fiftieth of it."""
WARM_S = 0.3
"""How long a GPU works before the first sample: one that had nothing to do raises its clocks step by step."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of a large square matrix product in GFLOP/s, of copying a large float32 vector, and of summing one, in GB/s.

    A byte that is copied counts twice, as it is read and written.
    """

    matmul_gflops: float
    copy_gbps: float
    read_gbps: float


class Machine:
    """Probes of one device, to be run between measurements, so that a noisy machine is noisy for both."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        side = MATMUL_SIDE[device.type]
        self._device = device
        self._left = torch.randn(side, side, device=device).to(dtype)
        self._right = torch.randn(side, side, device=device).to(dtype)
        self._flop = 2.0 * side**3
        self._data = torch.randn(READ_BYTES[device.type] // 4, device=device)
        self._matmul_s: list[float] = []
        self._copy_s: list[float] = []
        self._read_s: list[float] = []
        if device.type == "cuda":
            run_for(WARM_S, lambda: timed(self._matmul, device))

    def probe(self, repeats: int = 3) -> Rates:
        """Take a few samples of each rate and return their medians."""
        matmul_s = [timed(self._matmul, self._device) for _ in range(repeats)]
        copy_s = [timed(self._copy, self._device) for _ in range(repeats)]
        read_s = [timed(self._data.sum, self._device) for _ in range(repeats)]
        self._matmul_s += matmul_s
        self._copy_s += copy_s
        self._read_s += read_s
        return self._rates(matmul_s, copy_s, read_s)

    @property
    def rates(self) -> Rates:
        """Median rates of every sample so far."""
        return self._rates(self._matmul_s, self._copy_s, self._read_s)

    def _matmul(self) -> torch.Tensor:
        return self._left @ self._right

    def _copy(self) -> torch.Tensor:
        """Copy one half over the other, so that as many bytes are moved as a read moves, and nothing more is held."""
        one, other = self._data.chunk(2)
        return one.copy_(other)

    def _rates(self, matmul_s: list[float], copy_s: list[float], read_s: list[float]) -> Rates:
        moved = self._data.nbytes
        return Rates(self._flop / median(matmul_s) / 1e9, moved / median(copy_s) / 1e9, moved / median(read_s) / 1e9)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one of a few calls of ``work`` takes, the device's included."""
    num = CALLS[device.type]
    started = time.perf_counter()
    for _ in range(num):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / num


def run_for(seconds: float, work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> None:
    """Call ``work`` again and again until so many seconds are over."""
    ends_s = clock() + seconds
    while clock() < ends_s:
        work()
