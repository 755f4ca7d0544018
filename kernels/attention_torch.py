"""Interleaved attention in torch: one `scaled_dot_product_attention` for each row."""

from __future__ import annotations

import torch

from kernels.plan import AttentionPlan, RowLayout


def attend_with_torch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """Same contract as `kernels.attention.interleaved_attention`; differentiable in ``q``, ``k`` and ``v``."""
    layout = plan.layout
    outs = []
    for row in range(layout.num_rows):
        start, end = int(layout.qo_indptr[row]), int(layout.qo_indptr[row + 1])
        tokens = plan.token_index[start:end]
        keys = torch.cat((_past(k_pages, plan, row), k.index_select(0, tokens)))
        values = torch.cat((_past(v_pages, plan, row), v.index_select(0, tokens)))
        attended = torch.nn.functional.scaled_dot_product_attention(
            q.index_select(0, tokens).transpose(0, 1).unsqueeze(0),
            keys.transpose(0, 1).unsqueeze(0),
            values.transpose(0, 1).unsqueeze(0),
            attn_mask=_mask(layout, plan, row),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outs.append(attended.squeeze(0).transpose(0, 1))
    if not outs:
        return torch.empty_like(q)
    return torch.empty_like(q).index_copy(0, plan.token_index.long(), torch.cat(outs))


def _past(pages: torch.Tensor, plan: AttentionPlan, row: int) -> torch.Tensor:
    layout = plan.layout
    page_ids = plan.kv_indices[int(layout.kv_indptr[row]) : int(layout.kv_indptr[row + 1])]
    return pages.index_select(0, page_ids).flatten(0, 1)[: int(layout.past_len[row])]


def _mask(layout: RowLayout, plan: AttentionPlan, row: int) -> torch.Tensor | None:
    start, end = int(layout.qo_indptr[row]), int(layout.qo_indptr[row + 1])
    num_keys = int(layout.past_len[row]) + end - start
    if int(layout.kv_end[start:end].min()) == num_keys:
        return None
    return torch.arange(num_keys, dtype=torch.int32, device=plan.kv_end.device) < plan.kv_end[start:end, None]
