"""Keys and values into the page pool, and whole-page copies inside it."""

from __future__ import annotations

import torch

from kernels.kv_pages import KvPages, bits_of, rounded_to, widened
from kernels.native_kernels import native_kernels, write_pages_fits
from kernels.plan import AttentionPlan


def write_pages(k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> None:
    """Write the kept tokens of ``k[T, Hk, d]`` and ``v[T, Hk, d]`` into ``pages``, in place.

    Token ``plan.write_tokens[i]`` goes to slot ``plan.write_slots[i]``; no two tokens share a slot. Where pages hold 8-bit floats, the
    kept tokens of ``k`` and ``v`` become what those stand for: a query sees the same whether a key is of its own pass or of an earlier one.
    """
    if plan.write_tokens.numel() == 0:
        return
    if k.is_cuda and not torch.is_grad_enabled():
        from kernels.pages_triton import write_pages_with_triton  # a machine without CUDA need not have Triton

        write_pages_with_triton(k, v, pages, plan)
        return
    if write_pages_fits(k, v, pages) and (native := native_kernels()) is not None:
        native.write_pages(k, v, pages, plan)
        return
    for x, written, scale in ((k, pages.k, pages.scales.k), (v, pages.v, pages.scales.v)):
        kept = rounded_to(written.dtype, x.index_select(0, plan.write_tokens), scale)
        bits_of(written).flatten(0, 1).index_copy_(0, plan.write_slots, bits_of(kept))
        if pages.is_fp8:
            x.index_copy_(0, plan.write_tokens, widened(kept, scale, x.dtype))


def copy_pages(kv_pool: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> None:
    """Copy whole pages ``src[n] -> dst[n]`` (int64) in every layer of ``kv_pool[L, 2, P, page, Hk, d]``, in place.

    No page may be both source and destination of one call.
    """
    if src.numel() == 0:
        return
    bits = bits_of(kv_pool)
    bits.index_copy_(2, dst, bits.index_select(2, src))
