"""SwiGLU's elementwise half: silu(gate) x up, on the fused output of the gate and up projections."""

from __future__ import annotations

import torch

from kernels import reference


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Return ``silu(gate_up[:, :I]) * gate_up[:, I:]``, ``[T, 2I] -> [T, I]``, same dtype."""
    return reference.silu_mul(gate_up)
