"""Interleaved attention in Triton: two key loops (pages, then the row's own tokens) under one visibility bound per query.

FlashAttention-2's online softmax (Dao 2023, arXiv:2307.08691, algorithm 1) with three departures. The query heads that share a key
head are packed into the query tile, so a decode row fills a tile with its group:

    tile row m   = query m // GROUP of the tile, head m % GROUP of the key head's group
    tile t       belongs to the row r with qo_indptr[r] // QUERIES + r <= t < qo_indptr[r + 1] // QUERIES + r + 1

The mask is ``key < kv_end[query]``: a key tile that ends at or before the smallest bound of the query tile is computed without a mask,
one that starts at or after the largest is never computed. And keys come through two kinds of pointers, page table and token index.
"""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.plan import AttentionPlan, RowLayout

LOG2_E: float = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class TileShape:
    """How one program is cut: ``queries x heads`` rows by ``keys`` columns, and what the compiler is given for it."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


# Each compiles for sm_90 at head 128 without a register spill (tests/kernels/test_attention_compiled.py); 128 x 128 does not.
DECODE_TILE = TileShape(rows=16, keys=64, num_warps=4, num_stages=3)
SHORT_TILE = TileShape(rows=64, keys=64, num_warps=4, num_stages=3)
LONG_TILE = TileShape(rows=128, keys=64, num_warps=8, num_stages=3)


def choose_tile(layout: RowLayout, group: int) -> TileShape:
    """Pick the smallest tile that the plan's longest row fills. ``group`` is the number of query heads to a key head."""
    longest = int((layout.qo_indptr[1:] - layout.qo_indptr[:-1]).max()) * group
    if longest <= DECODE_TILE.rows:
        return DECODE_TILE
    return SHORT_TILE if longest <= SHORT_TILE.rows else LONG_TILE


def attend_with_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """Same contract as `kernels.attention.interleaved_attention`, on a CUDA device or in Triton's interpreter.

    The last axis of every tensor must be contiguous; ``k_pages`` and ``v_pages`` have equal strides. At most 128 query heads to a key head.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    layout = plan.layout
    if layout.num_tokens == 0:
        return out
    num_kv_heads, head_dim = k.shape[1], k.shape[2]
    group = q.shape[1] // num_kv_heads
    tile = choose_tile(layout, group)
    queries = tile.rows // group
    grid = (layout.num_tokens // queries + layout.num_rows, num_kv_heads)
    attention_kernel[grid](
        q, k, v, k_pages, v_pages, out,
        plan.qo_indptr, plan.token_index, plan.kv_end, plan.past_len, plan.kv_indptr, plan.kv_indices,
        layout.num_rows, head_dim**-0.5 * LOG2_E,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), out.stride(0), out.stride(1),
        k_pages.stride(0), k_pages.stride(1), k_pages.stride(2),
        PAGE=k_pages.shape[1], GROUP=group, QUERIES=queries, HEAD_DIM=head_dim,
        BLOCK_M=tile.rows, BLOCK_N=tile.keys, BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        UPCAST=is_interpreted(), num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


def is_interpreted() -> bool:
    """Whether the kernels of this process run in Triton's interpreter, whose bfloat16 arithmetic is on raw bits: it needs upcasts."""
    return not isinstance(attention_kernel, triton.JITFunction)


@triton.jit
def find_row(qo_indptr, tile, num_rows, QUERIES: tl.constexpr):
    """The last row whose first tile is at or before ``tile`` (binary search)."""
    low = 0
    high = num_rows
    while high - low > 1:
        middle = (low + high) // 2
        starts_before = tl.load(qo_indptr + middle) // QUERIES + middle <= tile
        low = tl.where(starts_before, middle, low)
        high = tl.where(starts_before, high, middle)
    return low


