"""From one fused projection to attention's inputs: queries and keys normed and rotated in place, kept keys and values put into pages.

Every token is treated as its expert would have it, so one call serves both experts of a step.
"""

from __future__ import annotations

import torch

from kernels.head_norms import Angles, ExpertHeads, HeadNorms
from kernels.kv_pages import KvPages
from kernels.pages import write_pages
from kernels.plan import AttentionPlan
from kernels.qk_norm_rope import qk_norm_rope


def rotate_and_keep(qkv: torch.Tensor, experts: ExpertHeads, angles: Angles, pages: KvPages, plan: AttentionPlan) -> None:
    """Norm and rotate the queries and keys of ``qkv[T, Hq + 2 Hk, d]`` in place, and write what the plan keeps into ``pages``.

    ``angles`` are cosines and sines ``[T, d]``; ``qkv`` is contiguous, its heads in the order queries, keys, values.
    """
    if qkv.is_cuda:
        from kernels.heads_triton import rotate_and_keep_with_triton  # a machine without CUDA need not have Triton

        rotate_and_keep_with_triton(qkv, experts, angles, pages, plan)
        return
    rotate_and_keep_in_parts(qkv, experts, angles, pages, plan)


def rotate_and_keep_in_parts(qkv: torch.Tensor, experts: ExpertHeads, angles: Angles, pages: KvPages, plan: AttentionPlan) -> None:
    """Do the same one expert and one op at a time, on any device."""
    num_und = experts.num_und
    for norms, tokens in ((experts.und, slice(None, num_und)), (experts.gen, slice(num_und, None))):
        if len(qkv[tokens]):
            _rotate(qkv[tokens], norms, (angles[0][tokens], angles[1][tokens]), experts.eps, pages.num_kv_heads)
    _, k, v = split_heads(qkv, pages.num_kv_heads)
    write_pages(k, v, pages, plan)


def _rotate(qkv: torch.Tensor, norms: HeadNorms, angles: Angles, eps: float, num_kv_heads: int) -> None:
    q, k, _ = split_heads(qkv, num_kv_heads)
    wide = torch.float32 if norms.rotates_in_float32 else qkv.dtype
    weights = (norms.q_norm.to(wide), norms.k_norm.to(wide))
    rotated_q, rotated_k = qk_norm_rope(q.to(wide), k.to(wide), *weights, angles[0].to(wide), angles[1].to(wide), eps)
    q.copy_(rotated_q)
    k.copy_(rotated_k)


def split_heads(qkv: torch.Tensor, num_kv_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return views of the queries, keys and values of ``qkv[T, Hq + 2 Hk, d]``."""
    q, k, v = qkv.split([qkv.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1)
    return q, k, v
