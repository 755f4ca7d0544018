"""RMSNorm to 8-bit floats in Triton: one program to a row, which it reads once."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.fp8 import Fp8Rows
from kernels.fp8_triton import empty_rows, scale_of, to_fp8
from kernels.rms_norm_triton import add_row, normed_row

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
def store_as_fp8(normed, values_ptr, scale_ptr, d, dim):
    """Store one normed row as 8-bit floats."""
    wide = normed.to(tl.float32)
    scale = scale_of(tl.abs(wide))
    tl.store(scale_ptr, scale)
    tl.store(values_ptr + d, to_fp8(wide, scale), mask=d < dim)


@triton.jit
def rms_norm_to_fp8_kernel(x_ptr, weight_ptr, values_ptr, scales_ptr, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * dim + d, mask=d < dim, other=0.0).to(tl.float32)
    normed = normed_row(x, weight_ptr, d, dim, eps, x_ptr.dtype.element_ty)
    store_as_fp8(normed, values_ptr + row * dim, scales_ptr + row, d, dim)


@triton.jit
def add_rms_norm_to_fp8_kernel(branch_ptr, residual_ptr, weight_ptr, values_ptr, scales_ptr, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    total = add_row(branch_ptr + row * dim, residual_ptr + row * dim, d, dim)
    normed = normed_row(total, weight_ptr, d, dim, eps, branch_ptr.dtype.element_ty)
    store_as_fp8(normed, values_ptr + row * dim, scales_ptr + row, d, dim)
