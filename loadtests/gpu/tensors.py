"""Random inputs of one attention call, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.fp8 import FP8
from kernels.heads import split_heads
from kernels.kv_pages import KvPages, KvScales, rounded_to, scale_up_to, widened
from kernels.plan import AttentionPlan, build_attention_plan
from loadtests.kernels.shapes import Shape, layout_of

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of `kernels.attention.interleaved_attention`; ``qkv[T, Hq + 2 Hk, d]`` as a fused projection leaves it."""

    qkv: torch.Tensor
    pages: KvPages
    plan: AttentionPlan

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, KvPages, AttentionPlan]:
        q, k, v = split_heads(self.qkv, self.pages.num_kv_heads)
        return q, k, v, self.pages, self.plan

    def to(self, dtype: torch.dtype) -> Call:
        """Give every number the format; 8-bit pages become what they stand for."""
        k, v, scales = self.pages.k, self.pages.v, self.pages.scales
        return Call(self.qkv.to(dtype), KvPages(widened(k, scales.k, dtype), widened(v, scales.v, dtype)), self.plan)

    def in_fp8_pages(self) -> Call:
        """Round the pages to 8-bit floats."""
        scale = scale_up_to(float(max(self.pages.k.abs().max(), self.pages.v.abs().max())))
        k, v = (rounded_to(FP8, x, scale) for x in (self.pages.k, self.pages.v))
        return Call(self.qkv, KvPages(k, v, KvScales(scale, scale)), self.plan)


def random_call(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0, page_size: int = PAGE_SIZE) -> Call:
    """Draw unit Gaussians for a shape."""
    layout, heads = layout_of(shape, page_size, seed), shape.heads
    generator = torch.Generator(device).manual_seed(seed)
    pages = (2, len(layout.kv_indices) + 1, page_size, heads.num_kv_heads, heads.head_dim)
    tokens = (shape.num_tokens, heads.num_heads + 2 * heads.num_kv_heads, heads.head_dim)
    qkv, kv = (torch.randn(size, device=device, generator=generator).to(dtype) for size in (tokens, pages))
    return Call(qkv, KvPages(kv[0], kv[1]), build_attention_plan(layout, device))
