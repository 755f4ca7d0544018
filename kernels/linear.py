"""Matrix product with a stored weight."""

from __future__ import annotations

import torch


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x[T, K] @ weight[N, K].T + bias[N]``, ``[T, N]`` in ``x.dtype``."""
    return torch.nn.functional.linear(x, weight, bias)
