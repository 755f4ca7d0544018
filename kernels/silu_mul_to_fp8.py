"""SwiGLU's elementwise half whose result is only multiplied in 8-bit floats: rounded to such in the same go."""

from __future__ import annotations

import torch

from kernels.fp8 import Fp8Rows
from kernels.quantize import quantize_rows
from kernels.silu_mul import silu_mul


def silu_mul_to_fp8(gate_up: torch.Tensor) -> Fp8Rows:
    """Return ``quantize_rows(silu_mul(gate_up))`` for ``gate_up[T, 2I]``, rounded to its dtype in between."""
    if gate_up.is_cuda:
        from kernels.silu_mul_to_fp8_triton import silu_mul_to_fp8_with_triton  # a machine without CUDA need not have Triton

        return silu_mul_to_fp8_with_triton(gate_up)
    return quantize_rows(silu_mul(gate_up))
