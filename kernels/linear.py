"""Matrix product with a stored weight."""

from __future__ import annotations

import torch

from kernels.native_kernels import linear_fits, native_kernels


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x[T, K] @ weight[N, K].T + bias[N]``, ``[T, N]`` in ``x.dtype``.

    In float32 on a CPU a row's result has the same bits whoever else is in ``x``: the native product sums in a fixed order, at up to twice
    the library's rate.
    """
    if linear_fits(x, weight, bias) and (native := native_kernels()) is not None:
        return native.linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)
