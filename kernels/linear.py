"""Matrix product with a stored weight, in the weight's own format or in 8-bit floats."""

from __future__ import annotations

import torch

from kernels.fp8 import Fp8Rows
from kernels.native_kernels import linear_fits, native_kernels
from kernels.quantize import quantize_rows


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
        scales = (rows.scales[:, None], weight.scales[None, :])
        # The only scaled product of rows and channels that PyTorch has; its public name takes no such scales.
        return torch._scaled_mm(rows.values, weight.values.T, *scales, bias=bias, out_dtype=dtype, use_fast_accum=True)
    product = linear(rows.values.float(), weight.values.float()) * rows.scales[:, None] * weight.scales
    return (product if bias is None else product + bias).to(dtype)
