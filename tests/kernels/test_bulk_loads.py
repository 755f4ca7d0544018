"""Key tiles loaded in bulk where their keys stand together, and key by key where they do not: the same attention."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kernels import reference
from kernels.attention_launch import Tiles, attend_with_tiles
from kernels.key_tiles import NO_TILES, own_tiles, page_tiles
from kernels.kv_pages import KvPages, KvScales
from kernels.tiles import BULK_DECODE, BULK_LONG, PIECE
from tests.kernels.accuracy import assert_close_to_float64
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, Shape, build_case, decode, denoise, rows_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEXT, IMAGE = SegmentKind.TEXT, SegmentKind.IMAGE
TILES = Tiles(BULK_DECODE, BULK_LONG)
NARROW = Tiles(BULK_DECODE, replace(BULK_LONG, keys=PIECE))
"""Tiles of as few keys as there may be: short rows have many."""
LONG_RUN = 10_000
"""Tokens stand together as far as the packed batch goes."""


def check(case: RaggedCase, dtype: torch.dtype, tiles: Tiles) -> None:
    rounded = case.to(dtype, DEVICE)
    expected = reference.interleaved_attention(*case.to(dtype).to(torch.float64).call)
    assert_close_to_float64(attend_with_tiles(*rounded.call, tiles), expected)


@st.composite
def cases(draw: st.DrawFn) -> RaggedCase:
    """Rows that are runs of any length, over pages that hold whole tiles and pages that do not, under any bounds."""
    shape = Shape(1, draw(st.sampled_from([1, 4])), draw(st.sampled_from([16, 64, 72])), draw(st.sampled_from([16, 32, 64, 128])))
    rows = draw(st.lists(rows_of(shape.page_size, 70), min_size=1, max_size=2))
    case = build_case(rows, shape, draw(st.integers(0, 2**31)), draw(st.sampled_from([1, 100, LONG_RUN])))
    return case.with_any_bounds(draw(st.integers(0, 2**31))) if draw(st.booleans()) else case


@pytest.mark.parametrize("tiles", [TILES, NARROW], ids=["128 keys", "32 keys"])
@settings(max_examples=10, deadline=None)
@given(case=cases())
def test_attention_of_any_ragged_batch_equals_its_reference(tiles: Tiles, case: RaggedCase) -> None:
    check(case, torch.float32, tiles)


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 72), (torch.float16, 64), (torch.bfloat16, 128)])
def test_a_mixed_batch_equals_its_reference_in_every_dtype(dtype: torch.dtype, head_dim: int) -> None:
    rows = [decode(0), decode(200), denoise(20, 150), Row(140, (Segment(TEXT, 20), Segment(IMAGE, 160), Segment(TEXT, 3)))]
    check(build_case(rows, Shape(2, 4, head_dim, page_size=64), seed=head_dim, longest_run=400), dtype, TILES)


# Markers stand elsewhere, as in the packed batch of a picture: the run begins behind the first and ends before the last.
@pytest.mark.parametrize("past_len", [0, 1, 64, 126, 127, 128])
@pytest.mark.parametrize("num_latents", [127, 128, 129, 256])
def test_a_run_may_begin_and_end_anywhere_in_a_tile(past_len: int, num_latents: int) -> None:
    case = build_case([denoise(past_len, num_latents)], Shape(1, 1, 16, page_size=64), seed=past_len)
    num = num_latents + 2
    case.plan.layout.token_index[:] = [0, *range(2, num), 1]
    check(case, torch.float32, TILES)


@pytest.mark.parametrize("page_size", [16, 64, 128])
def test_rows_over_many_keys_are_split_and_merged(page_size: int) -> None:
    rows = [decode(600), Row(700, (Segment(TEXT, 3),)), Row(0, (Segment(IMAGE, 60), Segment(TEXT, 560)))]
    check(build_case(rows, Shape(1, 1, 16, page_size), seed=page_size, longest_run=LONG_RUN), torch.float32, TILES)


def test_own_tokens_are_loaded_in_bulk_beside_8_bit_pages() -> None:
    case = build_case([decode(200), denoise(140, 150)], Shape(1, 4, 64, 64), seed=1, longest_run=LONG_RUN)
    rounded = case.to(torch.float32).in_fp8_pages(KvScales(2.0**-6, 2.0**-4))
    expected = reference.interleaved_attention(*replace(rounded, qkv=rounded.qkv.double()).call)
    assert_close_to_float64(attend_with_tiles(*rounded.on(DEVICE).call, TILES), expected)


def test_a_row_gives_the_same_bits_alone_and_in_company() -> None:
    rows = [decode(300), Row(40, (Segment(TEXT, 9),)), denoise(64, 300)]
    case = build_case(rows, Shape(1, 4, 64, page_size=64), seed=3, longest_run=200).to(torch.float32, DEVICE)
    together = attend_with_tiles(*case.call, TILES)
    for row in range(len(rows)):
        tokens = case.tokens_of_row(row)
        assert torch.equal(attend_with_tiles(*case.alone(row).call, TILES)[tokens], together[tokens])


def test_heads_whose_rows_no_bulk_copy_takes_are_loaded_key_by_key() -> None:
    """Rows of 3 heads of 20 half floats are 120 bytes, and no multiple of 16."""
    case = build_case([decode(64), denoise(64, 300)], Shape(1, 1, 20, page_size=64), seed=2, longest_run=LONG_RUN).to(torch.float16)
    assert own_tiles(case.k, case.v, 64, 32) == NO_TILES
    check(case, torch.float16, TILES)


def test_pages_that_hold_no_whole_tiles_and_8_bit_pages_are_not_loaded_in_bulk() -> None:
    case = build_case([decode(300)], Shape(2, 7, 64, page_size=96), seed=4).to(torch.float32)
    assert page_tiles(case.pages, 64, 64) == page_tiles(case.in_fp8_pages(KvScales(1.0, 1.0)).pages, 32, 64) == NO_TILES
    assert page_tiles(case.pages, 32, 64) != NO_TILES
    every_other = KvPages(case.k_pages[::2], case.v_pages[::2])
    assert page_tiles(every_other, 32, 64) == NO_TILES


def test_a_tile_is_described_as_it_lies_in_the_fused_projection() -> None:
    case = build_case([denoise(0, 62)], Shape(2, 7, 72, page_size=16), seed=5).to(torch.bfloat16)
    for described, x in zip(own_tiles(case.k, case.v, 128, 128), (case.k, case.v), strict=True):
        assert described is not None and described.base.data_ptr() == x.data_ptr()
        assert described.shape == [2, 64, 72] and described.block_shape == [1, 128, 128]
        assert described.strides == [72, 18 * 72, 1]
