"""The work list of one attention call: which query tile meets which key tiles, longest first. Built on the host, shared by every layer.

A query tile is a few neighbouring queries of one row, with all the heads that share a key head. Its keys are cut into tiles of
``tile_keys``, counted from the row's first key; pages and own tokens are one sequence here. From the smallest and the largest bound
among its queries each key tile has a class, so the kernel asks nothing while it runs:

    keys of the row   | 0 ........ in pages ........ past_len | own tokens ................. |
    key tiles         |  full  |  full  |  full  |  full  |  full  | partial | partial | empty |
                      begin                                       full_end             end

Full tiles are computed without a mask, partial ones with it, empty ones never. Rows of few query tiles over many keys are cut into
splits of a fixed number of key tiles, whose results are merged: by the length of the row alone, so that nothing depends on who shares
the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kernels.plan import AttentionPlan, DeviceWork, IntArray, RowLayout

MAX_SPLIT_QUERY_TILES = 4
"""Rows of more query tiles fill the machine without being split."""

ITEM_FIELDS = 9
MERGE_FIELDS = 4
WHOLE = -1
"""The slot of an item that is not part of a split row and writes its result itself."""


@dataclass(frozen=True, slots=True)
class HostWork:
    """Items and merges of one kind of tile, int32.

    Attributes:
        items: ``[num_items, 9]``, most key tiles first: first query, number of queries, row's first token (these in row order), keys in
            pages, start of the row's pages, first key tile, end of the full ones, end of all, slot of the partial result or ``WHOLE``.
        merges: ``[num_merges, 4]``: first query, number of queries, first slot, number of slots.
        num_slots: how many partial results there are.
    """

    items: IntArray
    merges: IntArray
    num_slots: int


def build_work(layout: RowLayout, rows: range, *, tile_queries: int, tile_keys: int, split_tiles: int) -> HostWork:
    """Cut neighbouring rows of a layout into items: ``tile_queries`` by ``tile_keys``, splits of ``split_tiles`` key tiles."""
    starts = layout.qo_indptr[rows.start : rows.stop + 1]
    per_row = -(-(starts[1:] - starts[:-1]) // tile_queries)
    num_tiles = int(per_row.sum())
    if num_tiles == 0:
        return HostWork(np.empty((0, ITEM_FIELDS), np.int32), np.empty((0, MERGE_FIELDS), np.int32), 0)
    row = np.repeat(np.arange(rows.start, rows.stop), per_row) if num_tiles != len(rows) else np.arange(rows.start, rows.stop)
    tiles_before = np.cumsum(per_row) - per_row
    first_query = layout.qo_indptr[row] + (np.arange(num_tiles) - tiles_before[row - rows.start]) * tile_queries
    num_queries = np.minimum(layout.qo_indptr[row + 1] - first_query, tile_queries)
    bounds = layout.kv_end[starts[0] : starts[-1]]
    full_end = np.minimum.reduceat(bounds, first_query - starts[0]) // tile_keys
    end = -(-np.maximum.reduceat(bounds, first_query - starts[0]) // tile_keys)

    num_splits = np.where(per_row[row - rows.start] <= MAX_SPLIT_QUERY_TILES, -(-end // split_tiles), 1)
    is_split = num_splits > 1
    splits_before = np.cumsum(num_splits) - num_splits
    tile = np.repeat(np.arange(num_tiles), num_splits)
    begin = (np.arange(len(tile)) - splits_before[tile]) * split_tiles
    item_end = np.where(is_split, split_tiles, end)[tile] + begin
    item_end = np.minimum(item_end, end[tile])
    slots = np.cumsum(np.where(is_split, num_splits, 0))
    slot = np.where(is_split[tile], (slots - num_splits)[tile] + np.arange(len(tile)) - splits_before[tile], WHOLE)

    row = row[tile]
    columns = [first_query[tile], num_queries[tile], layout.qo_indptr[row], layout.past_len[row], layout.kv_indptr[row], begin]
    columns += [np.clip(full_end[tile], begin, item_end), item_end, slot]
    longest_first = np.argsort(begin - item_end, kind="stable")
    items = np.stack(columns, axis=1, dtype=np.int32, casting="unsafe")[longest_first]
    merged = np.flatnonzero(is_split)
    merges = [first_query[merged], num_queries[merged], slots[merged] - num_splits[merged], num_splits[merged]]
    return HostWork(items, np.stack(merges, axis=1, dtype=np.int32, casting="unsafe"), int(slots[-1]))


def device_work(plan: AttentionPlan, rows: range, *, tile_queries: int, tile_keys: int, split_tiles: int) -> DeviceWork:
    """Return the work list of neighbouring rows on the plan's device, built when it is first asked for."""
    key = (rows.start, rows.stop, tile_queries, tile_keys, split_tiles)
    if key not in plan.work:
        host = build_work(plan.layout, rows, tile_queries=tile_queries, tile_keys=tile_keys, split_tiles=split_tiles)
        plan.work[key] = upload(host, plan.kv_end.device)
    return plan.work[key]


def upload(work: HostWork, device: torch.device) -> DeviceWork:
    """Put a work list on ``device`` in one copy."""
    head = np.array([len(work.items), len(work.merges)], dtype=np.int32)
    joined = torch.from_numpy(np.concatenate([head, work.items.reshape(-1), work.merges.reshape(-1)])).to(device, non_blocking=True)
    items, merges = joined[2:].split([work.items.size, work.merges.size])
    return DeviceWork(joined[:1], items.view(-1, ITEM_FIELDS), joined[1:2], merges.view(-1, MERGE_FIELDS), work.num_slots)
