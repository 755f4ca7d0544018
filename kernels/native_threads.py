"""How many threads the C kernels compute on: PyTorch's number until another is set."""

from __future__ import annotations

import torch

_num_threads: int | None = None


def set_native_threads(num_threads: int | None) -> None:
    """Compute on up to so many threads; None follows PyTorch's number."""
    global _num_threads
    _num_threads = num_threads


def native_threads() -> int:
    """Return the number of threads to compute on."""
    return torch.get_num_threads() if _num_threads is None else _num_threads