@triton.jit
def attend_tile(
    q, k_ptrs, v_ptrs, present, key_index, kv_end, scale, m_i, l_i, acc,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Fold one key tile into the running maximum ``m_i``, sum ``l_i`` and weighted values ``acc`` of the query tile.

    ``k_ptrs`` is ``[BLOCK_D, BLOCK_N]``, ``v_ptrs`` ``[BLOCK_N, BLOCK_D]``; ``present`` (keys that exist) is looked at only if MASKED.
    """
    in_head = tl.arange(0, BLOCK_D) < HEAD_DIM
    if MASKED:
        k = tl.load(k_ptrs, mask=present[None, :] & in_head[:, None], other=0.0)
        v = tl.load(v_ptrs, mask=present[:, None] & in_head[None, :], other=0.0)
    elif HEAD_DIM != BLOCK_D:
        k = tl.load(k_ptrs, mask=in_head[:, None], other=0.0)
        v = tl.load(v_ptrs, mask=in_head[None, :], other=0.0)
    else:
        k = tl.load(k_ptrs)
        v = tl.load(v_ptrs)
    if UPCAST:
        k = k.to(tl.float32)
        v = v.to(tl.float32)
    s = tl.dot(q, k, input_precision="ieee") * scale
    if MASKED:
        s = tl.where(key_index[None, :] < kv_end[:, None], s, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1))
    p = tl.exp2(s - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    l_i = l_i * alpha + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return m_new, l_i, acc


# Not specialised: a kernel of its own for one row, or for 16, would be compiled while somebody waits.
@triton.jit(do_not_specialize=["num_rows"])
def attention_kernel(
    q_ptr, k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, out_ptr,
    qo_indptr, token_index, kv_end_ptr, past_len_ptr, kv_indptr, kv_indices,
    num_rows, scale,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh, stride_ot, stride_oh,
    stride_page, stride_slot, stride_ph,
    PAGE: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    row = find_row(qo_indptr, tile, num_rows, QUERIES)
    row_start = tl.load(qo_indptr + row)
    row_len = tl.load(qo_indptr + row + 1) - row_start
    first_query = (tile - (row_start // QUERIES + row)) * QUERIES
    if first_query >= row_len:
        return

    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    query = first_query + m // GROUP
    is_query = (m < QUERIES * GROUP) & (query < row_len)
    head = kv_head * GROUP + m % GROUP
    token = tl.load(token_index + row_start + query, mask=is_query, other=0).to(tl.int64)
    q_mask = is_query[:, None] & (d < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + token[:, None] * stride_qt + head[:, None] * stride_qh + d[None, :], mask=q_mask, other=0.0)
    if UPCAST:
        q = q.to(tl.float32)

    # Rows of the tile that hold no query get the largest bound: they neither widen the masked part nor meet an empty softmax.
    kv_end = tl.load(kv_end_ptr + row_start + query, mask=is_query, other=0)
    max_end = tl.max(kv_end, 0)
    kv_end = tl.where(is_query, kv_end, max_end)
    min_end = tl.min(kv_end, 0)

    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    # Keys 0 .. past_len - 1, in pages: first the tiles that every query sees whole, then the rest.
    past_len = tl.load(past_len_ptr + row)
    pages = kv_indices + tl.load(kv_indptr + row)
    num_past = tl.minimum(past_len, max_end)
    full_past = tl.minimum(past_len, min_end) // BLOCK_N * BLOCK_N
    page_base = kv_head * stride_ph
    for start in range(0, full_past, BLOCK_N):
        key = start + n
        slot = tl.load(pages + key // PAGE).to(tl.int64) * stride_page + (key % PAGE) * stride_slot + page_base
        m_i, l_i, acc = attend_tile(
            q, k_pages_ptr + slot[None, :] + d[:, None], v_pages_ptr + slot[:, None] + d[None, :], key < num_past, key, kv_end, scale,
            m_i, l_i, acc, HEAD_DIM, BLOCK_D, False, UPCAST,
        )  # fmt: skip
    for start in tl.range(full_past, num_past, BLOCK_N, num_stages=1):
        key = start + n
        present = key < num_past
        page = tl.load(pages + key // PAGE, mask=present, other=0).to(tl.int64)
        slot = page * stride_page + (key % PAGE) * stride_slot + page_base
        # Beyond num_past the same index names an own token, so a query's bound alone would not hide what is not there.
        bound = tl.minimum(kv_end, num_past)
        m_i, l_i, acc = attend_tile(
            q, k_pages_ptr + slot[None, :] + d[:, None], v_pages_ptr + slot[:, None] + d[None, :], present, key, bound, scale,
            m_i, l_i, acc, HEAD_DIM, BLOCK_D, True, UPCAST,
        )  # fmt: skip

    # Keys past_len .., the row's own tokens in the packed batch; bounds are counted from the first of them here.
    own_end = kv_end - past_len
    num_own = tl.minimum(row_len, max_end - past_len)
    full_own = tl.maximum(tl.minimum(row_len, min_end - past_len), 0) // BLOCK_N * BLOCK_N
    for start in range(0, full_own, BLOCK_N):
        key = start + n
        own = tl.load(token_index + row_start + key).to(tl.int64)
        m_i, l_i, acc = attend_tile(
            q, k_ptr + own[None, :] * stride_kt + kv_head * stride_kh + d[:, None],
            v_ptr + own[:, None] * stride_vt + kv_head * stride_vh + d[None, :], key < num_own, key, own_end, scale,
            m_i, l_i, acc, HEAD_DIM, BLOCK_D, False, UPCAST,
        )  # fmt: skip
    for start in tl.range(full_own, num_own, BLOCK_N, num_stages=1):
        key = start + n
        present = key < num_own
        own = tl.load(token_index + row_start + key, mask=present, other=0).to(tl.int64)
        m_i, l_i, acc = attend_tile(
            q, k_ptr + own[None, :] * stride_kt + kv_head * stride_kh + d[:, None],
            v_ptr + own[:, None] * stride_vt + kv_head * stride_vh + d[None, :], present, key, own_end, scale,
            m_i, l_i, acc, HEAD_DIM, BLOCK_D, True, UPCAST,
        )  # fmt: skip

    out = acc / l_i[:, None]
    out_ptrs = out_ptr + token[:, None] * stride_ot + head[:, None] * stride_oh + d[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=q_mask)
