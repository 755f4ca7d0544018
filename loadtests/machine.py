"""What this machine can do at best, measured: large matrix products in the dtype a model runs in, large copies and large reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
READ_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}


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

    def probe(self, repeats: int = 3) -> Rates:
        """Take a few samples of each rate and return their medians."""
        matmul_s = [timed(lambda: self._left @ self._right, self._device) for _ in range(repeats)]
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

    def _copy(self) -> torch.Tensor:
        """Copy one half over the other, so that as many bytes are moved as a read moves, and nothing more is held."""
        one, other = self._data.chunk(2)
        return one.copy_(other)

    def _rates(self, matmul_s: list[float], copy_s: list[float], read_s: list[float]) -> Rates:
        moved = self._data.nbytes
        return Rates(self._flop / median(matmul_s) / 1e9, moved / median(copy_s) / 1e9, moved / median(read_s) / 1e9)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds ``work`` takes, the device's included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
