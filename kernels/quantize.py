"""Rounds rows to 8-bit floats; see `kernels.fp8`."""

from __future__ import annotations

import torch

from kernels.fp8 import FP8, MAX_FP8, MIN_SCALE, Fp8Rows


def quantize_rows(x: torch.Tensor) -> Fp8Rows:
    """Round each row of ``x[R, K]``, scaled so that its largest number becomes the largest e4m3 number.

    A row that is not finite stays not finite.
    """
    if x.is_cuda:
        from kernels.fp8_triton import quantize_rows_with_triton  # a machine without CUDA need not have Triton

        return quantize_rows_with_triton(x)
    return quantize_rows_with_torch(x)


def quantize_rows_with_torch(x: torch.Tensor) -> Fp8Rows:
    """Do the same on any device."""
    wide = x.float()
    scales = wide.abs().amax(dim=-1).clamp(min=MIN_SCALE) / MAX_FP8
    return Fp8Rows((wide / scales[:, None]).clamp(-MAX_FP8, MAX_FP8).to(FP8), scales)
