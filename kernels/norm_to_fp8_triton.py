"""RMSNorm to 8-bit floats in Triton: one program to a row, which it reads once."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.fp8 import Fp8Rows
from kernels.fp8_triton import empty_rows, scale_of, to_fp8

WIDE_BLOCK = 4096


def rms_norm_to_fp8_with_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Fp8Rows:
    """Same contract as `kernels.norm_to_fp8.rms_norm_to_fp8`; ``x`` is contiguous."""
    rows, block = empty_rows(len(x), x.shape[1], x.device), triton.next_power_of_2(x.shape[1])
    if len(x):
        rms_norm_to_fp8_kernel[(len(x),)](
            x, weight, rows.values, rows.scales, x.shape[1], eps, BLOCK=block, num_warps=4 if block <= WIDE_BLOCK else 8
        )  # fmt: skip
    return rows


def add_rms_norm_to_fp8_with_triton(
    branch: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Fp8Rows]:
    """Same contract as `kernels.norm_to_fp8.add_rms_norm_to_fp8`; both inputs are contiguous."""
    rows, block = empty_rows(len(branch), branch.shape[1], branch.device), triton.next_power_of_2(branch.shape[1])
    if len(branch):
        add_rms_norm_to_fp8_kernel[(len(branch),)](
            branch, residual, weight, rows.values, rows.scales, branch.shape[1], eps,
            BLOCK=block, num_warps=4 if block <= WIDE_BLOCK else 8,
        )  # fmt: skip
    return branch, rows


@triton.jit
def norm_row_to_fp8(x, weight_ptr, values_ptr, scale_ptr, dim, eps, dtype: tl.constexpr, BLOCK: tl.constexpr):
    """Norm one row of float32 numbers, rounding as the reference does, and store it as 8-bit floats."""
    d = tl.arange(0, BLOCK)
    normed = (x * tl.rsqrt(tl.sum(x * x, 0) / dim + eps)).to(dtype).to(tl.float32)
    weighted = (normed * tl.load(weight_ptr + d, mask=d < dim, other=0.0).to(tl.float32)).to(dtype).to(tl.float32)
    scale = scale_of(tl.abs(weighted))
    tl.store(scale_ptr, scale)
    tl.store(values_ptr + d, to_fp8(weighted, scale), mask=d < dim)


@triton.jit
def rms_norm_to_fp8_kernel(x_ptr, weight_ptr, values_ptr, scales_ptr, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * dim + d, mask=d < dim, other=0.0).to(tl.float32)
    norm_row_to_fp8(x, weight_ptr, values_ptr + row * dim, scales_ptr + row, dim, eps, x_ptr.dtype.element_ty, BLOCK)


@triton.jit
def add_rms_norm_to_fp8_kernel(branch_ptr, residual_ptr, weight_ptr, values_ptr, scales_ptr, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    place = row * dim + d
    dtype = branch_ptr.dtype.element_ty
    branch = tl.load(branch_ptr + place, mask=d < dim, other=0.0).to(tl.float32)
    total = (branch + tl.load(residual_ptr + place, mask=d < dim, other=0.0).to(tl.float32)).to(dtype)
    tl.store(branch_ptr + place, total, mask=d < dim)
    norm_row_to_fp8(total.to(tl.float32), weight_ptr, values_ptr + row * dim, scales_ptr + row, dim, eps, dtype, BLOCK)
