"""SwiGLU's elementwise half: silu(gate) x up, on the fused output of the gate and up projections."""

from __future__ import annotations

import torch

from kernels import reference
from kernels.native_kernels import is_dense, native_kernels


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Return ``silu(gate_up[:, :I]) * gate_up[:, I:]``, ``[T, 2I] -> [T, I]``, same dtype."""
    if gate_up.is_cuda and not torch.is_grad_enabled():
        from kernels.silu_mul_triton import silu_mul_with_triton  # a machine without CUDA need not have Triton

        return silu_mul_with_triton(gate_up)
    if is_dense(gate_up) and (native := native_kernels()) is not None:
        return native.silu_mul(gate_up)
    return reference.silu_mul(gate_up)
