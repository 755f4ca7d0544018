"""Interleaved attention in Triton: a persistent grid over a work list, each item a query tile against its range of key tiles.

FlashAttention-2's online softmax (Dao 2023, arXiv:2307.08691, algorithm 1) with these departures:

- The query heads that share a key head are packed into the query tile, so that a decode row fills a tile with its group:
  tile row ``m`` is query ``m // GROUP`` of the tile and head ``m % GROUP`` of the key head's group.
- The mask is ``key < kv_end[query]``. The host has told full, partial and empty key tiles apart (`kernels.attention_work`): full ones
  are computed without a mask, in pages and among own tokens by loops of their own; partial ones and the one that lies half in pages
  and half among own tokens go through a third loop that looks at everything; empty ones are never touched.
- Items of a split row leave their partial result and its log-sum-exp, which `merge_kernel` joins (Flash-Decoding, Dao et al. 2023).

Own tokens stand in expert order, and pages anywhere: in general each key is loaded by a pointer of its own. Where the keys of a full tile
stand together, a descriptor loads it in bulk (`kernels.key_tiles`), if the launch has one: pages that hold whole tiles, and of each row the
longest run of tokens that stand together (`kernels.token_runs`). Warp specialisation is not asked for: Triton up to 3.9 ignores it for such
loops on Hopper, and on Blackwell spills.
"""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fold_tile(
    q, k, v, mask, scale, m_i, l_i, acc,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Fold one key tile into the running maximum ``m_i``, sum ``l_i`` and weighted values ``acc`` of the query tile.

    ``k`` is ``[BLOCK_D, BLOCK_N]``, ``v`` ``[BLOCK_N, BLOCK_D]``; both are made what ``q`` is. ``scale`` is in units of log2. Only a
    masked tile can leave a query without any key so far: its maximum is then taken as 0, so that nothing is subtracted from minus infinity.
    """
    k = k.to(q.dtype)
    v = v.to(q.dtype)
    s = tl.dot(q, k, input_precision="ieee")
    if MASKED:
        s = tl.where(mask, s, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1) * scale)
    m_used = tl.where(m_new == float("-inf"), 0.0, m_new) if MASKED else m_new
    p = tl.exp2(s * scale - m_used[:, None])
    alpha = tl.exp2(m_i - m_used)
    l_i = l_i * alpha + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return m_new, l_i, acc


@triton.jit
def load_together(k_tiles, v_tiles, kv_head, row):
    """Load a key tile of consecutive rows by descriptors over ``[num_kv_heads, num_rows, HEAD_DIM]``; what a head lacks is zeros."""
    SHAPE: tl.constexpr = k_tiles.block_shape[1:]
    return k_tiles.load([kv_head, row, 0]).reshape(SHAPE).T, v_tiles.load([kv_head, row, 0]).reshape(SHAPE)


@triton.jit
def load_heads(k_ptrs, v_ptrs, d, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load a key tile that is there in full; only a head that is no power of two needs a mask."""
    if HEAD_DIM == BLOCK_D:
        return tl.load(k_ptrs), tl.load(v_ptrs)
    in_head = d < HEAD_DIM
    return tl.load(k_ptrs, mask=in_head[:, None], other=0.0), tl.load(v_ptrs, mask=in_head[None, :], other=0.0)


@triton.jit
def attend_item(
    item, kv_head, q_ptr, k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, k_tiles, v_tiles, k_page_tiles, v_page_tiles,
    out_ptr, partial_ptr, lse_ptr, token_index, kv_end_ptr, kv_indices, scale, k_scale, v_scale,
    stride_q, stride_k, stride_v, stride_out, stride_page,
    NUM_KV_HEADS: tl.constexpr, PAGE: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Attend one item (eleven numbers at ``item``, see `kernels.attention_work.HostWork`) for one key head."""
    first_query = tl.load(item)
    num_queries = tl.load(item + 1)
    row_start = tl.load(item + 2)
    past_len = tl.load(item + 3)
    pages = kv_indices + tl.load(item + 4)
    begin = tl.load(item + 5)
    full_end = tl.load(item + 6)
    end = tl.load(item + 7)
    partial_slot = tl.load(item + 8)
    run_begin = tl.load(item + 9)
    run_end = tl.load(item + 10)

    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_L)
    query = m // GROUP
    is_query = query < num_queries
    column = (kv_head * GROUP + m % GROUP) * HEAD_DIM
    token = tl.load(token_index + first_query + query, mask=is_query, other=0)
    q_mask = is_query[:, None] & (d < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + (token * stride_q + column)[:, None] + d[None, :], mask=q_mask, other=0.0)
    if UPCAST:
        q = q.to(tl.float32)

    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    k_own = k_ptr + kv_head * HEAD_DIM
    v_own = v_ptr + kv_head * HEAD_DIM
    k_past = k_pages_ptr + kv_head * HEAD_DIM
    v_past = v_pages_ptr + kv_head * HEAD_DIM

    # Full tiles in pages, then full tiles among own tokens. Between the two lies at most one tile that is in both. Only own tokens that
    # stand together are computed a whole tile at a time: of 128 keys, pointers to each would spill. All else is cut into parts of BLOCK_L.
    # What 8-bit keys and values are scaled by costs nothing here: a factor of all scores, and of the sum when it is done.
    IS_FP8: tl.constexpr = k_pages_ptr.dtype.element_ty != k_ptr.dtype.element_ty
    page_scale = scale * k_scale if IS_FP8 else scale
    # A GPU makes two float16 of two 8-bit floats at once, and each bfloat16 by itself, four times as slowly; float16 holds them as exactly.
    q_past = q.to(tl.float16) if IS_FP8 and q.dtype == tl.bfloat16 else q
    PARTS: tl.constexpr = BLOCK_N // BLOCK_L
    past_tiles = past_len // BLOCK_N
    for part in range(begin * PARTS, tl.minimum(full_end, past_tiles) * PARTS):
        if k_page_tiles is None:
            key = part * BLOCK_L + n
            slot = tl.load(pages + key // PAGE).to(tl.int64) * stride_page + (key % PAGE) * (NUM_KV_HEADS * HEAD_DIM)
            k, v = load_heads(k_past + slot[None, :] + d[:, None], v_past + slot[:, None] + d[None, :], d, HEAD_DIM, BLOCK_D)
        else:
            key = part * BLOCK_L
            k, v = load_together(k_page_tiles, v_page_tiles, kv_head, tl.load(pages + key // PAGE) * PAGE + key % PAGE)
        m_i, l_i, acc = fold_tile(q_past, k, v, is_query, page_scale, m_i, l_i, acc, False)
    if IS_FP8:
        acc *= v_scale
    own_begin = tl.maximum(begin, tl.cdiv(past_len, BLOCK_N))
    own_index = token_index + (row_start - past_len)
    run_begin = tl.maximum(own_begin, run_begin)
    run_end = run_begin if k_tiles is None else tl.maximum(run_begin, tl.minimum(full_end, run_end))
    in_run = run_end - run_begin
    for step in range(own_begin * PARTS, (full_end - in_run) * PARTS):
        part = tl.where(step < run_begin * PARTS, step, step + in_run * PARTS)
        own = tl.load(own_index + part * BLOCK_L + n)
        k, v = load_heads(
            k_own + (own * stride_k)[None, :] + d[:, None], v_own + (own * stride_v)[:, None] + d[None, :], d, HEAD_DIM, BLOCK_D
        )
        m_i, l_i, acc = fold_tile(q, k, v, is_query, scale, m_i, l_i, acc, False)
    if k_tiles is not None:
        first_row = tl.load(own_index + run_begin * BLOCK_N, mask=in_run > 0, other=0)
        for tile in range(in_run):
            k, v = load_together(k_tiles, v_tiles, kv_head, first_row + tile * BLOCK_N)
            m_i, l_i, acc = fold_tile(q, k, v, is_query, scale, m_i, l_i, acc, False)

    # The tile in both sources, where it is full, and every partial tile. Rows of the tile that hold no query see nothing.
    kv_end = tl.load(kv_end_ptr + first_query + query, mask=is_query, other=0)
    max_end = tl.max(kv_end, 0)
    is_straddled = (past_tiles >= begin) & (past_tiles < full_end) & (past_tiles * BLOCK_N < past_len)
    # Partial tiles are cut into pieces of BLOCK_P keys, so that fewer keys are looked at in vain and fewer registers are in use.
    PIECES: tl.constexpr = BLOCK_N // BLOCK_P
    first = (full_end - tl.where(is_straddled, 1, 0)) * PIECES
    last = tl.minimum(end * PIECES, tl.maximum(tl.cdiv(max_end, BLOCK_P), full_end * PIECES))
    in_head = d < HEAD_DIM
    n_piece = tl.arange(0, BLOCK_P)
    for step in tl.range(first, last, num_stages=1):
        piece = tl.where(step < full_end * PIECES, past_tiles * PIECES + step - first, step)
        key = piece * BLOCK_P + n_piece
        present = key < max_end
        is_past = present & (key < past_len)
        is_own = present & (key >= past_len)
        page = tl.load(pages + key // PAGE, mask=is_past, other=0).to(tl.int64)
        own = tl.load(own_index + key, mask=is_own, other=0)
        slot = page * stride_page + (key % PAGE) * (NUM_KV_HEADS * HEAD_DIM)
        if IS_FP8:  # pointers of two formats cannot be one: each source is loaded where the key is there, zeros where it is not
            k = tl.load((k_own + own * stride_k)[None, :] + d[:, None], mask=is_own[None, :] & in_head[:, None], other=0.0).to(q.dtype)
            k_old = tl.load((k_past + slot)[None, :] + d[:, None], mask=is_past[None, :] & in_head[:, None], other=0.0)
            k += k_old.to(q.dtype) * tl.cast(k_scale, q.dtype)
            v = tl.load((v_own + own * stride_v)[:, None] + d[None, :], mask=is_own[:, None] & in_head[None, :], other=0.0).to(q.dtype)
            v_old = tl.load((v_past + slot)[:, None] + d[None, :], mask=is_past[:, None] & in_head[None, :], other=0.0)
            v += v_old.to(q.dtype) * tl.cast(v_scale, q.dtype)
        else:
            k_ptrs = tl.where(is_past, k_past + slot, k_own + own * stride_k)
            v_ptrs = tl.where(is_past, v_past + slot, v_own + own * stride_v)
            k = tl.load(k_ptrs[None, :] + d[:, None], mask=present[None, :] & in_head[:, None], other=0.0)
            v = tl.load(v_ptrs[:, None] + d[None, :], mask=present[:, None] & in_head[None, :], other=0.0)
        m_i, l_i, acc = fold_tile(q, k, v, key[None, :] < kv_end[:, None], scale, m_i, l_i, acc, True)

    l_used = tl.where(l_i == 0.0, 1.0, l_i)
    attended = acc / l_used[:, None]
    if partial_slot < 0:
        out_ptrs = out_ptr + (token * stride_out + column)[:, None] + d[None, :]
        tl.store(out_ptrs, attended.to(out_ptr.dtype.element_ty), mask=q_mask)
    else:
        place = (partial_slot.to(tl.int64) * NUM_KV_HEADS + kv_head) * BLOCK_M + m
        tl.store(lse_ptr + place, tl.where(l_i == 0.0, float("-inf"), m_i + tl.log2(l_used)), mask=is_query)
        tl.store(partial_ptr + place[:, None] * BLOCK_D + d[None, :], attended, mask=is_query[:, None])


# Nothing that changes from step to step is a number of the launch: a kernel of its own for 1, or for 16, would be compiled meanwhile.
# Nor may it matter where a plan's arrays begin, which lie one behind the other in one piece of memory: their numbers are loaded one by one.
@triton.jit(do_not_specialize_on_alignment=["token_index", "kv_end_ptr", "kv_indices", "items", "num_items"])
def attention_kernel(
    q_ptr, k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, k_tiles, v_tiles, k_page_tiles, v_page_tiles, out_ptr, partial_ptr, lse_ptr,
    token_index, kv_end_ptr, kv_indices, items, num_items, scale, k_scale, v_scale,
    stride_q, stride_k, stride_v, stride_out, stride_page,
    NUM_KV_HEADS: tl.constexpr, PAGE: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Walk the list in waves of one item a program, every other wave backwards: the longest of one goes with the shortest of the next.

    ``num_items`` points at the number of items, so that a captured graph serves lists of any length.
    """
    program = tl.program_id(0)
    num_programs = tl.num_programs(0)
    total = tl.load(num_items) * NUM_KV_HEADS
    for wave in tl.range(0, tl.cdiv(total, num_programs), disable_licm=True):
        place = wave * num_programs + tl.where(wave % 2 == 0, program, num_programs - 1 - program)
        if place < total:
            attend_item(
                items + place // NUM_KV_HEADS * 11, place % NUM_KV_HEADS,
                q_ptr, k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, k_tiles, v_tiles, k_page_tiles, v_page_tiles,
                out_ptr, partial_ptr, lse_ptr, token_index, kv_end_ptr, kv_indices,
                scale, k_scale, v_scale, stride_q, stride_k, stride_v, stride_out, stride_page,
                NUM_KV_HEADS, PAGE, GROUP, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_L, BLOCK_P, BLOCK_D, UPCAST,
            )  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=["token_index", "merges", "num_merges"])
def merge_kernel(
    partial_ptr, lse_ptr, out_ptr, token_index, merges, num_merges,
    stride_out,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Join the partial results of one query tile and key head: their mean, weighted by the exponentials of their log-sum-exps (base 2)."""
    kv_head = tl.program_id(1)
    if tl.program_id(0) < tl.load(num_merges):
        merge = merges + tl.program_id(0) * 4
        num_queries = tl.load(merge + 1)
        first_slot = tl.load(merge + 2).to(tl.int64)
        num_slots = tl.load(merge + 3)
        m = tl.arange(0, BLOCK_M)
        d = tl.arange(0, BLOCK_D)
        m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
        l_i = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        query = m // GROUP
        is_query = query < num_queries
        # The first split holds key 0, which every query sees: from it on the maximum is finite for every row that holds a query.
        for slot in range(num_slots):
            place = ((first_slot + slot) * NUM_KV_HEADS + kv_head) * BLOCK_M + m
            lse = tl.load(lse_ptr + place, mask=is_query, other=float("-inf"))
            m_new = tl.maximum(m_i, lse)
            m_used = tl.where(m_new == float("-inf"), 0.0, m_new)
            alpha = tl.exp2(m_i - m_used)
            weight = tl.exp2(lse - m_used)
            partial = tl.load(partial_ptr + place[:, None] * BLOCK_D + d[None, :], mask=is_query[:, None], other=0.0)
            acc = acc * alpha[:, None] + weight[:, None] * partial
            l_i = l_i * alpha + weight
            m_i = m_new
        token = tl.load(token_index + tl.load(merge) + query, mask=is_query, other=0)
        column = (kv_head * GROUP + m % GROUP) * HEAD_DIM
        out_ptrs = out_ptr + (token * stride_out + column)[:, None] + d[None, :]
        merged = acc / tl.where(l_i == 0.0, 1.0, l_i)[:, None]
        tl.store(out_ptrs, merged.to(out_ptr.dtype.element_ty), mask=is_query[:, None] & (d < HEAD_DIM)[None, :])
