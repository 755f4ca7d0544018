"""Interleaved attention: ragged rows over keys in pages and keys of this pass, one visibility bound per query."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch

from kernels.attention_torch import attend_with_torch
from kernels.kv_pages import KvPages, bits_of, widened
from kernels.native_kernels import attention_fits, native_kernels
from kernels.plan import AttentionPlan

PART_PRODUCTS = 1 << 25
"""Products of queries and keys that are worth a part of their own: about a millisecond on two cores."""


def attention_backend(device: torch.device) -> str:
    """Return which kernels `interleaved_attention` runs on ``device``: ``triton``, ``native`` (C) or ``torch``."""
    if device.type == "cuda":
        return "triton"
    return "torch" if native_kernels() is None else "native"


def interleaved_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> torch.Tensor:
    """Attend every row of the plan to its pages and to its own tokens, with scale ``1/sqrt(d)``.

    Shapes: ``q[T, Hq, d]``, ``k`` and ``v`` ``[T, Hk, d]`` in packed (expert) order, pages ``[P, page, Hk, d]``.
    Query head ``h`` reads key head ``h // (Hq / Hk)``; row-ordered query ``i`` sees keys ``0 .. plan.kv_end[i] - 1`` of its row.
    Returns ``[T, Hq, d]`` in packed order and ``q.dtype``. Pages are read as they are: nothing of this pass need be written yet.
    """
    if q.is_cuda and not torch.is_grad_enabled():
        from kernels.attention_launch import attend_with_triton  # a machine without CUDA need not have Triton

        return attend_with_triton(q, k, v, pages, plan)
    if pages.is_fp8:
        pages, plan = _widened(pages, plan, k.dtype)
    if attention_fits(q, k, v, pages) and (native := native_kernels()) is not None:
        return native.attention(q, k, v, pages, plan)
    return attend_with_torch(q, k, v, pages, plan)


def _widened(pages: KvPages, plan: AttentionPlan, dtype: torch.dtype) -> tuple[KvPages, AttentionPlan]:
    """Widen the pages that a plan names from 8-bit floats, for kernels that read none, and return the plan that names those."""
    k, v = (
        widened(bits_of(x).index_select(0, plan.kv_indices).view(x.dtype), scale, dtype)
        for x, scale in ((pages.k, pages.scales.k), (pages.v, pages.scales.v))
    )
    layout = replace(plan.layout, kv_indices=np.arange(len(plan.layout.kv_indices), dtype=np.int32))
    indices = torch.arange(len(k), dtype=torch.int32, device=k.device)
    return KvPages(k, v), replace(plan, layout=layout, kv_indices=indices, work={})


def attention_in_parts(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan, most_parts: int
) -> Generator[None, None, torch.Tensor]:
    """Do the same, and yield where somebody else may have the processor for a while: on a CPU, between up to ``most_parts`` parts of about
    equal work."""
    if q.is_cuda or pages.is_fp8 or not attention_fits(q, k, v, pages) or (native := native_kernels()) is None:
        return interleaved_attention(q, k, v, pages, plan)
    num_parts = min(most_parts, max(1, round(plan.layout.num_pairs * q.shape[1] * q.shape[2] / PART_PRODUCTS)))
    return (yield from native.attention_in_parts(q, k, v, pages, plan, num_parts))
