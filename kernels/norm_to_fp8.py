"""RMSNorm whose result is only multiplied in 8-bit floats: normed and rounded in one go, so that it is never written in full width."""

from __future__ import annotations

import torch

from kernels.fp8 import Fp8Rows
from kernels.quantize import quantize_rows
from kernels.rms_norm import add_rms_norm, rms_norm


def rms_norm_to_fp8(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Fp8Rows:
    """Return ``quantize_rows(rms_norm(x, weight, eps))`` for ``x[T, D]``, rounded to ``x.dtype`` in between."""
    if x.is_cuda:
        from kernels.norm_to_fp8_triton import rms_norm_to_fp8_with_triton  # a machine without CUDA need not have Triton

        return rms_norm_to_fp8_with_triton(x, weight, eps)
    return quantize_rows(rms_norm(x, weight, eps))


def add_rms_norm_to_fp8(branch: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, Fp8Rows]:
    """Return ``branch + residual``, ``[T, D]`` each, and its `rms_norm_to_fp8`. ``branch`` is taken over and holds the sum afterwards."""
    if branch.is_cuda:
        from kernels.norm_to_fp8_triton import add_rms_norm_to_fp8_with_triton  # a machine without CUDA need not have Triton

        return add_rms_norm_to_fp8_with_triton(branch, residual, weight, eps)
    total, normed = add_rms_norm(branch, residual, weight, eps)
    return total, quantize_rows(normed)
