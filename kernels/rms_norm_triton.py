"""RMSNorm in Triton, alone and after the addition of a branch to the residual stream: one program to a row."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl


def rms_norm_with_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Same contract as `kernels.rms_norm.rms_norm`."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out = torch.empty_like(rows)
    block = triton.next_power_of_2(rows.shape[1])
    if len(rows):
        rms_norm_kernel[(len(rows),)](rows, weight, out, rows.shape[1], eps, BLOCK=block, num_warps=4 if block <= 4096 else 8)
    return out.view(x.shape)


def add_rms_norm_with_triton(
    branch: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as `kernels.rms_norm.add_rms_norm`; both inputs must be contiguous."""
    normed = torch.empty_like(branch)
    block = triton.next_power_of_2(branch.shape[1])
    if len(branch):
        add_rms_norm_kernel[(len(branch),)](
            branch, residual, weight, normed, branch.shape[1], eps, BLOCK=block, num_warps=4 if block <= 4096 else 8
        )  # fmt: skip
    return branch, normed


@triton.jit
def add_row(branch_ptr, residual_ptr, d, dim):
    """Add one row to another in place, and return the sum as it was rounded, in float32."""
    branch = tl.load(branch_ptr + d, mask=d < dim, other=0.0).to(tl.float32)
    total = (branch + tl.load(residual_ptr + d, mask=d < dim, other=0.0).to(tl.float32)).to(branch_ptr.dtype.element_ty)
    tl.store(branch_ptr + d, total, mask=d < dim)
    return total.to(tl.float32)


@triton.jit
def normed_row(x, weight_ptr, d, dim, eps, dtype: tl.constexpr):
    """Norm one row of float32 numbers and round it to ``dtype``."""
    # The reference rounds to the input's dtype before the weight; the product itself is float32 (the interpreter's bfloat16 is raw bits).
    rounded = (x * tl.rsqrt(tl.sum(x * x, 0) / dim + eps)).to(dtype).to(tl.float32)
    return (rounded * tl.load(weight_ptr + d, mask=d < dim, other=0.0).to(tl.float32)).to(dtype)


@triton.jit
def rms_norm_kernel(x_ptr, weight_ptr, out_ptr, dim, eps, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * dim
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + start + d, mask=d < dim, other=0.0).to(tl.float32)
    tl.store(out_ptr + start + d, normed_row(x, weight_ptr, d, dim, eps, x_ptr.dtype.element_ty), mask=d < dim)


@triton.jit
def add_rms_norm_kernel(branch_ptr, residual_ptr, weight_ptr, normed_ptr, dim, eps, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * dim
    d = tl.arange(0, BLOCK)
    total = add_row(branch_ptr + start, residual_ptr + start, d, dim)
    tl.store(normed_ptr + start + d, normed_row(total, weight_ptr, d, dim, eps, branch_ptr.dtype.element_ty), mask=d < dim)
