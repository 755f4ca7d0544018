"""Per-head RMSNorm of queries and keys followed by rotary position embedding."""

from __future__ import annotations

import torch

from kernels import reference, training
from kernels.native_kernels import native_kernels, qk_norm_rope_fits


def qk_norm_rope(
    q: torch.Tensor, k: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm each head over its ``d`` values, then rotate it (rotate-half form).

    Shapes: ``q[T, Hq, d]``, ``k[T, Hk, d]``, weights ``[d]``, ``cos`` and ``sin`` ``[T, d]``. Returns new tensors like ``q`` and ``k``.
    """
    if q.is_cuda and not torch.is_grad_enabled():
        from kernels.qk_norm_rope_triton import qk_norm_rope_with_triton  # a machine without CUDA need not have Triton

        return qk_norm_rope_with_triton(q, k, q_weight, k_weight, cos, sin, eps)
    angles = (cos, sin)
    if qk_norm_rope_fits(q, k, q_weight, angles) and (native := native_kernels()) is not None:
        return native.qk_norm_rope(q, k, q_weight, k_weight, angles, eps)
    if torch.is_grad_enabled() and q.requires_grad:
        normed_q, normed_k = training.rms_norm(q, q_weight, eps), training.rms_norm(k, k_weight, eps)
        return reference.rotate_half_rope(normed_q, cos, sin), reference.rotate_half_rope(normed_k, cos, sin)
    return reference.qk_norm_rope(q, k, q_weight, k_weight, cos, sin, eps=eps)
