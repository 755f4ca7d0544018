"""Matrix product with a stored weight, in the weight's own format or in 8-bit floats."""

from __future__ import annotations

from functools import cache

import torch

from kernels.fp8 import Fp8Rows
from kernels.native_kernels import linear_fits, native_kernels
from kernels.quantize import quantize_rows

FEW_ROWS, MANY_COLUMNS = 256, 8192
"""Of so few rows over so many columns, products with scales of rows and channels were seen refused on Hopper (pytorch/ao#4582)."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x[T, K] @ weight[N, K].T + bias[N]``, ``[T, N]`` in ``x.dtype``.

    In float32 on a CPU a row's result has the same bits whoever else is in ``x``: the native product sums in a fixed order, at up to twice
    the library's rate.
    """
    if linear_fits(x, weight, bias) and (native := native_kernels()) is not None:
        return native.linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


def fp8_linear(x: torch.Tensor, weight: Fp8Rows, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return the same product of 8-bit floats: the rows of ``x`` are rounded to such, sums and scales are float32."""
    return fp8_product(quantize_rows(x), weight, x.dtype, bias)


def fp8_product(rows: Fp8Rows, weight: Fp8Rows, dtype: torch.dtype, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``rows[T, K] @ weight[N, K].T + bias[N]``, ``[T, N]`` in ``dtype``.

    On a GPU (compute capability 8.9 and later, ``dtype`` bfloat16, K and N multiples of 16) this is the library's scaled product; elsewhere
    its arithmetic is done in float32, to see what it costs in precision.
    """
    if rows.values.is_cuda:
        return scaled_product(rows, weight, dtype, bias)
    product = linear(rows.values.float(), weight.values.float()) * rows.scales[:, None] * weight.scales
    return (product if bias is None else product + bias).to(dtype)


def scaled_product(rows: Fp8Rows, weight: Fp8Rows, dtype: torch.dtype, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Do the same with the library's product, whose public name takes no scales of rows and channels."""
    values = rows.values, weight.values.T
    if bias is None and len(rows.values) <= FEW_ROWS and rows.values.shape[1] > MANY_COLUMNS:
        one = _one(rows.values.device)
        wide = torch._scaled_mm(*values, one, one, out_dtype=torch.float32, use_fast_accum=True)
        return wide.mul_(rows.scales[:, None]).mul_(weight.scales).to(dtype)
    return torch._scaled_mm(*values, rows.scales[:, None], weight.scales[None, :], bias=bias, out_dtype=dtype, use_fast_accum=True)


@cache
def _one(device: torch.device) -> torch.Tensor:
    return torch.ones((), device=device)
