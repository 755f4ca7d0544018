"""Norms with a backward pass of their own, for training: half the memory traffic of the composition that autograd would record."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`kernels.rms_norm.rms_norm` with gradients; the weight is used in ``x.dtype``."""
    normed: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return normed


class _RmsNorm(torch.autograd.Function):
    """With ``n = x r``, ``r`` the reciprocal root mean square: ``dx = r (g w - n mean(g w n))``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        reciprocal = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
        normed = (wide * reciprocal).to(x.dtype)
        ctx.save_for_backward(normed, weight, reciprocal)
        return normed * weight.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, reciprocal = ctx.saved_tensors
        gradient = gradients[0]
        scaled = gradient * weight.to(gradient.dtype)
        along = (scaled * normed).mean(dim=-1, keepdim=True, dtype=reciprocal.dtype).to(gradient.dtype)
        of_weight = (gradient * normed).flatten(0, -2).sum(dim=0, dtype=weight.dtype)
        return torch.addcmul(scaled, normed, along, value=-1).mul_(reciprocal.to(gradient.dtype)), of_weight, None
