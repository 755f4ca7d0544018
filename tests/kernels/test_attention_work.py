"""The work list covers every visible key of every query exactly once, and nothing that nobody sees."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from kernels.attention_work import MAX_SPLIT_QUERY_TILES, WHOLE, build_work, device_work, upload
from kernels.plan import RowLayout, put_together
from kernels.token_runs import longest_runs
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, build_layout, decode, denoise, ragged_cases

TILE_QUERIES, TILE_KEYS, SPLIT_TILES = 3, 8, 2


def layout_of(*rows: Row) -> RowLayout:
    return build_layout(list(rows), 16, np.random.default_rng(0))


def visits(layout: RowLayout) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """Count for each (query, key tile) how often it is met as full and as partial."""
    work = build_work(layout, range(layout.num_rows), tile_queries=TILE_QUERIES, tile_keys=TILE_KEYS, split_tiles=SPLIT_TILES)
    full: dict[tuple[int, int], int] = {}
    partial: dict[tuple[int, int], int] = {}
    for first, num, _, _, _, begin, full_end, end, *_ in work.items.tolist():
        for query in range(first, first + num):
            for tile in range(begin, end):
                met = full if tile < full_end else partial
                met[query, tile] = met.get((query, tile), 0) + 1
    return full, partial


@settings(max_examples=60, deadline=None)
@given(ragged_cases(max_rows=4, max_segment=40), st.booleans(), st.integers(0, 2**31))
def test_every_visible_key_is_met_once_and_full_tiles_are_wholly_visible(case: RaggedCase, is_wild: bool, seed: int) -> None:
    layout = (case.with_any_bounds(seed) if is_wild else case).plan.layout
    full, partial = visits(layout)
    assert not full.keys() & partial.keys()
    for query, end in enumerate(layout.kv_end.tolist()):
        tiles = [tile for q, tile in full.keys() | partial.keys() if q == query]
        assert set(range(-(-end // TILE_KEYS))) <= set(tiles)
        assert all((tile + 1) * TILE_KEYS <= end for q, tile in full if q == query)
    assert {*full.values(), *partial.values()} == {1}


@settings(max_examples=30, deadline=None)
@given(ragged_cases(max_rows=4, max_segment=40))
def test_a_key_tile_that_no_query_of_the_tile_sees_is_not_listed(case: RaggedCase) -> None:
    layout = case.plan.layout
    work = build_work(layout, range(layout.num_rows), tile_queries=TILE_QUERIES, tile_keys=TILE_KEYS, split_tiles=SPLIT_TILES)
    for first, num, _, _, _, begin, _, end, *_ in work.items.tolist():
        assert begin < end <= -(-int(layout.kv_end[first : first + num].max()) // TILE_KEYS)


@settings(max_examples=60, deadline=None)
@given(ragged_cases(max_rows=4, max_segment=40))
def test_the_key_tiles_named_as_standing_together_do_in_the_packed_batch(case: RaggedCase) -> None:
    layout = case.plan.layout
    tiling = {"tile_queries": TILE_QUERIES, "tile_keys": TILE_KEYS, "split_tiles": SPLIT_TILES}
    work = build_work(layout, range(layout.num_rows), **tiling, finds_runs=True)
    for _, _, row_start, past_len, _, _, _, _, _, first_tile, end_tile in work.items.tolist():
        keys = range(first_tile * TILE_KEYS, end_tile * TILE_KEYS)
        tokens = [int(layout.token_index[row_start + key - past_len]) for key in keys]
        assert not keys or keys.start >= past_len
        assert tokens == list(range(tokens[0], tokens[0] + len(keys))) if keys else tokens == []


def test_the_longest_run_of_each_row_is_found() -> None:
    """Two pictures between markers, as the packer lays them out, and a prompt of words alone."""
    layout = replace(
        layout_of(denoise(5, 4), denoise(9, 3), Row(0, (Segment(SegmentKind.TEXT, 3),))),
        token_index=np.array([0, 7, 8, 9, 10, 1, 2, 11, 12, 13, 3, 4, 5, 6], dtype=np.int32),
    )
    begin, end = longest_runs(layout, range(3))
    assert (begin.tolist(), end.tolist()) == ([1, 1, 0], [5, 4, 3])
    assert [bounds.tolist() for bounds in longest_runs(layout, range(1, 2))] == [[1], [4]]


def test_the_longest_item_comes_first() -> None:
    work = build_work(layout_of(denoise(50, 10), denoise(5, 90)), range(2), tile_queries=3, tile_keys=8, split_tiles=100)
    lengths = work.items[:, 7] - work.items[:, 5]
    assert (np.diff(lengths) <= 0).all()


def test_a_short_row_over_many_keys_is_split_and_its_slots_are_its_own() -> None:
    work = build_work(layout_of(decode(100), decode(10), decode(60)), range(3), tile_queries=1, tile_keys=8, split_tiles=4)
    assert work.merges.tolist() == [[0, 1, 0, 4], [2, 1, 4, 2]]
    assert work.num_slots == 6
    assert sorted(work.items[:, 8].tolist()) == [WHOLE, *range(6)]


def test_how_a_row_is_split_does_not_depend_on_the_others() -> None:
    alone = build_work(layout_of(decode(100)), range(1), tile_queries=1, tile_keys=8, split_tiles=4)
    beside = build_work(layout_of(decode(100), *[decode(900)] * 5), range(6), tile_queries=1, tile_keys=8, split_tiles=4)
    assert alone.merges[0].tolist() == beside.merges[0].tolist()


def test_a_row_of_many_query_tiles_is_not_split() -> None:
    row = denoise(1000, TILE_QUERIES * MAX_SPLIT_QUERY_TILES)
    work = build_work(layout_of(row), range(1), tile_queries=TILE_QUERIES, tile_keys=8, split_tiles=4)
    assert work.num_slots == 0
    assert len(work.items) == MAX_SPLIT_QUERY_TILES + 1


def test_rows_before_and_after_the_range_have_no_items() -> None:
    layout = layout_of(decode(5), decode(9), Row(3, (Segment(SegmentKind.TEXT, 7),)))
    work = build_work(layout, range(1, 2), tile_queries=2, tile_keys=8, split_tiles=4)
    assert work.items[:, :2].tolist() == [[1, 1]]
    assert len(build_work(layout, range(1, 1), tile_queries=2, tile_keys=8, split_tiles=4).items) == 0


def test_the_device_gets_the_lists_as_they_are_and_once() -> None:
    layout = layout_of(decode(100), decode(10))
    host = build_work(layout, range(2), tile_queries=1, tile_keys=8, split_tiles=4)
    on_device = upload(host, torch.device("cpu"), len(host.items), len(host.merges))
    assert on_device.items.tolist() == host.items.tolist()
    assert on_device.merges.tolist() == host.merges.tolist()
    assert (int(on_device.num_items), int(on_device.num_merges), on_device.num_slots) == (len(host.items), len(host.merges), host.num_slots)


@given(ragged_cases(max_rows=2, max_segment=4))
@settings(max_examples=3, deadline=None)
def test_a_plan_remembers_its_work(case: RaggedCase) -> None:
    rows = range(case.plan.layout.num_rows)
    first = device_work(case.plan, rows, tile_queries=3, tile_keys=8, split_tiles=2)
    assert device_work(case.plan, rows, tile_queries=3, tile_keys=8, split_tiles=2) is first
    assert device_work(case.plan, rows, tile_queries=2, tile_keys=8, split_tiles=2) is not first


def test_arrays_that_are_put_together_arrive_as_they_were() -> None:
    """As they go to a GPU, all in one copy: 64-bit ones, views of others, empty ones."""
    arrays = [np.arange(3) << 40, np.arange(9, dtype=np.int32)[::2], np.empty(0, dtype=np.int32), np.array([7], dtype=np.int32)]
    for array, tensor in zip(arrays, put_together(arrays, torch.device("cpu")), strict=True):
        assert tensor.numpy().dtype == array.dtype and (tensor.numpy() == array).all()
