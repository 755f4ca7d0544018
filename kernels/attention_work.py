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

from kernels.plan import AttentionPlan, DeviceWork, IntArray, RowLayout, put_together
from kernels.token_runs import longest_runs

MAX_SPLIT_QUERY_TILES = 4
"""Rows of more query tiles fill the machine without being split."""

ITEM_FIELDS = 11
BEGIN, FULL_END, END, SLOT = 5, 6, 7, 8
"""Columns of an item that a split changes."""
MERGE_FIELDS = 4
WHOLE = -1
"""The slot of an item that is not part of a split row and writes its result itself."""


@dataclass(frozen=True, slots=True)
class HostWork:
    """Items and merges of one kind of tile, int32.

    Attributes:
        items: ``[num_items, 11]``, most key tiles first: first query, number of queries, row's first token (these in row order), keys in
            pages, start of the row's pages, first key tile, end of the full ones, end of all, slot of the partial result or ``WHOLE``,
            first and end of the row's key tiles whose keys stand together in the packed batch (`kernels.token_runs`).
        merges: ``[num_merges, 4]``: first query, number of queries, first slot, number of slots.
        num_slots: how many partial results there are.
    """

    items: IntArray
    merges: IntArray
    num_slots: int


def build_work(
    layout: RowLayout, rows: range, *, tile_queries: int, tile_keys: int, split_tiles: int, finds_runs: bool = False
) -> HostWork:
    """Cut neighbouring rows of a layout into items: ``tile_queries`` by ``tile_keys``, splits of ``split_tiles`` key tiles.

    Which tiles stand together takes the host half as long as all the rest, and is looked for where ``finds_runs``.
    """
    if len(rows) == 0:
        return HostWork(np.empty((0, ITEM_FIELDS), np.int32), np.empty((0, MERGE_FIELDS), np.int32), 0)
    tiles = _single_queries(layout, rows) if rows.stop <= layout.num_single_rows else _query_tiles(layout, rows, tile_queries)
    run_begin, run_end = _runs(layout, rows, tiles) if finds_runs else (0, 0)
    end = (tiles.most + (tile_keys - 1)) // tile_keys
    num_splits = (end + (split_tiles - 1)) // split_tiles
    if tiles.fills_the_machine is not None:
        num_splits[tiles.fills_the_machine] = 1

    whole = np.empty((len(end), ITEM_FIELDS), dtype=np.int32)
    columns = (tiles.first_query, tiles.num_queries, tiles.row_start, tiles.past_len, tiles.first_page)
    together = (-(-run_begin // tile_keys), run_end // tile_keys)
    for place, column in enumerate((*columns, 0, tiles.least // tile_keys, end, WHOLE, *together)):
        whole[:, place] = column
    items, merges = _split(whole, num_splits, split_tiles)
    longest_first = (items[:, BEGIN] - items[:, END]).argsort(kind="stable")
    return HostWork(items.take(longest_first, axis=0), merges, int(merges[-1, 2] + merges[-1, 3]) if len(merges) else 0)


@dataclass(frozen=True, slots=True)
class _QueryTiles:
    """Query tiles of neighbouring rows, all ``[num_tiles]``: the first columns of their items, and the bounds of their queries.

    ``least`` and ``most`` are the smallest and the largest bound of a tile; ``fills_the_machine`` says which rows are not to be split.
    """

    first_query: IntArray
    num_queries: IntArray | int
    row_start: IntArray
    past_len: IntArray
    first_page: IntArray
    least: IntArray
    most: IntArray
    fills_the_machine: np.ndarray[tuple[int], np.dtype[np.bool_]] | None


def _single_queries(layout: RowLayout, rows: range) -> _QueryTiles:
    """Make a tile of each row, which has one query."""
    inside = slice(rows.start, rows.stop)
    first, bounds = layout.qo_indptr[inside], layout.kv_end[inside]  # rows of one query come first: row and query have one number
    return _QueryTiles(first, 1, first, layout.past_len[inside], layout.kv_indptr[inside], bounds, bounds, None)


def _query_tiles(layout: RowLayout, rows: range, tile_queries: int) -> _QueryTiles:
    starts = layout.qo_indptr[rows.start : rows.stop + 1]
    per_row = (starts[1:] - starts[:-1] + (tile_queries - 1)) // tile_queries
    ends = per_row.cumsum()
    row = np.arange(rows.start, rows.stop).repeat(per_row)
    row_start = layout.qo_indptr[row]
    place = np.arange(len(row), dtype=np.int32) - (ends - per_row).repeat(per_row)
    first_query = row_start + place.astype(np.int32) * np.int32(tile_queries)
    num_queries = np.minimum(layout.qo_indptr[row + 1] - first_query, tile_queries)
    bounds, at = layout.kv_end[starts[0] : starts[-1]], first_query - starts[0]
    least, most = np.minimum.reduceat(bounds, at), np.maximum.reduceat(bounds, at)
    fills = (per_row > MAX_SPLIT_QUERY_TILES).repeat(per_row)
    return _QueryTiles(first_query, num_queries, row_start, layout.past_len[row], layout.kv_indptr[row], least, most, fills)


def _runs(layout: RowLayout, rows: range, tiles: _QueryTiles) -> tuple[IntArray, IntArray]:
    """Return for each query tile where among its row's keys the longest run is."""
    row = layout.qo_indptr[rows.start : rows.stop].searchsorted(tiles.row_start)
    past_len = layout.past_len[rows.start : rows.stop]
    begin, end = (past_len + bound for bound in longest_runs(layout, rows))
    return begin[row], end[row]


def _split(whole: IntArray, num_splits: IntArray, split_tiles: int) -> tuple[IntArray, IntArray]:
    """Cut items of whole rows, which are taken over, into ``num_splits`` each; returns the new items and the merges.

    What follows from an item's number is written as its row's share of it first, on the few rows, and the number is added on the items.
    """
    ends = num_splits.cumsum(dtype=np.int32)
    if ends[-1] == len(whole):
        return whole, np.empty((0, MERGE_FIELDS), np.int32)
    first, is_split = ends - num_splits, num_splits > 1
    first_slot = first - (~is_split).cumsum(dtype=np.int32)
    whole[:, BEGIN] = first * -split_tiles
    whole[:, SLOT] = np.where(is_split, first_slot, WHOLE) - first
    merges = np.empty((len(whole), MERGE_FIELDS), dtype=np.int32)
    merges[:, :2], merges[:, 2], merges[:, 3] = whole[:, :2], first_slot, num_splits

    items = whole.repeat(num_splits, axis=0)
    begin, full_end, end, slot = (items[:, column] for column in (BEGIN, FULL_END, END, SLOT))
    numbers = np.arange(len(items), dtype=np.int32)
    begin += numbers * split_tiles
    slot += numbers
    np.minimum(end, begin + split_tiles, out=end, where=slot != WHOLE)
    np.minimum(np.maximum(full_end, begin, out=full_end), end, out=full_end)
    return items, merges if is_split.all() else merges[is_split]


def device_work(
    plan: AttentionPlan, rows: range, *, tile_queries: int, tile_keys: int, split_tiles: int, finds_runs: bool = False
) -> DeviceWork:
    """Return the work list of neighbouring rows on the plan's device, built when it is first asked for."""
    key = (rows.start, rows.stop, tile_queries, tile_keys, split_tiles, finds_runs)
    if key not in plan.work:
        tiling = {"tile_queries": tile_queries, "tile_keys": tile_keys, "split_tiles": split_tiles}
        host = build_work(plan.layout, rows, **tiling, finds_runs=finds_runs)
        most = most_items(plan, rows, tile_keys * split_tiles) if plan.is_static else len(host.items)
        plan.work[key] = upload(host, plan.kv_end.device, most, len(rows) if plan.is_static else len(host.merges))
    return plan.work[key]


def most_items(plan: AttentionPlan, rows: range, split_keys: int) -> int:
    """Bound the items of rows of one query by the pages there is room for: whole splits, and a broken one and a query's own key each."""
    return 2 * len(rows) + len(plan.layout.kv_indices) * plan.layout.page_size // split_keys


def upload(work: HostWork, device: torch.device, most_items: int, most_merges: int) -> DeviceWork:
    """Put a work list on ``device`` in one copy, with room for so many items and merges."""
    (joined,) = put_together([_joined(work, most_items, most_merges)], device)
    sizes, items, merges = joined.split([2, most_items * ITEM_FIELDS, most_merges * MERGE_FIELDS])
    num_slots = work.num_slots if most_items == len(work.items) else most_items
    return DeviceWork(sizes[:1], items.view(-1, ITEM_FIELDS), sizes[1:], merges.view(-1, MERGE_FIELDS), num_slots, joined)


def renew_work(plan: AttentionPlan) -> None:
    """Build the lists of a static plan anew, whose arrays have changed, into the memory they are in."""
    for (start, stop, tile_queries, tile_keys, split_tiles, finds_runs), work in plan.work.items():
        tiling = {"tile_queries": tile_queries, "tile_keys": tile_keys, "split_tiles": split_tiles}
        host = _joined(build_work(plan.layout, range(start, stop), **tiling, finds_runs=finds_runs), len(work.items), len(work.merges))
        work.joined.copy_(put_together([host], work.joined.device)[0])


def _joined(work: HostWork, most_items: int, most_merges: int) -> IntArray:
    """Write how many items and merges there are, then both, each with its room."""
    joined = np.empty(2 + most_items * ITEM_FIELDS + most_merges * MERGE_FIELDS, dtype=np.int32)
    joined[:2] = len(work.items), len(work.merges)
    joined[2 : 2 + work.items.size] = work.items.reshape(-1)
    first_merge = 2 + most_items * ITEM_FIELDS
    joined[first_merge : first_merge + work.merges.size] = work.merges.reshape(-1)
    return joined
