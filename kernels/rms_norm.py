"""RMSNorm over the last axis."""

from __future__ import annotations

import torch

from kernels import reference, training
from kernels.native_kernels import is_dense, native_kernels


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise ``x[..., D]`` by its root mean square and scale it by ``weight[D]``.

    Statistics are float32; the normed value is cast to ``x.dtype`` before the weight multiplies it. Returns a new tensor like ``x``.
    """
    if x.is_cuda and not torch.is_grad_enabled():
        from kernels.rms_norm_triton import rms_norm_with_triton  # a machine without CUDA need not have Triton

        return rms_norm_with_triton(x, weight, eps)
    if torch.is_grad_enabled() and x.requires_grad:
        return training.rms_norm(x, weight, eps)
    if is_dense(x, weight) and (native := native_kernels()) is not None:
        return native.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps)


def add_rms_norm(branch: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a branch's output to the residual stream and norm the sum: return ``(branch + residual, rms_norm of it)``.

    Both are ``[T, D]``; ``branch`` is taken over and holds the sum afterwards.
    """
    if branch.is_cuda and not torch.is_grad_enabled():
        from kernels.rms_norm_triton import add_rms_norm_with_triton  # a machine without CUDA need not have Triton

        return add_rms_norm_with_triton(branch, residual, weight, eps)
    total = branch.add_(residual)
    return total, rms_norm(total, weight, eps)
