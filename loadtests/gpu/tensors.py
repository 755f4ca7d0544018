"""Random inputs of one attention call, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.plan import AttentionPlan, build_attention_plan
from loadtests.kernels.shapes import Shape, layout_of

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of `kernels.attention.interleaved_attention`; ``qkv[T, Hq + 2 Hk, d]`` as a fused projection leaves it."""

    qkv: torch.Tensor
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    plan: AttentionPlan

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, AttentionPlan]:
        num_kv_heads = self.k_pages.shape[2]
        q, k, v = self.qkv.split([self.qkv.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1)
        return q, k, v, self.k_pages, self.v_pages, self.plan

    def to(self, dtype: torch.dtype) -> Call:
        return Call(self.qkv.to(dtype), self.k_pages.to(dtype), self.v_pages.to(dtype), self.plan)


def random_call(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Call:
    """Draw unit Gaussians for a shape."""
    layout, heads = layout_of(shape, PAGE_SIZE, seed), shape.heads
    generator = torch.Generator(device).manual_seed(seed)
    pages = (2, len(layout.kv_indices) + 1, PAGE_SIZE, heads.num_kv_heads, heads.head_dim)
    tokens = (shape.num_tokens, heads.num_heads + 2 * heads.num_kv_heads, heads.head_dim)
    qkv, kv = (torch.randn(size, device=device, generator=generator).to(dtype) for size in (tokens, pages))
    return Call(qkv, kv[0], kv[1], build_attention_plan(layout, device))
