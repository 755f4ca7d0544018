"""Keys and values into the page pool, and whole-page copies inside it."""

from __future__ import annotations

import torch

from kernels.native_kernels import native_kernels, write_pages_fits
from kernels.plan import AttentionPlan


def write_pages(k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, plan: AttentionPlan) -> None:
    """Write the kept tokens of ``k[T, Hk, d]`` and ``v[T, Hk, d]`` into ``k_pages`` and ``v_pages`` ``[P, page, Hk, d]``, in place.

    Token ``plan.write_tokens[i]`` goes to slot ``plan.write_slots[i]``; no two tokens share a slot.
    """
    if plan.write_tokens.numel() == 0:
        return
    if k.is_cuda and not torch.is_grad_enabled():
        from kernels.pages_triton import write_pages_with_triton  # a machine without CUDA need not have Triton

        write_pages_with_triton(k, v, k_pages, v_pages, plan)
        return
    if write_pages_fits(k, v, k_pages, v_pages) and (native := native_kernels()) is not None:
        native.write_pages(k, v, k_pages, v_pages, plan.write_tokens, plan.write_slots)
        return
    k_pages.flatten(0, 1).index_copy_(0, plan.write_slots, k.index_select(0, plan.write_tokens))
    v_pages.flatten(0, 1).index_copy_(0, plan.write_slots, v.index_select(0, plan.write_tokens))


def copy_pages(kv_pool: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> None:
    """Copy whole pages ``src[n] -> dst[n]`` (int64) in every layer of ``kv_pool[L, 2, P, page, Hk, d]``, in place.

    No page may be both source and destination of one call.
    """
    if src.numel() == 0:
        return
    kv_pool.index_copy_(2, dst, kv_pool.index_select(2, src))
