"""The single ops of this package in plain torch: the meaning the fast paths are tested against.

Nothing here is tuned. Each function works in any floating dtype (``float64`` gives the judge's numbers) and on any device.
"""

from __future__ import annotations

import torch

from kernels.kv_pages import KvPages, rounded_to, widened
from kernels.plan import AttentionPlan


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last axis by its root mean square (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    The statistics are float32 (float64 for float64 input); the result is cast to ``x.dtype`` *before* the weight multiplies it,
    as BAGEL does (modeling/qwen2/modeling_qwen2.py:Qwen2RMSNorm).
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (normed.to(x.dtype) * weight).to(x.dtype)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU without its matrices (Shazeer 2020, arXiv:2002.05202, eq. 6): ``[..., 2I] -> [..., I]``, silu(first half) x second half."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x[..., K] @ weight[N, K].T + bias[N]``."""
    product = x @ weight.T
    return product if bias is None else product + bias


def rotate_half_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate ``x[T, H, d]`` by the angles whose ``cos`` and ``sin`` are ``[T, d]`` (Su et al. 2021, arXiv:2104.09864, half-split form)."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * cos.unsqueeze(1) + rotated * sin.unsqueeze(1)).to(x.dtype)


def qk_norm_rope(
    q: torch.Tensor, k: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm each head of ``q[T, Hq, d]`` and ``k[T, Hk, d]`` over ``d``, then rotate both."""
    return rotate_half_rope(rms_norm(q, q_weight, eps), cos, sin), rotate_half_rope(rms_norm(k, k_weight, eps), cos, sin)


def write_pages(k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> None:
    """Put the kept tokens' keys and values into their slots, one at a time, and leave in their place what the pages say."""
    for token, slot in zip(plan.write_tokens.tolist(), plan.write_slots.tolist(), strict=True):
        page, offset = divmod(slot, pages.page_size)
        for x, kept, scale in ((k, pages.k, pages.scales.k), (v, pages.v, pages.scales.v)):
            kept[page, offset] = rounded_to(kept.dtype, x[token], scale)
            x[token] = widened(kept[page, offset], scale, x.dtype)


def visible_keys(plan: AttentionPlan, row: int) -> torch.Tensor:
    """The dense mask of one row, bool ``[row length, past_len + row length]``: True where the query sees the key."""
    start, end = int(plan.qo_indptr[row]), int(plan.qo_indptr[row + 1])
    num_keys = int(plan.past_len[row]) + end - start
    return torch.arange(num_keys, device=plan.kv_end.device) < plan.kv_end[start:end, None]


def past_of_row(pages: torch.Tensor, plan: AttentionPlan, row: int) -> torch.Tensor:
    """The keys (or values) of one row that lie in pages, ``[past_len, Hk, d]``."""
    page_ids = plan.kv_indices[int(plan.kv_indptr[row]) : int(plan.kv_indptr[row + 1])]
    return pages[page_ids.long()].flatten(0, 1)[: int(plan.past_len[row])]


def interleaved_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> torch.Tensor:
    """Softmax attention of every row with its dense mask; see `kernels.attention.interleaved_attention` for the shapes."""
    out = torch.empty_like(q)
    group = q.shape[1] // k.shape[1]
    k_pages, v_pages = widened(pages.k, pages.scales.k, k.dtype), widened(pages.v, pages.scales.v, v.dtype)
    for row in range(plan.layout.num_rows):
        tokens = plan.token_index[int(plan.qo_indptr[row]) : int(plan.qo_indptr[row + 1])].long()
        keys = torch.cat((past_of_row(k_pages, plan, row), k[tokens])).repeat_interleave(group, dim=1)
        values = torch.cat((past_of_row(v_pages, plan, row), v[tokens])).repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[tokens], keys) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~visible_keys(plan, row), float("-inf"))
        out[tokens] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values)
    return out


NORM_EPS = 1e-8
"""Keeps the renorm ratio finite (BAGEL: modeling/bagel/bagel.py:_forward_flow)."""


def renorm_ratio(unguided: torch.Tensor, guided: torch.Tensor, least: float, *, per_token: bool) -> torch.Tensor:
    """Return ``|unguided| / |guided|``, between ``least`` and 1: one scalar, or ``[num_tokens, 1]``."""
    if per_token:
        wanted, found = unguided.norm(dim=-1, keepdim=True), guided.norm(dim=-1, keepdim=True)
    else:
        wanted, found = unguided.norm(), guided.norm()
    ratio: torch.Tensor = (wanted / (found + NORM_EPS)).clamp(min=least, max=1.0)
    return ratio
